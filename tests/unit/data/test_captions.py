"""Captions from every source, in the encodings that people have."""

import json
from pathlib import Path
from unicodedata import normalize

import pytest

from artart import ArtError
from artart.data.captions import captions_of, clean, words_in
from artart.data.folder import ArtFolder
from artart.data.settings import DataSettings
from artart.io.files import read_text

ROWS = (
    "path,class,artist,year,title",
    "a/1.jpg,apple,Newton,1905,Gala",
    "a/2.jpg,apple,,1906,",
    "b/3.jpg,pear,Passmore,,A pear",
)
TABLE = "\n".join(ROWS)


@pytest.fixture
def folder(tmp_path: Path):
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()  # nothing is decoded

    def make(table: str | None = None) -> ArtFolder:
        file = tmp_path.parent / f"{tmp_path.name}.csv"
        if table:
            file.write_text(table)
        return ArtFolder(DataSettings(tmp_path, 16, metadata=file if table else None))

    return make


def read(folder: ArtFolder, *sources: str) -> dict[str, tuple[str, ...]]:
    found = captions_of(folder, sources)
    return {path.name: texts for path, texts in sorted(found.texts.items())}


def test_a_template_leaves_out_images_with_an_empty_cell(folder):
    one = folder(TABLE)
    assert read(one, "{class} by {artist}") == {"1.jpg": ("apple by Newton",), "3.jpg": ("pear by Passmore",)}
    assert read(one, "{class} by {artist}", "{class}")["1.jpg"] == ("apple by Newton", "apple")
    assert read(one, "{class} by {artist}", "{class}")["2.jpg"] == ("apple",)
    assert read(one, "{{{class}}}")["1.jpg"] == ("{apple}",)


def test_a_column_is_a_caption_and_empty_cells_are_counted(folder):
    found = captions_of(folder(TABLE), ["title"])
    assert sorted(found.texts.values()) == [("A pear",), ("Gala",)]
    assert (found.source, found.num_empty) == ("title", 1)
    assert read(folder(TABLE), "Title") == read(folder(TABLE), "title")


def test_without_a_table_a_template_knows_the_folders(folder):
    assert read(folder(), "a {class}") == {"1.jpg": ("a a",), "2.jpg": ("a a",), "3.jpg": ("a b",)}


@pytest.mark.parametrize("name", ["1.txt", "1.jpg.txt", "1.TXT"])
def test_a_text_beside_an_image_has_a_caption_in_each_line(folder, tmp_path, name):
    (tmp_path / "a" / name).write_text("An apple\n\n  on \t paper \r\nAn apple\n")
    assert read(folder(), "txt") == {"1.jpg": ("An apple", "on paper")}


def test_a_text_beside_an_image_is_found_however_its_accents_are_written(folder, tmp_path):
    (tmp_path / "a" / normalize("NFD", "à.jpg")).touch()
    (tmp_path / "a" / normalize("NFC", "À.txt")).write_text("a peach")
    assert read(folder(), "txt") == {normalize("NFD", "à.jpg"): ("a peach",)}


