"""The user's own table of the images: their classes, titles, artists and licences."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice, zip_longest
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple
from unicodedata import normalize

from artart import ArtError

DELIMITERS = ",;\t"  # Excel's depend on the country


class Row(NamedTuple):
    """A row of the table."""

    line: int  # in the file, from 1
    cells: dict[str, str]  # by column


class Metadata(NamedTuple):
    """What the table says of the images that were found."""

    rows: dict[Path, dict[str, str]]  # image, as it was found, to its cells by column
    only_in_file: list[str]  # paths of the table that name no image below the root
    only_in_folder: list[Path]  # images that the table does not name
    columns: tuple[str, ...]  # in lower case; "license" is "licence"


def read(file: Path, root: Path, files: Sequence[Path]) -> Metadata:
    """Hold a table (CSV, with a column "path") against the images found below root, of which there is at least one.

    Its paths are absolute, or relative to root or to the table's folder, whichever makes more of them name images; in
    doubt, to root. Rows outside root are passed over. No link is followed.

    Raises:
        ArtError: if the table cannot be read, contradicts itself or names none of the images.
    """
    columns, table = _table(file)
    exactly = {_normal(path.absolute()): path for path in files}
    images = {_nfc(name): path for name, path in exactly.items()} | exactly
    targets = max(
        ([_locate(row.cells["path"], str(base.absolute()), images) for row in table] for base in (root, file.parent)),
        key=lambda targets: sum(isinstance(target, Path) for target in targets),
    )
    below_root = _nfc(_normal(root.absolute())).rstrip("/") + "/"
    kept: dict[Path | str, Row] = {}
    for target, row in zip(targets, table, strict=True):
        if isinstance(target, str) and not target.startswith(below_root):
            continue
        first = kept.setdefault(target, row)
        if first.cells | {"path": row.cells["path"]} != row.cells:
            raise ArtError(
                f"data.metadata={file}: lines {first.line} and {row.line} say different things of "
                f"{row.cells['path']!r}; keep one"
            )
    rows = {target: row.cells for target, row in kept.items() if isinstance(target, Path)}
    if not rows:
        raise ArtError(
            f"data.metadata={file}: no path in it names an image below data.root={root}: it has "
            f"{table[0].cells['path']!r}, the folder has {str(files[0].relative_to(root))!r}; make its paths relative "
            "to data.root or to its own folder"
        )
    only_in_file = [row.cells["path"] for target, row in kept.items() if isinstance(target, str)]
    return Metadata(rows, only_in_file, [path for path in files if path not in rows], columns)


def name_in(row: dict[str, str], column: str) -> str:
    """What a column of it says; empty if that is missing."""
    return row.get(column, "").strip()


def allowed(licence: str, licences: Sequence[str]) -> bool:
    """Whether one of licences, a whole text or a shell-style pattern, fits; case is ignored. No licence never fits."""
    text = licence.strip().casefold()
    patterns = (pattern.strip().casefold() for pattern in licences)
    return bool(text) and any(text == pattern or fnmatchcase(text, pattern) for pattern in patterns)


def _locate(path: str, base: str, images: dict[str, Path]) -> Path | str:
    """The image that a path of the table names; if there is none, where it points."""
    for spelling in dict.fromkeys((path, path.strip().replace("\\", "/"))):
        target = _normal(spelling if spelling.startswith("/") else f"{base}/{spelling}")
        if image := images.get(target) or images.get(_nfc(target)):
            return image
    return _nfc(target)


def _normal(path: str | Path) -> str:
    """Without `..`, `.` and doubled slashes, of which normpath leaves two at the start."""
    return os.path.normpath(path).replace("//", "/")


def _nfc(path: str) -> str:
    """Accents as one character with their letter; macOS keeps them apart."""
    return normalize("NFC", path)


def _table(file: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Names of the columns; the rows that are not blank."""
    text = _text(file)
    headers = {delimiter: _header(file, text, delimiter) for delimiter in DELIMITERS}
    delimiter = max(headers, key=lambda delimiter: ("path" in headers[delimiter], len(headers[delimiter])))
    columns = headers[delimiter]
    if "path" not in columns:
        names = shorten(", ".join(filter(None, columns)), 200)
        raise ArtError(f'data.metadata={file}: no column is named "path"; there are: {names}')
    if repeated := [name for name in columns if name and columns.count(name) > 1]:
        raise ArtError(f"data.metadata={file}: several columns are named {repeated[0]!r}; leave one")
    table = []
    for line, cells in islice(_records(file, text, delimiter), 1, None):
        if len(cells) > len(columns):
            raise ArtError(
                f"data.metadata={file}: line {line}: {len(cells)} cells for {len(columns)} columns; put a cell that "
                f"holds a {delimiter!r} in quotes"
            )
        row = Row(line, dict(zip_longest(columns, cells, fillvalue="")))
        row.cells.pop("", None)
        if not row.cells["path"].strip():
            raise ArtError(f"data.metadata={file}: line {line}: no path; name an image there or remove the line")
        table.append(row)
    if not table:
        raise ArtError(f"data.metadata={file}: no rows below the names of the columns; add one for each image")
    return tuple(filter(None, columns)), table


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ArtError(f"data.metadata={file}: {error.strerror}; name a CSV file that can be read") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ArtError(f'data.metadata={file}: line {line} is not UTF-8; save it as "CSV UTF-8"') from None
    if "\0" in text:
        raise ArtError(f'data.metadata={file}: NUL bytes, so it is no text in UTF-8; save it as "CSV UTF-8"')
    if not text.strip():
        raise ArtError(f'data.metadata={file}: empty file; it needs a column "path" and a row for each image')
    return text


def _header(file: Path, text: str, delimiter: str) -> list[str]:
    """Names of the columns, if this is the delimiter; not strict, since it may be another."""
    _, cells = next(_records(file, text, delimiter, strict=False), (0, []))
    names = [" ".join(cell.lower().split()) for cell in cells]  # of any kind of space, also of line breaks
    return ["licence" if name == "license" else name for name in names]


def _records(file: Path, text: str, delimiter: str, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """Number of its first line, and cells, of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=strict)
    line = 1
    try:
        for cells in reader:
            if "".join(cells).strip():
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ArtError(f"data.metadata={file}: line {line}: {error}; look at its quotes") from None
