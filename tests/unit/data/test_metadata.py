import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest

from artart import ArtError
from artart.data.find import find_all
from artart.data.metadata import Metadata, allowed, read

ROOT = Path("/images/art")  # nothing needs to lie there: only names count
NAMES = ("drawing/a.jpg", "drawing/1900/b.jpg", "painting/c.jpg")
ODD_NAMES = (
    "Figur2@A Gentleman of France.jpg",
    "a' plum park in Kameido Utagawa Hiroshige.jpeg",
    'The "Great" Wave, 1831.jpg',
    "Vol10_CésarBirotteau_IC.png",
    "神奈川沖浪裏 #1; 50 % [detail].jpg",
    "two\nlines.jpg",
    "two\r\nlines.jpg",
)


def images(*names: str, root: Path = ROOT) -> list[Path]:
    return [root / name for name in names or NAMES]


def table(folder: Path, text: str | bytes, name: str = "art.csv") -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def lines(*rows: str) -> str:
    return "".join(row + "\n" for row in rows)


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def read_text(tmp_path: Path, text: str | bytes) -> Metadata:
    return read(table(tmp_path, text), ROOT, images())


def complaint(tmp_path: Path, text: str | bytes) -> str:
    """What follows the name of the file."""
    with pytest.raises(ArtError) as caught:
        read_text(tmp_path, text)
    message = str(caught.value)
    start = f"data.metadata={tmp_path / 'art.csv'}: "
    assert message.startswith(start)
    assert len(message.splitlines()) == 1
    return message.removeprefix(start)


# --- real tables


