"""A folder of images: read once, then known. Its index and its pixels lie in the user's cache, not in the folder."""

import fcntl
import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import PIL
import platformdirs
from rich.filesize import decimal

from artart import ArtError
from artart.data import index, metadata, store
from artart.data.decode import ResizeMode
from artart.data.index import Entry, Rules, compared, judge, status_of
from artart.data.labels import CLASS
from artart.data.metadata import Metadata
from artart.data.scan import FileInfo, class_of, examine_all, find
from artart.data.store import PixelStore, Writer
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)

MADE_BY = f"artart 2, Pillow {PIL.__version__}"  # another number if a file would give other facts, pixels or groups


class Contents(NamedTuple):
    """What a folder holds."""

    entries: list[Entry]  # of every file, sorted by path
    store: PixelStore | None  # the pixels of every entry that is ok; None where none is


class ArtFolder:
    """A folder of images and what is asked of them."""

    def __init__(
        self,
        root: Path,
        rules: Rules,
        size: int,
        resize_mode: ResizeMode = "stretch",
        metadata_file: Path | None = None,
        licences: list[str] | None = None,
        labels: Sequence[str] = (CLASS,),
        min_per_label: int = 50,
        cache_dir: Path | None = None,
        num_workers: int | None = None,
    ) -> None:
        """
        Args:
            root: the folder; its sub-folders are classes unless metadata_file says otherwise.
            rules: what an image must be to be used.
            size: side in pixels to which images are brought, by `resize_mode`.
            metadata_file: the user's own table of the images; what it does not name is excluded.
            licences: those allowed, of the table's column "licence".
            labels: columns of the table whose values are labels; `class` need not be one, as folders are classes.
            min_per_label: files, of those that the table allows, that a value must have to be a label; every class is.
            cache_dir: where index and pixels are kept; None: the user's cache.
            num_workers: processes that decode; None: one per core.
        """
        self.root = root
        self.rules = rules
        self.size = size
        self.resize_mode = resize_mode
        self.metadata_file = metadata_file
        self.licences = licences
        self.labels = labels
        self.min_per_label = min_per_label
        self.num_workers = num_workers
        place = root.resolve()
        key = hashlib.sha256(os.fsencode(place)).hexdigest()[:12]
        self.cache = (cache_dir or platformdirs.user_cache_path("artart")) / f"{place.name[:40]}-{key}"

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
        """What the user's own table says of the images.

        Raises:
            ArtError: if it cannot be used.
        """
        if self.metadata_file is None:
            return None
        table = metadata.read(self.metadata_file, self.root, self.files)
        if self.licences is not None and "licence" not in table.columns:
            columns = ", ".join(table.columns)
            raise ArtError(f"data.licences: {self.metadata_file} has no column licence; it has {columns}")
        if missing := [column for column in self.labels if column not in (CLASS, *table.columns)]:
            raise ArtError(
                f"data.labels=[{', '.join(self.labels)}]: {self.metadata_file} has no column {missing[0]}; it has "
                f"{', '.join(table.columns)}"
            )
        return table

    @cached_property
    def excluded(self) -> dict[Path, str]:
        """Files that the user's own table excludes, with the reasons."""
        if self.metadata is None:
            return {}
        excluded = dict.fromkeys(self.metadata.only_in_folder, "not in data.metadata")
        if self.licences is not None:
            refused = {
                path: row["licence"].strip() or "none given"
                for path, row in self.metadata.rows.items()
                if not metadata.allowed(row["licence"], self.licences)
            }
            most = "; ".join(f"{licence} ({number})" for licence, number in Counter(refused.values()).most_common(3))
            if refused:
                log.info("data.licences leaves out %d of %d, most often: %s", len(refused), len(self.files), most)
            excluded |= {path: f"not in data.licences: {licence}" for path, licence in refused.items()}
        return excluded

    def name_of(self, path: Path, column: str = CLASS) -> str:
        """What the table says of a file in a column; empty if nothing. Without one for it, the class is the folder."""
        if self.metadata is not None and column in self.metadata.columns:
            return metadata.name_in(self.metadata.rows.get(path, {}), column)
        return class_of(path, self.root) or ""

    @cached_property
    def label_names(self) -> dict[str, list[str]]:
        """By column, the names of the labels 0, 1, ...: sorted; found without decoding, among files that may be used.

        Each class is a label. Of another column are those that at least `min_per_label` files have.
        """
        return {column: self._names(column, 1 if column == CLASS else self.min_per_label) for column in self.labels}

    def _names(self, column: str, least: int) -> list[str]:
        found = Counter(self.name_of(path, column) for path in self.files if path not in self.excluded)
        found.pop("", None)
        names = sorted(name for name, num_files in found.items() if num_files >= least)
        if rare := found.keys() - set(names):
            num_files = sum(found[name] for name in rare)
            log.info(
                "data.min_per_label=%d: %s has %d labels; %d rarer values, of %d files, are none",
                *(least, column, len(names), len(rare), num_files),
            )
        return names

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
                "%d paths of data.metadata name no image below %s, such as %r",
                len(lost),
                relative_to_cwd(self.root),
                lost[0],
            )
        with self._locked():
            store.clean(self.cache)
            self._forget_what_others_made()
            before = index.read(self.cache / "index.csv")
            pixels = store.find(self.cache, self.size, self.resize_mode)
            store.keep_only(pixels.folder if pixels else None, self.cache, self.size, self.resize_mode)
            facts, pixels, stopped_by = self._learn(self._unchanged(before), pixels)
            names = {path: str(path.relative_to(self.root)) for path in facts}
            entries = judge(
                {names[path]: fact for path, fact in facts.items()},
                {names[path]: self.name_of(path) for path in facts},
                {names[path]: reason for path, reason in self.excluded.items() if path in names},
                self.rules,
            )
            entries = compared(entries, before)
            if entries != before:
                index.write(entries, self.cache / "index.csv")
            if stopped_by:
                log.info("what has been read is kept; the next call goes on from there")
                raise stopped_by
            return Contents(entries, pixels)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The cache of this folder, for this process alone."""
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            lock = (self.cache / "lock").open("a")  # which empties nothing, should it be a link
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("another process is reading %s; waiting for it", relative_to_cwd(self.root))
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # also of a file system without locks
            raise ArtError(
                f"data.cache_dir: {error.filename or self.cache}: {error.strerror}; name a folder that can be written: "
                "data.cache_dir=DIR"
            ) from None
        with lock:
            yield

    def _forget_what_others_made(self) -> None:
        """Another decoder might give other pixels and other reasons."""
        note = self.cache / "made_by"
        if not note.is_file() or note.read_text() != MADE_BY:
            store.clean(self.cache, "[!l]*")  # all but the lock
            note.write_text(MADE_BY)

    def _unchanged(self, before: Sequence[Entry]) -> dict[Path, FileInfo]:
        """The facts of files that have the size and the time of change that they had."""
        known = {self.root / entry.path: entry.facts for entry in before if entry.facts.sha256}

        def stamp(path: Path) -> tuple[int, int] | None:
            with suppress(OSError):
                status = path.stat()
                return status.st_size, status.st_mtime_ns
            return None

        return {
            path: known[path]
            for path in self.files
            if path in known and stamp(path) == (known[path].bytes, known[path].mtime)
        }

    def _wanted(self, path: Path, facts: FileInfo) -> bool:
        """Whether a file's pixels are used, as far as can be seen from itself."""
        return status_of(facts, self.excluded.get(path, ""), self.rules)[0] == "ok"

    def _learn(
        self, known: Mapping[Path, FileInfo], pixels: PixelStore | None
    ) -> tuple[dict[Path, FileInfo], PixelStore | None, BaseException | None]:
        """The facts of all files, by path, and a store that holds the pixels of those that are wanted.

        Whatever stops the reading is handed back beside what had been learnt until then.
        """
        rows = pixels.rows if pixels else {}

        def is_settled(path: Path) -> bool:
            return path in known and (known[path].sha256 in rows or not self._wanted(path, known[path]))

        unsettled = [path for path in self.files if not is_settled(path)]
        if not unsettled:
            return dict(known), pixels, None
        self._say_what_comes(len(unsettled), len(rows))
        facts, stopped_by = dict(known), None
        examined = examine_all(unsettled, self.size, self.resize_mode, self.rules.max_pixels, self.num_workers)
        with closing(examined), ExitStack() as publishing:
            writer: Writer | None = None
            try:
                for path, fact, image in examined:
                    if image is not None and fact.sha256 not in rows and self._wanted(path, fact):
                        writer = writer or publishing.enter_context(
                            store.writing(self.cache, self.size, self.resize_mode)
                        )
                        writer.add(fact.sha256, image.transpose(2, 0, 1))
                    facts[path] = fact
            except OSError:  # such as a full disk: nothing can be kept
                raise
            except BaseException as error:  # noqa: BLE001 - also Ctrl-C
                stopped_by = error
            if writer and pixels:
                for digest in rows.keys() & {fact.sha256 for fact in facts.values()}:
                    writer.add(digest, pixels.pixels[rows[digest]])
        found = store.find(self.cache, self.size, self.resize_mode)
        return {path: facts[path] for path in self.files if path in facts}, found, stopped_by

    def _say_what_comes(self, num_unsettled: int, num_rows: int) -> None:
        """A line before the wait; an error if the disk has too little room."""
        index_bytes = 600 * len(self.files)  # its columns, and a path of usual length
        need = (num_rows + num_unsettled) * 3 * self.size**2 + index_bytes
        free = shutil.disk_usage(self.cache).free
        log.info(
            "%s: reading %d of %d files; as pixels all take at most %s in %s",
            relative_to_cwd(self.root),
            num_unsettled,
            len(self.files),
            decimal(need),
            relative_to_cwd(self.cache),
        )
        if need > free:
            raise ArtError(
                f"data.cache_dir: the pixels of {num_rows + num_unsettled} images need {decimal(need)} and "
                f"{self.cache} has {decimal(free)} left; make room, name another folder by data.cache_dir=DIR, or "
                "lower image_size"
            )
