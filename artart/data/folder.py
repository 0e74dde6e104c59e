"""A folder of pictures: read once, then known. Its index and its pixels lie in the user's cache, not in the folder."""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import platformdirs
from rich.filesize import decimal

from artart import ArtError
from artart.data import index, metadata, store
from artart.data.files import Facts, class_of, examine_all, find
from artart.data.index import Entry, Rules, compared, judge, verdict_of
from artart.data.metadata import Metadata
from artart.data.store import PixelStore
from artart.decode import Fit
from artart.terminal import near

log = logging.getLogger(__name__)

VERSION = b"1"  # of what is kept: another if the same file would give other facts or pixels


class Contents(NamedTuple):
    """What a folder holds."""

    entries: list[Entry]  # of every file, sorted by path
    store: PixelStore | None  # the pixels of every entry that is ok; None where none is


class ArtFolder:
    """A folder of pictures and what is asked of them."""

    def __init__(
        self,
        root: Path,
        rules: Rules,
        size: int,
        fit: Fit = "squash",
        metadata_file: Path | None = None,
        licences: list[str] | None = None,
        cache_dir: Path | None = None,
        num_workers: int | None = None,
    ) -> None:
        """
        Args:
            root: the folder; its sub-folders are classes unless metadata_file says otherwise.
            rules: what a picture must be to be used.
            size: side in pixels to which pictures are brought, by `fit`.
            metadata_file: the user's own table of the pictures; what it does not name is excluded.
            licences: those allowed, of the table's column "licence".
            cache_dir: where index and pixels are kept; None: the user's cache.
            num_workers: processes that decode; None: one per core.
        """
        self.root = root
        self.rules = rules
        self.size = size
        self.fit = fit
        self.metadata_file = metadata_file
        self.licences = licences
        self.num_workers = num_workers
        place = root.resolve()
        key = hashlib.sha256(VERSION + os.fsencode(place)).hexdigest()[:12]
        self.cache = (cache_dir or platformdirs.user_cache_path("artart")) / f"{place.name[:40]}-{key}"

    @cached_property
    def files(self) -> list[Path]:
        """The picture files below root.

        Raises:
            ArtError: if there are none.
        """
        if not (files := find(self.root)):
            raise ArtError(f"data.root={self.root}: no picture below this folder; name one that holds pictures")
        return files

    @cached_property
    def metadata(self) -> Metadata | None:
        """What the user's own table says of the pictures.

        Raises:
            ArtError: if it cannot be used.
        """
        if self.metadata_file is None:
            if self.licences is not None:
                raise ArtError("data.licences: licences stand in a table; name it by data.metadata=FILE.csv")
            return None
        table = metadata.read(self.metadata_file, self.root, self.files)
        if self.licences is not None and "licence" not in table.columns:
            columns = ", ".join(table.columns)
            raise ArtError(f"data.licences: {self.metadata_file} has no column licence; it has {columns}")
        return table

    @cached_property
    def barred(self) -> dict[Path, str]:
        """Files that the user's own table excludes, with the reasons."""
        if self.metadata is None:
            return {}
        barred = dict.fromkeys(self.metadata.only_in_folder, "not in data.metadata")
        if self.licences is not None:
            for path, row in self.metadata.rows.items():
                if not metadata.allowed(row["licence"], self.licences):
                    barred[path] = f"not in data.licences: {row['licence'].strip() or 'none given'}"
        return barred

    def class_of(self, path: Path) -> str:
        """A file's class, from the table if it has a column for it, else from the folder; empty if it has none."""
        if self.metadata is not None and "class" in self.metadata.columns:
            return metadata.class_of_row(self.metadata.rows.get(path, {})) or ""
        return class_of(path, self.root) or ""

    @cached_property
    def class_names(self) -> list[str]:
        """The classes of the files that may be used, sorted; found without decoding."""
        return sorted({name for path in self.files if path not in self.barred and (name := self.class_of(path))})

    def read(self) -> Contents:
        """Read what is new or has changed, and only that, and judge it all.

        What is learnt is kept, also when the reading is interrupted. A second process that wants to read the same
        folder waits for the first and then finds everything known.

        Raises:
            ArtError: if the cache cannot be written or has too little room.
            OSError: if the disk fills up.
        """
        if self.metadata and (lost := self.metadata.only_in_file):
            log.warning(
                "%d paths of data.metadata name no picture below %s, such as %r", len(lost), near(self.root), lost[0]
            )
        with self._locked():
            store.clean(self.cache)
            before = index.read(self.cache / "index.csv")
            pixels = store.find(self.cache, self.size, self.fit)
            known = self._still_true({self.root / entry.path: entry.facts for entry in before}, pixels)
            facts, pixels, stopped_by = self._learn(known, pixels)
            names = {path: str(path.relative_to(self.root)) for path in facts}
            entries = judge(
                {names[path]: fact for path, fact in facts.items()},
                {names[path]: self.class_of(path) for path in facts},
                {names[path]: reason for path, reason in self.barred.items() if path in names},
                self.rules,
            )
            entries = compared(entries, before)
            if entries != before:
                index.write(entries, self.cache / "index.csv")
            if stopped_by:
                log.info("%d of %d files are known now; the next call reads the rest", len(facts), len(self.files))
                raise stopped_by
            return Contents(entries, pixels)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The cache of this folder, for this process alone."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            lock = (self.cache / "lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process is reading %s; waiting for it", near(self.root))
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # also of a file system without locks
            raise ArtError(
                f"data.cache_dir: {error.filename or self.cache}: {error.strerror}; name a folder that can be written: "
                "data.cache_dir=DIR"
            ) from None
        with lock:
            yield

    def _still_true(self, known: Mapping[Path, Facts], pixels: PixelStore | None) -> dict[Path, Facts]:
        """The facts of files that need not be read again."""
        rows = pixels.rows if pixels else {}

        def holds(path: Path, facts: Facts) -> bool:
            try:
                status = path.stat()
            except OSError:
                return False
            if (status.st_size, status.st_mtime_ns) != (facts.bytes, facts.mtime) or not facts.sha256:
                return False
            return facts.sha256 in rows or not self._wanted(path, facts)

        return {path: known[path] for path in self.files if path in known and holds(path, known[path])}

    def _wanted(self, path: Path, facts: Facts) -> bool:
        """Whether a file's pixels are used, as far as can be told from itself."""
        return verdict_of(facts, self.barred.get(path, ""), self.rules)[0] == "ok"

    def _learn(
        self, known: Mapping[Path, Facts], pixels: PixelStore | None
    ) -> tuple[dict[Path, Facts], PixelStore | None, BaseException | None]:
        """The facts of all files, by path, and a store that holds the pixels of those that are wanted.

        Whatever stops the reading is handed back beside what had been read until then.
        """
        unknown = [path for path in self.files if path not in known]
        if not unknown:
            return dict(known), pixels, None
        self._say_what_comes(len(unknown))
        facts: dict[Path, Facts] = {}
        stopped_by: BaseException | None = None
        examined = examine_all(unknown, self.size, self.fit, self.rules.max_pixels, self.num_workers)
        with closing(examined), store.writing(self.cache, self.size, self.fit) as writer:
            for path in self.files:
                try:
                    if path in known:
                        facts[path] = known[path]
                        if pixels and known[path].sha256 in pixels.rows:
                            writer.add(known[path].sha256, pixels.pixels[pixels.rows[known[path].sha256]])
                    elif not stopped_by:
                        one = next(examined)
                        if one.pixels is not None and self._wanted(path, one.facts):
                            writer.add(one.facts.sha256, one.pixels.transpose(2, 0, 1))
                        facts[path] = one.facts
                except OSError:  # such as a full disk: nothing can be kept
                    raise
                except BaseException as error:  # noqa: BLE001 - also Ctrl-C
                    stopped_by = error
        return facts, store.find(self.cache, self.size, self.fit), stopped_by

    def _say_what_comes(self, num_unknown: int) -> None:
        """A line before the wait; an error if the disk has too little room."""
        need, free = len(self.files) * 3 * self.size**2, shutil.disk_usage(self.cache).free
        log.info(
            "%s: reading %d of %d files; as pixels they take at most %s in %s",
            near(self.root),
            num_unknown,
            len(self.files),
            decimal(need),
            near(self.cache),
        )
        if need > free:
            raise ArtError(
                f"data.cache_dir: the pixels of {len(self.files)} pictures need {decimal(need)} and {self.cache} has "
                f"{decimal(free)} left; make room, name another folder by data.cache_dir=DIR, or lower image_size"
            )
