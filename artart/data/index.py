"""The index of a folder: for each file its facts and whether it is used for training.

Functions that write raise OSError if they cannot.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args
from zlib import crc32

from artart.data.opt_out import REASON
from artart.data.perceptual_hash import groups
from artart.data.scan import FileInfo
from artart.data.settings import DataSettings
from artart.io.files import as_csv, atomic
from artart.io.provenance import AI_SOURCES
from artart.io.terminal import relative_to_cwd

Status = Literal["ok", "rejected", "excluded", "other"]  # other: an image file of a kind that is not read
UNUSED: dict[Status, str] = {"rejected": "unusable", "excluded": "left out", "other": "of kinds that are not read"}


class Entry(NamedTuple):
    """A row of the index."""

    path: str  # below the folder, with slashes
    class_name: str  # empty: none
    facts: FileInfo
    status: Status
    reason: str  # empty: ok; the kind of the reason ends at the first colon
    duplicate_of: str = ""  # path of the first image of its group of near-duplicates; empty: this one

    @property
    def kind(self) -> str:
        return self.reason.split(":")[0]

    @property
    def group(self) -> str:
        return self.duplicate_of or self.path


COLUMNS = ("path", "class", *FileInfo._fields, "status", "reason", "duplicate_of", "crc32")
LIST_COLUMNS = ("path", "reason", "bytes")


def status_of(facts: FileInfo, settings: DataSettings, excluded: str = "", copy_of: str = "") -> tuple[Status, str]:
    """Decide whether a file is used, and why not.

    `excluded` is the reason why table or opt-out exclude it, `copy_of` an image that is used and has the same
    content; empty: none.
    """
    sides = f"{facts.width} x {facts.height} pixels"
    if facts.flaw:
        return "rejected", facts.flaw
    if facts.width * facts.height > settings.max_pixels:
        return "rejected", f"above data.max_pixels={settings.max_pixels}: {sides}"
    if min(facts.width, facts.height) < settings.min_size:
        return "rejected", f"below data.min_size={settings.min_size}: {sides}"
    if excluded:
        return "excluded", excluded
    if settings.exclude["opt_out"] and facts.opt_out:
        return "excluded", f"{REASON}: {facts.opt_out}"
    if settings.exclude["ai_made"] and facts.source in AI_SOURCES:
        return "excluded", f"AI-made: {facts.source}"
    if settings.exclude["duplicate"] and copy_of:
        return "excluded", f"exact duplicate: of {copy_of}"
    return "ok", ""


def entries_of(files: Iterable[tuple[str, str, FileInfo, str]], settings: DataSettings) -> list[Entry]:
    """The entries of files: path, class name, facts, and the reason why table or opt-out exclude it, or "".

    Of exact duplicates the first that is not excluded otherwise is used.
    """
    entries, used = [], dict[str, str]()  # used: path by SHA-256
    for path, class_name, facts, excluded in files:
        status, reason = status_of(facts, settings, excluded, used.get(facts.sha256, ""))
        if status == "ok":
            used.setdefault(facts.sha256, path)
        entries.append(Entry(path, class_name, facts, status, reason))
    return entries


def find_near_duplicates(entries: Sequence[Entry], before: Sequence[Entry]) -> list[Entry]:
    """The entries with `duplicate_of`, which an index with the same hashes already has: comparing images is slow."""
    hashes = {entry.path: entry.facts.perceptual_hash for entry in entries if entry.facts.perceptual_hash}
    if hashes == {entry.path: entry.facts.perceptual_hash for entry in before if entry.facts.perceptual_hash}:
        duplicate_of = {entry.path: entry.duplicate_of for entry in before}
    else:
        paths = list(hashes)
        firsts = zip(paths, groups(list(hashes.values())), strict=True)
        duplicate_of = {path: paths[first] for path, first in firsts if paths[first] != path}
    return [entry._replace(duplicate_of=duplicate_of.get(entry.path, "")) for entry in entries]


def counts(entries: Iterable[Entry]) -> dict[str, int]:
    """The number of entries (`found`) and of each status."""
    statuses = Counter(entry.status for entry in entries)
    return {"found": statuses.total(), **{status: statuses[status] for status in get_args(Status)}}


def describe_unused(entries: Sequence[Entry], index: Path) -> dict[str, str]:
    """One line for each status of files that are not used: how many, the main reasons, the index."""
    lines: dict[str, str] = {}
    for status, meaning in UNUSED.items():
        if kinds := Counter(entry.kind for entry in entries if entry.status == status):
            most = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(3))
            where = relative_to_cwd(index)
            lines[status] = f"{kinds.total()} of {len(entries)} files are {meaning} ({most}): see {where}"
    return lines


def write(entries: Iterable[Entry], file: Path) -> None:
    """Write the index as a CSV table, atomically. Any file name can be read back."""
    with atomic(file) as out:
        out.write(as_csv(COLUMNS, map(_row, entries)))


@contextmanager
def journal(file: Path) -> Iterator[Callable[[str, FileInfo], None]]:
    """Yield a function that appends a file's path and facts to a table, which `read` reads however this ends."""
    write(read(file), file)  # without a row that was cut short
    with file.open("a", newline="", encoding="utf-8", errors="surrogateescape") as out:
        writer = csv.writer(out)

        def note(path: str, facts: FileInfo) -> None:
            writer.writerow(_row(Entry(path, "", facts, "ok", "")))
            out.flush()

        yield note


def write_unused(entries: Sequence[Entry], root: Path, folder: Path) -> None:
    """Write rejected.csv, excluded.csv and other.csv, the files below root that are not used, into a run's folder."""
    for status in UNUSED:
        unused = ((root / one.path, one.reason, one.facts.bytes) for one in entries if one.status == status)
        with atomic(folder / f"{status}.csv") as out:
            out.write(as_csv(LIST_COLUMNS, unused))


def read(file: Path) -> list[Entry]:
    """Read what `write` or `journal` wrote, but for rows that are damaged or of another version of artart."""
    entries = []
    with suppress(OSError, ValueError, csv.Error):
        text = io.StringIO(file.read_bytes().decode("utf-8", "surrogateescape"), newline="")
        for row in csv.reader(text):
            if len(row) == len(COLUMNS) and row[-1] == _checksum(row[:-1]):
                entries.append(_entry(row[:-1]))
    return entries


def _row(entry: Entry) -> list[str]:
    path, name, facts, *rest = entry
    cells = [str(cell) for cell in (path, name, *facts, *rest)]
    return [*cells, _checksum(cells)]


def _checksum(cells: Sequence[str]) -> str:
    """Of the names of columns too, so that rows of other columns do not fit."""
    return f"{crc32(repr((COLUMNS, *cells)).encode()):08x}"


def _entry(row: list[str]) -> Entry:
    path, name, *values, status, reason, duplicate_of = row
    facts: Any = [kind(value) for kind, value in zip(FileInfo.__annotations__.values(), values, strict=True)]
    return Entry(path, name, FileInfo(*facts), cast(Status, status), reason, duplicate_of)