def test_lines_of_json_name_images_relative_to_their_folder(folder, tmp_path):
    lines = [{"file_name": "a/1.jpg", "text": "one"}, {"file_name": "b/3.jpg", "text": ["three", "a pear"]}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    (tmp_path / "a" / "metadata.jsonl").write_text(json.dumps({"file_name": "2.jpg", "text": "two"}))
    (tmp_path.parent / "metadata.jsonl").write_text("outside of the folder, so not read")
    assert read(folder(), "jsonl") == {"1.jpg": ("one",), "2.jpg": ("two",), "3.jpg": ("three", "a pear")}


def test_a_line_of_json_may_hold_separators_of_lines(folder, tmp_path):
    line = json.dumps({"file_name": "a/1.jpg", "text": "one\u2028two\x85three"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_bytes(f"{line}\r\n{line}\r\n".encode())
    assert read(folder(), "jsonl") == {"1.jpg": ("one two three",)}


def test_lines_of_json_name_images_whose_accents_are_written_apart(folder, tmp_path):
    (tmp_path / normalize("NFD", "pêches")).mkdir()
    (tmp_path / normalize("NFD", "pêches/à.jpg")).touch()
    line = {"file_name": normalize("NFC", "pêches/à.jpg"), "text": "a peach"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line))
    assert read(folder(), "jsonl") == {normalize("NFD", "à.jpg"): ("a peach",)}
    assert read(folder(), "{class}")[normalize("NFD", "à.jpg")] == (normalize("NFC", "pêches"),)


def test_auto_takes_texts_then_json_then_a_column(folder, tmp_path):
    assert captions_of(folder(TABLE), ["auto"]).source == "title"
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a/1.jpg", "text": "one"}))
    assert captions_of(folder(TABLE), ["auto"]).source == "jsonl"
    (tmp_path / "a" / "1.txt").write_text("an apple")
    assert captions_of(folder(TABLE), ["auto"]).source == "txt"
    assert read(folder(TABLE), "auto", "title")["1.jpg"] == ("an apple", "Gala")


def test_auto_takes_no_column_for_the_files_of_its_name(folder):
    assert captions_of(folder("path,txt,jsonl,caption\na/1.jpg,x,y,an apple\n"), ["auto"]).source == "caption"


MISTAKES = {
    "no source at all": (None, ["auto"], "no text beside an image, no metadata.jsonl, and there is no table"),
    "no column by which to find them": ("path,class\na/1.jpg,x\n", ["auto"], "name a column, or a template"),
    "a column without a table": (None, ["title"], "title needs a table with that column: data.metadata=FILE.csv"),
    "a column that is missing": (TABLE, ["tilte"], "tilte is no column; .* has class, path, artist, year, title"),
    "a field that is missing": (TABLE, ["{class} by {painter}"], "painter is no column"),
    "a field without a name": (TABLE, ["{} by {artist}"], "{} is no column"),
    "a brace that is not closed": (TABLE, ["{class"], "a template is a text such as"),
    "a brace that is not opened": (TABLE, ["{class}}"], "a template is a text such as"),
    "an attribute": (TABLE, ["{class.__init__}"], "class.__init__ is no column"),
    "no texts": (None, ["txt"], "no image below .* has one"),
}


@pytest.mark.parametrize(("table", "sources", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_source_that_is_missing_is_a_sentence(folder, table, sources, message):
    with pytest.raises(ArtError, match=message) as error:
        captions_of(folder(table), sources)
    assert "\n" not in str(error.value)


LINES = [
    "{text: 1}",
    "[1]",
    '{"text": "x"}',
    '{"file_name": "a/1.jpg", "text": 3}',
    '{"file_name": "a/1.jpg", "text": [3]}',
]


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line_of_json_is_named(folder, tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a/1.jpg", "text": "one"}}\n{line}\n')
    with pytest.raises(ArtError, match='line 2: must be a JSON object of "file_name" and "text"'):
        captions_of(folder(), ["jsonl"])


TEXT = "Äpfel, “red”\nzwei\r\n"
ENCODINGS = {
    "UTF-8": TEXT.encode(),
    "UTF-8 with a mark": TEXT.encode("utf-8-sig"),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "Windows-1252": TEXT.encode("cp1252"),
}


@pytest.mark.parametrize("content", ENCODINGS.values(), ids=ENCODINGS)
def test_texts_are_read_in_the_encodings_of_editors(tmp_path, content, caplog):
    for name in ("x.txt", "y.txt"):
        (tmp_path / name).write_bytes(content)
        assert read_text(tmp_path / name) == TEXT
    warnings = [record.getMessage() for record in caplog.records]
    another = f"{tmp_path / 'x.txt'}: read as Windows-1252; if names look wrong, save it as UTF-8"
    assert warnings == [another] * (content == ENCODINGS["Windows-1252"])


BYTES = {
    "UTF-16 without a mark": ("ab\ncd".encode("utf-16-le"), "line 1 holds NUL bytes"),
    "an image": (b"good\n\x89PNG\r\n\x1a\n\0\0\0", "line 2 is not valid UTF-8"),
    "a byte that Windows-1252 has not": (b"a\nb\n\x81\xe9", "line 3 is not valid UTF-8"),
    "UTF-16 that is cut": (b"\xff\xfea", "line 1 is not valid UTF-8"),
}


@pytest.mark.parametrize(("content", "message"), BYTES.values(), ids=BYTES)
def test_what_is_no_text_is_named_with_its_line(tmp_path, content, message):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(ArtError, match=rf"x\.txt: {message}"):
        read_text(tmp_path / "x.txt")


def test_clean_makes_one_line_of_composed_signs():
    assert clean("a\u0301 \x1b[2J\t b\u202e\n c ") == "á [2J b c"
    assert clean("\x00\x1b") == ""


def test_words_are_in_lower_case_without_signs_around_them():
    assert words_in('"Malus domestica": J. Paul\'s half-ripe (1905)') == [
        *("malus", "domestica", "j", "paul's", "half-ripe", "1905")
    ]
