"""The index of a folder: what each of its files is, and whether it is trained on."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from artart.data.perceptual_hash import groups
from artart.data.scan import FileInfo
from artart.io.files import atomic, write_new
from artart.io.provenance import AI_SOURCES
from artart.io.terminal import relative_to_cwd

Status = Literal["ok", "rejected", "excluded"]


class Entry(NamedTuple):
    """A row of the index."""

    path: str  # below the folder, with slashes
    class_name: str  # empty: none
    facts: FileInfo
    status: Status
    reason: str  # what stands before its colon is the kind
    duplicate_of: str = ""  # the first image of its group of look-alikes; empty: it is that one, or alone

    @property
    def kind(self) -> str:
        return self.reason.split(":")[0]

    @property
    def group(self) -> str:
        return self.duplicate_of or self.path


class Rules(NamedTuple):
    """What an image must be to be trained on."""

    max_pixels: int
    min_size: int  # pixels of its shorter side
    duplicate: bool  # each True: exclude such images
    opt_out: bool
    ai_made: bool


COLUMNS = ("path", "class", *FileInfo._fields, "status", "reason", "duplicate_of")
OF_LIST = ("path", "reason", "bytes")


def judge(
    facts: Mapping[str, FileInfo], classes: Mapping[str, str], excluded: Mapping[str, str], rules: Rules
) -> list[Entry]:
    """The entry of each path, in the order given; `excluded` are paths that other rules exclude, with their reasons.

    Of exact duplicates the first that is not excluded otherwise is kept.
    """
    entries, first = [], dict[str, str]()
    for path, fact in facts.items():
        status, reason = status_of(fact, excluded.get(path, ""), rules)
        if status == "ok" and rules.duplicate and first.setdefault(fact.sha256, path) != path:
            status, reason = "excluded", f"exact duplicate: of {first[fact.sha256]}"
        entries.append(Entry(path, classes.get(path, ""), fact, status, reason))
    return entries


def compared(entries: Sequence[Entry], before: Sequence[Entry]) -> list[Entry]:
    """The entries, each with the image that it is a near-duplicate of; among many it takes long to find out, so it
    is kept.
    """
    hashes = {entry.path: entry.facts.perceptual_hash for entry in entries if entry.facts.perceptual_hash}
    if hashes == {entry.path: entry.facts.perceptual_hash for entry in before if entry.facts.perceptual_hash}:
        duplicate_of = {entry.path: entry.duplicate_of for entry in before}
    else:
        paths = list(hashes)
        firsts = zip(paths, groups(list(hashes.values())), strict=True)
        duplicate_of = {path: paths[first] for path, first in firsts if paths[first] != path}
    return [entry._replace(duplicate_of=duplicate_of.get(entry.path, "")) for entry in entries]


def status_of(facts: FileInfo, excluded: str, rules: Rules) -> tuple[Status, str]:
    """Status and reason of a file by itself."""
    sides = f"{facts.width} x {facts.height} pixels"
    if facts.flaw:
        return "rejected", facts.flaw
    if facts.width * facts.height > rules.max_pixels:
        return "rejected", f"above data.max_pixels={rules.max_pixels}: {sides}"
    if min(facts.width, facts.height) < rules.min_size:
        return "rejected", f"below data.min_size={rules.min_size}: {sides}"
    if excluded:
        return "excluded", excluded
    if rules.opt_out and facts.opt_out:
        return "excluded", f"opted out of data mining: {facts.opt_out}"
    if rules.ai_made and facts.source in AI_SOURCES:
        return "excluded", f"AI-made: {facts.source}"
    return "ok", ""


def counts(entries: Iterable[Entry]) -> dict[str, int]:
    """How many entries there are, and of each status."""
    statuses = Counter(entry.status for entry in entries)
    return {"found": statuses.total(), **{status: statuses[status] for status in ("ok", "rejected", "excluded")}}


def unused_in_words(entries: Sequence[Entry], lists: Path | None, index: Path) -> dict[str, str]:
    """For each status but ok, if there are such files: how many, why most often, and where to see them.

    That is `rejected.csv` or `excluded.csv` in the folder `lists`, or the index.
    """
    lines = {}
    for status, meaning in (("rejected", "unusable"), ("excluded", "left out")):
        if kinds := Counter(entry.kind for entry in entries if entry.status == status):
            most = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(3))
            file = relative_to_cwd(lists / f"{status}.csv" if lists else index)
            lines[status] = f"{kinds.total()} of {len(entries)} files are {meaning} ({most}): see {file}"
    return lines


def write(entries: Iterable[Entry], file: Path) -> None:
    """Write the index as a CSV table, atomically; any file name survives.

    Raises:
        OSError: if it cannot be written.
    """
    with atomic(file) as out:
        out.write(_csv(COLUMNS, ((path, name, *facts, *rest) for path, name, facts, *rest in entries)))


def write_unused(entries: Sequence[Entry], root: Path, folder: Path) -> None:
    """Write rejected.csv and excluded.csv into a run's folder: the files below root that are not trained on."""
    for status in ("rejected", "excluded"):
        unused = ((root / one.path, one.reason, one.facts.bytes) for one in entries if one.status == status)
        with atomic(folder / f"{status}.csv") as out:
            out.write(_csv(OF_LIST, unused))


def write_list(files: Iterable[tuple[Path, str, int]], file: Path) -> Path:
    """Write a table, for people, of files that are not used: where each lies, why, and its size in bytes.

    Returns its name, which `write_new` chooses.
    """
    return write_new(file, _csv(OF_LIST, files))


def _csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read(file: Path) -> list[Entry]:
    """What `write` wrote; nothing if there is no such file, or another version of artart wrote it."""
    try:
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as text:
            columns, *rows = csv.reader(text)
        return [_entry(row) for row in rows] if tuple(columns) == COLUMNS else []
    except (OSError, ValueError, csv.Error):
        return []


_PARSE: dict[type, Callable[[str], object]] = {int: int, str: str, bool: "True".__eq__}


def _entry(row: list[str]) -> Entry:
    path, name, *values, status, reason, duplicate_of = row
    kinds = FileInfo.__annotations__.values()
    facts: Any = [_PARSE[kind](value) for kind, value in zip(kinds, values, strict=True)]
    return Entry(path, name, FileInfo(*facts), cast(Status, status), reason, duplicate_of)
