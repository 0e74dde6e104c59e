"""The user's table of the images: their classes, titles, artists and licences."""

import csv
import io
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice, zip_longest
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple
from unicodedata import normalize

from artart import ArtError
from artart.io.files import read_text

log = logging.getLogger(__name__)

DELIMITERS = ",;\t"  # Excel's depend on the country

Row = tuple[int, dict[str, str]]  # line in the file, from 1; cells by column


class Metadata(NamedTuple):
    """The table, matched with the images that were found."""

    rows: dict[Path, dict[str, str]]  # cells by column, by image as it was found
    only_in_file: list[str]  # paths of the table that name no image below the root
    only_in_folder: list[Path]  # images that the table does not name
    columns: tuple[str, ...]  # in lower case; "license" is "licence"


def read(file: Path, root: Path, files: Sequence[Path]) -> Metadata:
    """Match a CSV table that has a column "path" with the images found below root, of which there is at least one.

    Its paths are absolute, or relative to root or to the table's folder, whichever matches more images; if both match
    as many, to root. Rows outside root are ignored. No link is followed.

    Raises ArtError if the table cannot be read, contradicts itself or names none of the images.
    """
    try:
        columns, table = _table(read_text(file))
    except ArtError as error:  # names the file
        raise ArtError(f"data.metadata={error}") from None
    except ValueError as error:
        raise ArtError(f"data.metadata={file}: {error}") from None
    exactly = {_normal(path.absolute()): path for path in files}
    # NFC writes accents and letters as one character; macOS separates them.
    images = {normalize("NFC", name): path for name, path in exactly.items()} | exactly
    targets = max(
        ([_locate(row["path"], str(base.absolute()), images) for _, row in table] for base in (root, file.parent)),
        key=lambda targets: sum(isinstance(target, Path) for target in targets),
    )
    below_root = normalize("NFC", _normal(root.absolute())).rstrip("/") + "/"
    kept: dict[Path | str, Row] = {}
    for target, (line, row) in zip(targets, table, strict=True):
        if isinstance(target, str) and not target.startswith(below_root):
            continue
        first, cells = kept.setdefault(target, (line, row))
        if cells | {"path": row["path"]} != row:
            raise ArtError(f"data.metadata={file}: lines {first} and {line} differ about {row['path']!r}; keep one")
    rows = {target: row for target, (_, row) in kept.items() if isinstance(target, Path)}
    if not rows:
        raise ArtError(
            f"data.metadata={file}: no path in it names an image below data.root={root}: it has "
            f"{table[0][1]['path']!r}, the folder has {str(files[0].relative_to(root))!r}; make its paths relative "
            "to data.root or to its own folder"
        )
    only_in_file = [row["path"] for target, (_, row) in kept.items() if isinstance(target, str)]
    only_in_folder = [path for path in files if path not in rows]
    return Metadata(rows, only_in_file, only_in_folder, columns)


def excluded(table: Metadata, licences: Sequence[str] | None) -> dict[Path, str]:
    """The images that the table does not name or whose licence is not allowed, with the reasons. None allows all."""
    reasons = dict.fromkeys(table.only_in_folder, "not in data.metadata")
    if licences is None:
        return reasons
    refused = {
        path: row["licence"].strip() or "none given"
        for path, row in table.rows.items()
        if not allowed(row["licence"], licences)
    }
    if refused:
        num_images = len(table.rows) + len(table.only_in_folder)
        most = "; ".join(f"{licence} ({number})" for licence, number in Counter(refused.values()).most_common(3))
        log.info("data.licences leaves out %d of %d, most often: %s", len(refused), num_images, most)
    return reasons | {path: f"not in data.licences: {licence}" for path, licence in refused.items()}


def allowed(licence: str, licences: Sequence[str]) -> bool:
    """Whether it matches one of licences, a whole text or a shell-style pattern. Case is ignored; "" matches none."""
    text = licence.strip().casefold()
    patterns = (pattern.strip().casefold() for pattern in licences)
    return bool(text) and any(text == pattern or fnmatchcase(text, pattern) for pattern in patterns)


def _locate(path: str, base: str, images: dict[str, Path]) -> Path | str:
    """The image that a path of the table names; without one, the absolute path."""
    for spelling in dict.fromkeys((path, path.strip().replace("\\", "/"))):
        target = _normal(spelling if Path(spelling).is_absolute() else f"{base}/{spelling}")
        if image := images.get(target) or images.get(normalize("NFC", target)):
            return image
    return normalize("NFC", target)


def _normal(path: str | Path) -> str:
    """Remove `..`, `.` and doubled slashes; with / on Windows too. normpath keeps two slashes at the start."""
    return Path(os.path.normpath(path)).as_posix().replace("//", "/")


def _table(text: str) -> tuple[tuple[str, ...], list[Row]]:
    """The names of the columns and the rows that are not blank. Raises ValueError if they make no sense."""
    if not text.strip():
        raise ValueError('empty file; it needs a column "path" and a row for each image')
    headers = {delimiter: _header(text, delimiter) for delimiter in DELIMITERS}
    delimiter = max(headers, key=lambda delimiter: ("path" in headers[delimiter], len(headers[delimiter])))
    columns = headers[delimiter]
    if "path" not in columns:
        raise ValueError(f'no column is named "path"; there are: {shorten(", ".join(filter(None, columns)), 200)}')
    if repeated := [name for name in columns if name and columns.count(name) > 1]:
        raise ValueError(f"several columns are named {repeated[0]!r}; leave one")
    table = []
    for line, cells in islice(_records(text, delimiter), 1, None):
        if len(cells) > len(columns):
            remedy = f"put a cell that holds a {delimiter!r} in quotes"
            raise ValueError(f"line {line}: {len(cells)} cells for {len(columns)} columns; {remedy}")
        row = dict(zip_longest(columns, cells, fillvalue=""))
        row.pop("", None)
        if not row["path"].strip():
            raise ValueError(f"line {line}: no path; name an image there or remove the line")
        table.append((line, row))
    if not table:
        raise ValueError("no rows below the names of the columns; add one for each image")
    return tuple(filter(None, columns)), table


def _header(text: str, delimiter: str) -> list[str]:
    """The names of the columns if this is the delimiter. Not strict, as it may be another."""
    _, cells = next(_records(text, delimiter, strict=False), (0, []))
    names = [" ".join(cell.lower().split()) for cell in cells]  # also line breaks become spaces
    return ["licence" if name == "license" else name for name in names]


def _records(text: str, delimiter: str, strict: bool = True) -> Iterator[tuple[int, list[str]]]:
    """The first line's number and the cells of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=strict)
    line = 1
    try:
        for cells in reader:
            if "".join(cells).strip():
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line}: {error}; look at its quotes") from None
