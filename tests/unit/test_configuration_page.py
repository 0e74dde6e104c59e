"""docs/configuration.md is current: it holds what conf/ and the signatures say."""

import importlib.util

from artart.config.build import CONF_DIR

PAGE = CONF_DIR.parent / "docs" / "configuration.md"
spec = importlib.util.spec_from_file_location("configuration", PAGE.with_suffix(".py"))
configuration = importlib.util.module_from_spec(spec)
spec.loader.exec_module(configuration)


def test_configuration_page_is_current():
    assert PAGE.read_text() == configuration.text(), "run python docs/configuration.py > docs/configuration.md"


def test_text_gives_values_and_meaning_of_every_setting_of_artart():
    rows = [line.split("|")[1:-1] for line in configuration.text().splitlines() if line.startswith("| `")]
    ours = [row for row in rows if row[0].startswith((" `data.", " `model.", " `sampler.", " `scheduler."))]
    assert len(ours) > 50
    assert [row for row in ours if not all(cell.strip() for cell in row)] == []


def test_settings_reads_comments_of_nested_keys():
    lines = ["a:  # of all", "  b: [1, 2]   # first", "              # second", "  _target_: x", "c: null"]
    assert configuration._settings(lines) == [("a", "", "of all"), ("a.b", "[1, 2]", "first second"), ("c", "null", "")]
