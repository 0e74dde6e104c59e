"""docs/configuration.md is what conf/ and the signatures say."""

from artart.config import reference
from artart.config.build import CONF_DIR


def test_configuration_page_is_current():
    page = CONF_DIR.parent / "docs" / "configuration.md"
    assert page.read_text() == reference.text(), "run python -m artart.config.reference > docs/configuration.md"


def test_reference_gives_values_and_meaning_of_every_setting_of_ours():
    rows = [line.split("|")[1:-1] for line in reference.text().splitlines() if line.startswith("| `")]
    ours = [row for row in rows if row[0].startswith((" `data.", " `model.", " `sampler.", " `scheduler."))]
    assert len(ours) > 50
    assert [row for row in ours if not all(cell.strip() for cell in row)] == []


def test_reference_reads_comments_of_nested_settings():
    lines = ["a:  # of all", "  b: [1, 2]   # first", "              # second", "  _target_: x", "c: null"]
    assert reference._settings(lines) == [("a", "", "of all"), ("a.b", "[1, 2]", "first second"), ("c", "null", "")]