@pytest.fixture
def real(art_files: list[Path], tmp_path: Path) -> Path:
    """A folder with `art`, images by their class, `art.csv`, their table, and `more`, of no row of it."""
    root = art_files[0].parents[1]
    shutil.copytree(root, tmp_path / "art", ignore=shutil.ignore_patterns("*.csv"))
    (tmp_path / "more").mkdir()
    shutil.copy(art_files[0], tmp_path / "more" / "other.jpg")
    header, *rows = csv.reader((root / "sources.csv").read_text().splitlines())
    with (tmp_path / "art.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "class", *header[1:]])
        table.writerows([f"art/{name}", name.split("/")[0], *more] for name, *more in rows)
    return tmp_path


@pytest.mark.parametrize(("root", "num_rows"), [("art", 40), (".", 40), ("art/painting", 11)])
def test_a_real_table_fits_each_root(root: str, num_rows: int, real: Path) -> None:
    files = find_all(real / root).images
    metadata = read(real / "art.csv", real / root, files)
    assert len(metadata.rows) == num_rows
    assert metadata.only_in_file == []
    assert metadata.only_in_folder == [path for path in files if path.parent.name == "more"]
    for path, row in metadata.rows.items():
        assert path == real / row["path"]
        assert row["class"] == path.parent.name


def test_a_real_table_holds_classes_and_licences(real: Path) -> None:
    art = read(real / "art.csv", real / "art", find_all(real / "art").images)
    assert art.columns == ("path", "class", "title", "artist", "licence", "source")
    assert Counter(row["class"] for row in art.rows.values()) == {
        "painting": 11,
        "engraving": 11,
        "drawing": 9,
        "woodblock": 6,
        "sculpture": 3,
    }
    assert sum(allowed(row["licence"], ["*CC0*"]) for row in art.rows.values()) == 31
    assert sum(allowed(row["licence"], ["usda *: us government work*"]) for row in art.rows.values()) == 9


def test_a_root_that_is_none_of_the_tables_says_so(real: Path, odd_files: Path) -> None:
    with pytest.raises(ArtError, match=r"art\.csv: no path in it names an image below data\.root=.*odd: it has 'art/"):
        read(real / "art.csv", odd_files, find_all(odd_files).images)


def test_odd_names_are_found(odd_files: Path, tmp_path: Path) -> None:
    files = find_all(odd_files).images
    text = lines("path,title", *(f"{quoted(path.name)},{quoted(path.stem)}" for path in files))
    metadata = read(table(tmp_path, text), odd_files, files)
    assert {path: row["title"] for path, row in metadata.rows.items()} == {path: path.stem for path in files}


# --- rows and images


def test_rows_are_held_against_the_images(tmp_path: Path) -> None:
    metadata = read_text(tmp_path, lines("path,class,year", "painting/c.jpg,oil,1889", "gone.jpg,,", "drawing/a.jpg,,"))
    assert metadata == Metadata(
        rows={
            ROOT / "painting/c.jpg": {"path": "painting/c.jpg", "class": "oil", "year": "1889"},
            ROOT / "drawing/a.jpg": {"path": "drawing/a.jpg", "class": "", "year": ""},
        },
        only_in_file=["gone.jpg"],
        only_in_folder=[ROOT / "drawing/1900/b.jpg"],
        columns=("path", "class", "year"),
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_any_name_can_be_written(delimiter: str, tmp_path: Path) -> None:
    text = lines(f"path{delimiter}title", *(f"{quoted(name)}{delimiter}{quoted(name)}" for name in ODD_NAMES))
    metadata = read(table(tmp_path, text), ROOT, images(*ODD_NAMES))
    assert metadata.rows == {ROOT / name: {"path": name, "title": name} for name in ODD_NAMES}
    assert metadata.only_in_file == metadata.only_in_folder == []


def test_paths_may_be_relative_to_the_folder_of_the_table(tmp_path: Path) -> None:
    files = images(root=tmp_path / "art")
    file = table(tmp_path / "notes", lines("path", *(f"../art/{name}" for name in NAMES), "../art/gone.jpg"))
    metadata = read(file, tmp_path / "art", files)
    assert list(metadata.rows) == files
    assert metadata.only_in_file == ["../art/gone.jpg"]


def test_the_base_under_which_more_is_found_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "art"
    files = images("a.jpg", "art/a.jpg", "art/b.jpg", root=root)
    metadata = read(table(tmp_path, lines("path", "art/a.jpg", "art/b.jpg")), root, files)
    assert list(metadata.rows) == [root / "art/a.jpg", root / "art/b.jpg"]
    metadata = read(table(tmp_path, lines("path", "art/a.jpg", "art/art/a.jpg")), root, files)
    assert list(metadata.rows) == [root / "a.jpg", root / "art/a.jpg"]


def test_in_doubt_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    root = tmp_path / "art"
    files = images("a.jpg", "art/a.jpg", root=root)
    assert list(read(table(tmp_path, lines("path", "art/a.jpg")), root, files).rows) == [root / "art/a.jpg"]


def test_absolute_paths_hold_beside_relative_ones(tmp_path: Path) -> None:
    metadata = read_text(tmp_path, lines("path", *(str(ROOT / name) for name in NAMES[:2]), NAMES[2], "/images/x.jpg"))
    assert list(metadata.rows) == images()
    assert metadata.only_in_file == []


def test_rows_outside_the_root_are_passed_over(tmp_path: Path) -> None:
    outside = ("../old/a.jpg", "../art2/a.jpg", "/elsewhere/a.jpg", "drawing/../../x.jpg", "..\\old\\a.jpg", ".")
    text = lines("path,title", f"{NAMES[0]},", *(f"{name},1" for name in outside), "../old/a.jpg,2")
    assert read_text(tmp_path, text).only_in_file == []


def test_the_root_may_be_that_of_the_file_system(tmp_path: Path) -> None:
    metadata = read(table(tmp_path, lines("path", "art/a.jpg", "art/gone.jpg")), Path("/"), [Path("/art/a.jpg")])
    assert list(metadata.rows) == [Path("/art/a.jpg")]
    assert metadata.only_in_file == ["art/gone.jpg"]


@pytest.mark.parametrize(
    "path",
    [
        "./drawing//1900/./b.jpg",
        "painting/../drawing/1900/b.jpg",
        "/images//art/drawing/1900/b.jpg",
        "//images/art/drawing/1900/b.jpg",
        "drawing\\1900\\b.jpg",
        "..\\art\\drawing/1900\\b.jpg",
        " drawing/1900/b.jpg ",
    ],
)
def test_other_spellings_of_a_path_are_understood(path: str, tmp_path: Path) -> None:
    metadata = read_text(tmp_path, lines("path,class", f"{path},x", "drawing/a.jpg,"))
    assert list(metadata.rows) == [ROOT / "drawing/1900/b.jpg", ROOT / "drawing/a.jpg"]


def test_a_backslash_or_a_space_that_belongs_to_a_name_is_kept(tmp_path: Path) -> None:
    files = images("a\\b.jpg", "a/b.jpg", "c.jpg ", "c.jpg")
    assert list(read(table(tmp_path, lines("path", "a\\b.jpg", "c.jpg ")), ROOT, files).rows) == [files[0], files[2]]


def test_relative_roots_and_files_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = images(root=Path("art"))
    table(tmp_path, lines("path", f"art/{NAMES[0]}", str(tmp_path / "art" / NAMES[1]), "art/gone.jpg"))
    metadata = read(Path("art.csv"), Path("art"), files)
    assert list(metadata.rows) == files[:2]
    assert metadata.only_in_file == ["art/gone.jpg"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "art").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to("/")
    root = tmp_path / "art"
    metadata = read(table(root, lines("path", "up/../a.jpg")), root, images("a.jpg", root=root))
    assert list(metadata.rows) == [root / "a.jpg"]


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_unicode_forms_are_equal(
    written: Literal["NFC", "NFD"], on_disk: Literal["NFC", "NFD"], tmp_path: Path
) -> None:
    root = Path(normalize(on_disk, "/é/art"))
    image = root / normalize(on_disk, "César/ガ.jpg")
    missing = normalize(written, "/é/art/César/gone.jpg")
    text = normalize(written, lines("path", "/é/art/César/ガ.jpg", missing))
    metadata = read(table(tmp_path, text), root, [image])
    assert list(metadata.rows) == [image]
    assert metadata.only_in_file == [missing]


def test_names_that_differ_in_their_unicode_form_only_are_kept_apart(tmp_path: Path) -> None:
    names = [normalize("NFC", "é.jpg"), normalize("NFD", "é.jpg")]
    metadata = read(table(tmp_path, lines("path,title", f"{names[0]},1", f"{names[1]},2")), ROOT, images(*names))
    assert [metadata.rows[ROOT / name]["title"] for name in names] == ["1", "2"]


def test_rows_that_repeat_each_other_are_one(tmp_path: Path) -> None:
    rows = ("drawing/a.jpg,ink", "./drawing/a.jpg,ink", "drawing/a.jpg,ink", "gone.jpg,oil", "gone.jpg,oil")
    metadata = read_text(tmp_path, lines("path,class", *rows))
    assert metadata.rows == {ROOT / "drawing/a.jpg": {"path": "drawing/a.jpg", "class": "ink"}}
    assert metadata.only_in_file == ["gone.jpg"]


@pytest.mark.parametrize("path", ["drawing/a.jpg", "gone.jpg"])
def test_rows_that_contradict_each_other_are_reported_with_their_lines(path: str, tmp_path: Path) -> None:
    text = lines("path,class,title", "painting/c.jpg,oil,", f'{path},ink,"two', 'lines"', "", f"./{path},pencil,")
    assert complaint(tmp_path, text) == f"lines 3 and 6 differ about './{path}'; keep one"


# --- columns


def test_names_of_columns_are_lower_case_without_spaces(tmp_path: Path) -> None:
    metadata = read_text(tmp_path, lines(" Title , PATH,License ,Class", "A,drawing/a.jpg,CC0, ink"))
    assert metadata.columns == ("title", "path", "licence", "class")
    row = metadata.rows[ROOT / "drawing/a.jpg"]
    assert (row["title"], row["licence"], row["class"]) == ("A", "CC0", "ink")


def test_cells_and_columns_may_be_missing(tmp_path: Path) -> None:
    metadata = read_text(tmp_path, lines("path,title,class", "drawing/a.jpg", "", ",,", "painting/c.jpg,C"))
    assert [row["title"] for row in metadata.rows.values()] == ["", "C"]
    assert [row["class"] for row in metadata.rows.values()] == ["", ""]
    metadata = read_text(tmp_path, lines("path", "drawing/a.jpg"))
    assert metadata.columns == ("path",)


def test_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    metadata = read_text(tmp_path, lines(",path,,", "0,drawing/a.jpg,x,y", "1,drawing/a.jpg,,"))
    assert metadata.columns == ("path",)
    assert list(metadata.rows.values()) == [{"path": "drawing/a.jpg"}]


def test_the_delimiter_is_that_of_the_header(tmp_path: Path) -> None:
    metadata = read_text(tmp_path, lines('"path";"a,b,c\td"', '"drawing/a.jpg";"x, y, z"'))
    assert list(metadata.rows.values()) == [{"path": "drawing/a.jpg", "a,b,c d": "x, y, z"}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n", "\ufeff\n"], ids=repr)
def test_every_end_of_line_and_a_byte_order_mark_are_understood(start: str, end: str, tmp_path: Path) -> None:
    text = (start + lines("path,title", "drawing/a.jpg,é", 'painting/c.jpg, "C, c"')).replace("\n", end)
    assert [row["title"] for row in read_text(tmp_path, text).rows.values()] == ["é", "C, c"]


BAD = {
    "no path": (lines("file,title", "a,b"), 'no column is named "path"; there are: file, title'),
    "no path, other delimiter": (lines("file;Title", "a;b"), 'no column is named "path"; there are: file, title'),
    "one long line": ("x, " * 9999, 'no column is named "path"; there are: x, x, '),
    "no table": ('{"path": "a.jpg"}\n' * 9, 'no column is named "path"; there are: {"path": "a.jpg"}'),
    "path twice": (lines("path,Path", "a,b"), "several columns are named 'path'; leave one"),
    "licence twice": (lines("path,license,licence", "a,b,c"), "several columns are named 'licence'; leave one"),
    "empty": ("", 'empty file; it needs a column "path" and a row for each image'),
    "blank": ("\ufeff \r\n\n", 'empty file; it needs a column "path" and a row for each image'),
    "no rows": (lines("path,title", "", ","), "no rows below the names of the columns; add one for each image"),
    "empty path": (lines("path,title", "a.jpg,", '" ",A'), "line 3: no path; name an image there or remove the line"),
    "ragged": (
        lines("path,title", '"a.jpg","two', 'lines"', "b.jpg,Armour, blue"),
        "line 4: 3 cells for 2 columns; put a cell that holds a ',' in quotes",
    ),
    "open quote": (
        lines("path,title", "a.jpg,A", 'b.jpg,"B', "c.jpg,C"),
        "line 3: unexpected end of data; look at its",
    ),
    "huge cell": (
        lines("path,title", 'a.jpg,"' + "A\n" * 99999),
        "line 2: field larger than field limit (131072); look",
    ),
    "huge header": ("x" * 200_000, "line 1: field larger than field limit (131072); look at its quotes"),
    "stray quote": (lines("path,title", 'a.jpg,"A" B'), "line 2: ',' expected after '\"'; look at its quotes"),
    "UTF-16 without its mark": (
        "path\na.jpg\n".encode("utf-16-le"),
        "line 1 holds NUL bytes, so it is no UTF-8; save it as UTF-8",
    ),
    "spreadsheet": (b"PK\x03\x04\x14\x00\x08\xff", "line 1 is not valid UTF-8; save the file as UTF-8"),
    "none found": (
        lines("path", "images/a\n.jpg", "b.jpg"),
        "no path in it names an image below data.root=/images/art: it has 'images/a', the folder has "
        "'drawing/a.jpg'; make its paths relative to data.root or to its own folder",
    ),
}


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD)
def test_a_table_that_cannot_be_used_is_refused_with_a_remedy(text: str | bytes, expected: str, tmp_path: Path) -> None:
    message = complaint(tmp_path, text)
    assert message.startswith(expected)
    assert len(message) < 300


def test_a_table_that_cannot_be_read_is_refused_with_a_remedy(tmp_path: Path) -> None:
    for file, reason in ((tmp_path / "gone.csv", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ArtError) as caught:
            read(file, ROOT, images())
        assert str(caught.value) == f"data.metadata={file}: {reason}; name a file that can be read"


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_table_may_have_the_encoding_of_a_spreadsheet(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "art.csv").write_bytes("path,title\ndrawing/a.jpg,César\n".encode(encoding))
    (row,) = read(tmp_path / "art.csv", ROOT, images()).rows.values()
    assert row["title"] == "César"


# --- licences


@pytest.mark.parametrize(
    ("licence", "licences", "expected"),
    [
        ("CC0", ["CC0"], True),
        (" cc0\n", ["CC-BY", " Cc0 "], True),
        ("CC0 1.0", ["CC0"], False),
        ("CC0 1.0", ["CC0*"], True),
        ("Not CC0", ["CC0*"], False),
        ("Public domain by age", ["CC0*", "public Domain*"], True),
        ("CC BY 4.0", ["CC BY ?.0"], True),
        ("[CC0] see note", ["[CC0] see note"], True),
        ("C see note", ["[CC0] see note"], True),
        ("two\nlines", ["two*"], True),
        ("CC BY-NC", ["CC0", "CC BY"], False),
        ("CC0", [], False),
        ("", ["*", ""], False),
        (" \t", ["*", " "], False),
        ("any", ["*"], True),
    ],
)
def test_a_licence_is_allowed_if_one_of_the_list_fits(licence: str, licences: list[str], expected: bool) -> None:
    assert allowed(licence, licences) is expected
