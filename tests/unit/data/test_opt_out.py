from pathlib import Path
from unicodedata import normalize

import pytest

from artart.data.opt_out import names_of, read_list

PATH, ARTIST, DIGEST = "Études/à/Été.PNG", "Hélène Õ", "ab12"


@pytest.mark.parametrize("line", ["Études/à/Été.png", ".\\ÉTUDES\\à", "études/", "hélène õ", "AB12"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_line_names_an_image_however_case_and_accents_are_written(line: str, form: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(normalize(form, line), encoding="utf-8")
    (only,) = read_list(tmp_path / "list.txt").lines
    for other in ("NFC", "NFD"):
        assert only in names_of(normalize(other, PATH), normalize(other, ARTIST), DIGEST)
