"""A folder of images with its cache: an index and the decoded pixels, in the user's cache and not in the folder."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import PIL
import platformdirs
from filelock import FileLock, Timeout
from rich.filesize import decimal

from artart import ArtError
from artart.data import index, metadata, store
from artart.data.decode import ResizeMode
from artart.data.index import Entry, Rules, status_of
from artart.data.labels import CLASS, frequent_names
from artart.data.metadata import Metadata
from artart.data.scan import FileInfo, class_of, examine_all, find
from artart.data.store import Kind, Store, Writer
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)

MADE_BY = f"artart 3, Pillow {PIL.__version__}"  # another number if a file would give other facts, pixels or groups
ROW_BYTES = 600  # of the index, for a path of usual length


@dataclass(frozen=True)
class FolderSettings:
    """Which files of a folder are used, and how they become pixels."""

    root: Path  # its sub-folders are classes, unless the table has a column "class"
    rules: Rules
    size: int  # side of the stored images in pixels
    resize_mode: ResizeMode = "stretch"
    metadata_file: Path | None = None  # the user's table; files that it does not name are excluded
    licences: Sequence[str] | None = None  # allowed values of the table's column "licence"; None: all
    labels: Sequence[str] = (CLASS,)  # columns of the table whose values are labels
    min_per_label: int = 50  # files that a value of a column other than "class" must have to be a label
    cache_dir: Path | None = None  # where index and pixels are kept; None: the user's cache
    num_workers: int | None = None  # processes that decode; None: one per core


class Contents(NamedTuple):
    """What a folder holds."""

    entries: list[Entry]  # of every file, sorted by path
    store: Store | None  # the pixels of every entry that is ok; None where none is


class ArtFolder:
    """A folder of images, read as its settings say."""

    def __init__(self, settings: FolderSettings) -> None:
        self.settings = settings
        self.root = settings.root
        resolved = self.root.resolve()
        key = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]
        self.kind = Kind(f"{settings.size}-{settings.resize_mode}", (3, settings.size, settings.size))
        self.cache = (settings.cache_dir or platformdirs.user_cache_path("artart")) / f"{resolved.name[:40]}-{key}"

    @cached_property
    def files(self) -> list[Path]:
        """The image files below root.

        Raises:
            ArtError: if there are none.
        """
        if not (files := find(self.root)):
            raise ArtError(f"data.root={self.root}: no image below this folder; name one that holds images")
        return files

    @cached_property
    def metadata(self) -> Metadata | None:
        """The user's table of the images.

        Raises:
            ArtError: if it cannot be read or lacks a column that the settings name.
        """
        file, labels = self.settings.metadata_file, self.settings.labels
        if file is None:
            return None
        table = metadata.read(file, self.root, self.files)
        columns = ", ".join(table.columns)
        if self.settings.licences is not None and "licence" not in table.columns:
            raise ArtError(f"data.licences: {file} has no column licence; it has {columns}")
        if missing := [column for column in labels if column not in (CLASS, *table.columns)]:
            raise ArtError(f"data.labels=[{', '.join(labels)}]: {file} has no column {missing[0]}; it has {columns}")
        return table

    @cached_property
    def excluded_by_table(self) -> dict[Path, str]:
        """Reasons by file."""
        return {} if self.metadata is None else metadata.excluded(self.metadata, self.settings.licences)

    def name_of(self, path: Path, column: str = CLASS) -> str:
        """A file's value in a column of the table; empty: none. Without a column "class" it is the sub-folder."""
        if self.metadata is not None and column in self.metadata.columns:
            return metadata.name_in(self.metadata.rows.get(path, {}), column)
        return class_of(path, self.root) or ""

    @cached_property
    def label_names(self) -> dict[str, list[str]]:
        """By column, the sorted names of the labels 0, 1, ... of files that the table does not exclude.

        Nothing is decoded for this. Every class is a label; of other columns, values of `min_per_label` files or more.
        """
        listed = [path for path in self.files if path not in self.excluded_by_table]
        least = dict.fromkeys(self.settings.labels, self.settings.min_per_label) | {CLASS: 1}
        return {
            column: frequent_names(column, (self.name_of(path, column) for path in listed), least[column])
            for column in self.settings.labels
        }

    def read(self) -> Contents:
        """Read new and changed files and decide the status of all.

        What has been read is kept, also after an interruption. If several processes read the same folder, one reads and
        the others wait and then find everything known.

        Raises:
            ArtError: if the cache cannot be written or has too little space.
            OSError: if the disk fills up.
        """
        if self.metadata and (lost := self.metadata.only_in_file):
            log.warning(
                "%d paths of data.metadata name no image below %s, such as %r",
                *(len(lost), relative_to_cwd(self.root), lost[0]),
            )
        with self.locked():
            store.clean(self.cache)
            self._clear_if_made_by_another_version()
            before = index.read(self.cache / "index.csv")
            pixels = store.find(self.cache, self.kind)
            store.clean(self.cache, f"{self.kind.name}-*", keep=pixels.folder if pixels else None)
            facts, pixels, error = self._examine_new(self._unchanged(before), pixels)
            files = (
                (path.relative_to(self.root).as_posix(), self.name_of(path), fact, self.excluded_by_table.get(path, ""))
                for path, fact in facts.items()
            )
            entries = index.find_near_duplicates(index.entries_of(files, self.settings.rules), before)
            if entries != before:
                index.write(entries, self.cache / "index.csv")
            if error:
                log.info("what has been read is kept; the next call continues there")
                raise error
            return Contents(entries, pixels)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from reading this folder."""
        lock = FileLock(self.cache / "lock", fallback_to_soft=False)  # a soft lock outlives a process that is killed
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                log.info("another process is reading %s; waiting for it", relative_to_cwd(self.root))
                lock.acquire()
        except OSError as error:  # also of a file system without locks
            raise ArtError(
                f"data.cache_dir: {error.filename or self.cache}: {error.strerror}; name a folder that can be written: "
                "data.cache_dir=DIR"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _clear_if_made_by_another_version(self) -> None:
        """Another decoder might give other pixels and other reasons."""
        note = self.cache / "made_by"
        if not note.is_file() or note.read_text() != MADE_BY:
            store.clean(self.cache, "*", keep=self.cache / "lock")
            note.write_text(MADE_BY)

    def _unchanged(self, before: Sequence[Entry]) -> dict[Path, FileInfo]:
        """The facts of files whose size and modification time are those in the index."""
        known = {self.root / entry.path: entry.facts for entry in before if entry.facts.sha256}
        unchanged = {}
        for path in self.files:
            with suppress(OSError, KeyError):
                facts, status = known[path], path.stat()
                if (status.st_size, status.st_mtime_ns) == (facts.bytes, facts.mtime):
                    unchanged[path] = facts
        return unchanged

    def _examine_new(
        self, known: Mapping[Path, FileInfo], pixels: Store | None
    ) -> tuple[dict[Path, FileInfo], Store | None, BaseException | None]:
        """Examine the files that are not known or whose pixels are missing.

        Returns the facts of all files, a store with the pixels of those that are used, and the exception that
        interrupted the reading, if any: then the facts are those that were known by then.
        """
        rows = pixels.rows if pixels else {}

        def needs_pixels(path: Path, facts: FileInfo) -> bool:
            status, _ = status_of(facts, self.settings.rules, self.excluded_by_table.get(path, ""))
            return status == "ok" and facts.sha256 not in rows

        new = [path for path in self.files if path not in known or needs_pixels(path, known[path])]
        if not new:
            return dict(known), pixels, None
        log.info("%s: reading %d of %d files", relative_to_cwd(self.root), len(new), len(self.files))
        self.check_disk_space("pixels", len(rows) + len(new), self.kind.row_bytes, ROW_BYTES * len(self.files))
        facts, interrupted_by, settings = dict(known), None, self.settings
        examined = examine_all(
            new, settings.size, settings.resize_mode, settings.rules.max_pixels, settings.num_workers
        )
        with closing(examined), ExitStack() as publishing:
            writer: Writer | None = None
            try:
                for path, fact, image in examined:
                    if image is not None and needs_pixels(path, fact):
                        writer = writer or publishing.enter_context(store.writing(self.cache, self.kind))
                        writer.add(fact.sha256, image.transpose(2, 0, 1))
                    facts[path] = fact
            except OSError:  # such as a full disk: nothing can be kept
                raise
            except BaseException as error:  # noqa: BLE001 - also Ctrl-C
                interrupted_by = error
            if writer and pixels:
                for digest in rows.keys() & {fact.sha256 for fact in facts.values()}:
                    writer.add(digest, pixels.values[rows[digest]])
        found = store.find(self.cache, self.kind)
        return {path: facts[path] for path in self.files if path in facts}, found, interrupted_by

    def check_disk_space(self, what: str, num_images: int, row_bytes: int, more_bytes: int = 0) -> None:
        """Log how much the pixels or latents of images take in the cache.

        Raises:
            ArtError: if the disk has too little space.
        """
        need, free = num_images * row_bytes + more_bytes, shutil.disk_usage(self.cache).free
        place = relative_to_cwd(self.cache)
        log.info("the %s of %d images take at most %s in %s", what, num_images, decimal(need), place)
        if need > free:
            raise ArtError(
                f"data.cache_dir: the {what} of {num_images} images need {decimal(need)} and {self.cache} "
                f"has {decimal(free)} left; free some space, set data.cache_dir=DIR, or lower image_size"
            )
