"""A folder of images with its cache: an index and the decoded pixels, in the user's cache and not in the folder."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property
from math import inf
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
import platformdirs

from artart import ArtError
from artart.data import index, metadata, opt_out, store
from artart.data.cache import check_disk_space, clear_if_made_by_another_version, locked
from artart.data.decode import WHITE, colour_of
from artart.data.find import Found, find_all
from artart.data.index import Entry, status_of
from artart.data.labels import CLASS, class_of, describe_folders, frequent_names
from artart.data.metadata import Metadata
from artart.data.opt_out import OptOuts
from artart.data.scan import FileInfo, examine_all, identity
from artart.data.settings import DataSettings
from artart.data.store import Kind, Store
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)

ROW_BYTES = 1300  # of index, journal and store, for a path of usual length


class Contents(NamedTuple):
    """What a folder holds."""

    entries: list[Entry]  # of every file, sorted by path, those of other kinds last
    store: Store | None  # the pixels of every entry that is ok; None where none is


class ArtFolder:
    """A folder of images: which files are used, and how they become pixels."""

    def __init__(self, settings: DataSettings) -> None:
        """`settings.root` is not None."""
        self.settings, self.root = settings, Path(str(settings.root))
        self.background = colour_of(settings.background)
        size, resolved = settings.image_size, self.root.resolve()
        self.kind = Kind(f"{size}-{settings.resize_mode}", (3, size, size))
        key = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]
        colour = "" if self.background == WHITE else f"-{bytes(self.background).hex()}"
        caches = Path(settings.cache_dir or platformdirs.user_cache_path("artart"))
        self.cache = caches / f"{resolved.name[:40]}-{key}{colour}"

    @cached_property
    def found(self) -> Found:
        """What lies below root. Raises ArtError if there is no image that is read."""
        found = find_all(self.root)
        if not found.images:
            others = "; ".join(f"{number} {kind}" for kind, number in Counter(found.others.values()).most_common(3))
            remedy = f"that can be read, but {others}" if others else "; name one that holds images"
            raise ArtError(f"data.root={self.root}: no image below this folder{' ' * bool(others)}{remedy}")
        return found

    @cached_property
    def metadata(self) -> Metadata | None:
        """The user's table. Raises ArtError if it cannot be read or lacks a column that the settings name."""
        if (file := self.settings.metadata) is None:
            return None
        table = metadata.read(Path(file), self.root, self.found.images)
        columns, labels = ", ".join(table.columns), self.settings.labels
        if self.settings.licences is not None and "licence" not in table.columns:
            raise ArtError(f"data.licences: {file} has no column licence; it has {columns}")
        if missing := [column for column in labels if column not in (CLASS, *table.columns)]:
            raise ArtError(f"data.labels=[{', '.join(labels)}]: {file} has no column {missing[0]}; it has {columns}")
        return table

    @cached_property
    def excluded_by_table(self) -> dict[Path, str]:
        """Reasons by file."""
        return {} if self.metadata is None else metadata.excluded(self.metadata, self.settings.licences)

    @cached_property
    def opt_outs(self) -> OptOuts | None:
        """The user's list. Raises ArtError if it cannot be read."""
        return None if self.settings.opt_out is None else opt_out.read_list(Path(self.settings.opt_out))

    def excluded(self, path: Path, facts: FileInfo) -> str:
        """Why the table, a file beside it or the list of opt-outs excludes a file; "": nothing does."""
        if reason := self.excluded_by_table.get(path, ""):
            return reason
        if not self.settings.exclude["opt_out"]:
            return ""
        name = opt_out.file_beside(path, self.found.opt_outs)
        if not name and self.opt_outs and not self.opt_outs.lines.isdisjoint(self._names(path, facts)):
            name = self.opt_outs.file.name
        return f"{opt_out.REASON}: {name}" if name else ""

    def _names(self, path: Path, facts: FileInfo) -> set[str]:
        """What a line of the list of opt-outs may say to name a file."""
        return opt_out.names_of(self._key(path), self.name_of(path, "artist"), facts.sha256)

    @cached_property
    def listed(self) -> list[Path]:
        """The files that the table does not exclude."""
        return [path for path in self.found.images if path not in self.excluded_by_table]

    def name_of(self, path: Path, column: str = CLASS) -> str:
        """A file's value in a column of the table, as NFC; "": none. Without a column "class" it is the sub-folder."""
        if self.metadata is not None and column in self.metadata.columns:
            return normalize("NFC", self.metadata.rows.get(path, {}).get(column, "").strip())
        return normalize("NFC", class_of(path.parent, self.root, self.settings.class_level) or "")

    @cached_property
    def label_names(self) -> dict[str, list[str]]:
        """By column, the sorted names of the labels 0, 1, ... of files that the table does not exclude.

        Nothing is decoded for this. Every class is a label; of other columns, values of `min_per_label` files or more.

        Raises ArtError if no file lies so deep as `class_level`, above 1, says.
        """
        has_column = self.metadata is not None and CLASS in self.metadata.columns
        labels, level = self.settings.labels, self.settings.class_level
        by_folder = CLASS in labels and level == 1 and not has_column
        if by_folder and (wrong := describe_folders(self.listed, self.root)):
            log.warning("data.root=%s: %s", self.root, wrong)
        least = dict.fromkeys(labels, self.settings.min_per_label) | {CLASS: 1}
        names = {
            column: frequent_names(column, (self.name_of(path, column) for path in self.listed), least[column])
            for column in labels
        }
        if level > 1 and not has_column and names.get(CLASS) == []:
            raise ArtError(f"data.class_level={level}: no image below {self.root} lies so deep; lower it")
        return names

    def read(self) -> Contents:
        """Read new and changed files and decide the status of all.

        What has been read is kept, also after an interruption. If several processes read the same folder, one reads and
        the others wait and then find everything known.

        Raises ArtError if the cache cannot be written or has too little space; OSError if the disk fills up.
        """
        if self.metadata and (lost := self.metadata.only_in_file):
            log.warning(
                "%d paths of data.metadata name no image below %s, such as %r",
                *(len(lost), relative_to_cwd(self.root), lost[0]),
            )
        with locked(self.cache, self.root):
            store.clean(self.cache)
            clear_if_made_by_another_version(self.cache)
            before = index.read(self.cache / "index.csv")
            known = {entry.path: entry.facts for entry in [*before, *index.read(self.cache / "journal.csv")]}
            facts, pixels = self._examine_new(self._unchanged(known))
            opt_out.warn_of_unused_files(self.found.opt_outs, (*self.found.images, *self.found.others))
            if self.opt_outs:
                self.opt_outs.warn_of_unused(self._names(path, fact) for path, fact in facts.items())
            files = (
                (self._key(path), self.name_of(path), fact, self.excluded(path, fact)) for path, fact in facts.items()
            )
            entries = index.entries_of(files, self.settings)
            for path, reason in self.found.others.items():
                info = FileInfo(bytes=path.lstat().st_size)
                entries.append(Entry(self._key(path), self.name_of(path), info, "other", reason))
            entries = index.find_near_duplicates(entries, before)
            if entries != before:
                index.write(entries, self.cache / "index.csv")
            (self.cache / "journal.csv").unlink(missing_ok=True)
            return Contents(entries, pixels)

    def _key(self, path: Path) -> str:
        """A file's path in the index."""
        return path.relative_to(self.root).as_posix()

    def _unchanged(self, known: Mapping[str, FileInfo]) -> dict[Path, FileInfo]:
        """The facts of files whose size and times, or whose size and content, are those that are known."""
        unchanged = {}
        for path in self.found.images:
            with suppress(OSError, KeyError):
                facts, status = known[self._key(path)], path.stat()
                if not facts.sha256 or status.st_size != facts.bytes:
                    continue
                if (status.st_mtime_ns, status.st_ctime_ns) != (facts.mtime, facts.ctime):
                    with path.open("rb") as file:
                        now = identity(file)
                    if now.sha256 != facts.sha256:
                        continue
                    facts = facts._replace(mtime=now.mtime, ctime=now.ctime)
                unchanged[path] = facts
        return unchanged

    def _examine_new(self, known: Mapping[Path, FileInfo]) -> tuple[dict[Path, FileInfo], Store | None]:
        """Examine the files that are not known or whose pixels are missing; each is kept at once.

        Returns the facts of all files, and a store with the pixels of those that are used.
        """
        pixels = store.find(self.cache, self.kind, max_rows=2 * len(self.found.images))
        rows = pixels.rows if pixels else {}

        def needs_pixels(path: Path, facts: FileInfo) -> bool:
            status, _ = status_of(facts, self.settings, self.excluded(path, facts))
            return status == "ok" and facts.sha256 not in rows

        new = [path for path in self.found.images if path not in known or needs_pixels(path, known[path])]
        if not new:
            return dict(known), pixels
        log.info("%s: reading %d of %d files", relative_to_cwd(self.root), len(new), len(self.found.images))
        check_disk_space(self.cache, "pixels", len(new), len(new) * (self.kind.row_bytes + ROW_BYTES))
        facts, how = dict(known), self.settings
        examined = examine_all(
            new, how.image_size, how.resize_mode, self.background, how.max_pixels, how.num_workers, isolated=True
        )
        journal, writing = index.journal(self.cache / "journal.csv"), store.writing(self.cache, self.kind)
        with closing(examined), journal as note, writing as writer:
            try:
                for path, fact, image in examined:
                    if image is not None and needs_pixels(path, fact):
                        writer.add(fact.sha256, image.transpose(2, 0, 1))
                    note(self._key(path), fact)
                    facts[path] = fact
            except KeyboardInterrupt:
                log.info("what has been read is kept; the next call continues there")
                raise
        return {path: facts[path] for path in self.found.images}, store.find(self.cache, self.kind)

    def complete(
        self,
        kind: Kind,
        what: str,
        digests: Sequence[str],
        make: Callable[[list[str]], Iterable[np.ndarray]],
        max_rows: float = inf,
    ) -> Store:
        """The store of a kind with an array for each digest; `make` yields those that it lacks, and each is kept.

        Raises ArtError if the cache cannot be written or has too little space; OSError if the disk fills up.
        """
        with locked(self.cache, self.root):
            found = store.find(self.cache, kind, max_rows)
            rows = found.rows if found else {}
            if new := [digest for digest in digests if digest not in rows]:
                check_disk_space(self.cache, what, len(new), len(new) * kind.row_bytes)
                with store.writing(self.cache, kind) as writer:
                    for digest, values in zip(new, make(new), strict=True):
                        writer.add(digest, values)
                found = store.find(self.cache, kind)
        assert found
        return found
