from pathlib import Path
from unicodedata import normalize

import pytest

from artart.data.find import find_all
from artart.data.opt_out import file_beside, names_of, read_list, warn_of_unused_files

PATH, ARTIST, DIGEST = "Études/à/Été.PNG", "Hélène Õ", "ab12"


@pytest.mark.parametrize("line", ["Études/à/Été.png", ".\\ÉTUDES\\à", "études/", "hélène õ", "AB12"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_line_names_an_image_however_case_and_accents_are_written(line: str, form: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(normalize(form, line), encoding="utf-8")
    (only,) = read_list(tmp_path / "list.txt").lines
    for other in ("NFC", "NFD"):
        assert only in names_of(normalize(other, PATH), normalize(other, ARTIST), DIGEST)


def test_files_beside_images_count_in_any_case_and_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = {"a.jpg": "A.OPTOUT", "Bé.JPG": normalize("NFD", "bé.jpg.OptOut"), "c.png": "c.optout", "d.nef": "d.optout"}
    for name in (*pairs, *pairs.values(), "c.png.optout", "gone.optout", "e.png"):
        (tmp_path / name).write_bytes(b"")
    found = find_all(tmp_path)
    for name in pairs | {"e.png": ""}:
        assert file_beside(tmp_path / name, found.opt_outs) == pairs.get(name, "")
    warn_of_unused_files(found.opt_outs, (*found.images, *found.others))
    (message,) = (record.getMessage() for record in caplog.records)
    assert message == f"1 files *.optout are beside no image of their name, such as {tmp_path / 'gone.optout'}"
