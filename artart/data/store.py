"""The pixel store: decoded images of one size in a file that is mapped into memory and never half written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import numpy as np

PIXELS, DIGESTS = "pixels.bin", "digests.npy"


class PixelStore:
    """Images as they are trained on, by the SHA-256 of their file's content.

    A folder of two files: `pixels.bin`, N images (3, S, S), and `digests.npy`, (N, 32); all uint8.
    """

    def __init__(self, folder: Path, size: int) -> None:
        """Map a store into memory.

        Raises:
            Exception: of many types, if its files are damaged, do not fit each other or cannot be read.
        """
        digests = np.load(folder / DIGESTS)
        if (folder / PIXELS).stat().st_size != len(digests) * 3 * size**2:
            raise ValueError(f"{folder}: damaged")
        self.folder = folder
        self.pixels = np.memmap(folder / PIXELS, np.uint8, mode="c", shape=(len(digests), 3, size, size))
        self.rows = {digest.tobytes().hex(): row for row, digest in enumerate(digests)}


class Writer:
    """Writes images, each uint8 (3, size, size), into a new store in an empty folder."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.row_bytes = 3 * size**2
        self.rows: dict[str, int] = {}
        self.file = (folder / PIXELS).open("xb")

    def add(self, digest: str, pixels: np.ndarray) -> None:
        """Append an image unless it is there; an interrupted call adds nothing."""
        if digest not in self.rows:
            self.file.seek(len(self.rows) * self.row_bytes)
            self.file.write(pixels.tobytes())
            self.rows[digest] = len(self.rows)

    def finish(self) -> None:
        """Write everything to the disk, so that it survives a power failure."""
        self.file.truncate(len(self.rows) * self.row_bytes)
        self.file.flush()
        os.fsync(self.file.fileno())
        digests = np.frombuffer(bytes.fromhex("".join(self.rows)), np.uint8).reshape(-1, 32)
        with (self.folder / DIGESTS).open("xb") as file:
            np.save(file, digests)
            file.flush()
            os.fsync(file.fileno())
        sync(self.folder)


def find(folder: Path, size: int, resize_mode: str) -> PixelStore | None:
    """The newest undamaged store of that size and resize mode below a folder; None if there is none."""
    stores = folder.glob(f"{size}-{resize_mode}-*")
    for candidate in sorted(stores, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(Exception):  # np.load raises nearly anything on damaged bytes
            return PixelStore(candidate, size)
    return None


@contextmanager
def writing(folder: Path, size: int, resize_mode: str) -> Iterator[Writer]:
    """Write a new store, which replaces the older one once it is on the disk; on an error nothing changes.

    Only one process at a time may write below a folder. Processes that have the older store open keep it.

    Raises:
        OSError: if it cannot be written.
    """
    part = folder / f".{uuid4().hex}.part"
    part.mkdir()
    try:
        writer = Writer(part, size)
        with writer.file:
            yield writer
            writer.finish()
        published = part.rename(folder / f"{size}-{resize_mode}-{uuid4().hex[:8]}")
        sync(folder)
        clean(folder, f"{size}-{resize_mode}-*", keep=published)
    except OSError as error:
        error.filename = error.filename or str(folder)  # a write that fails does not say where
        raise
    finally:
        clean(folder)


def clean(folder: Path, pattern: str = ".*.part", keep: Path | None = None) -> None:
    """Remove what matches a pattern; by default what an interrupted process left behind."""
    for path in set(folder.glob(pattern)) - {keep}:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # NFS refuses to remove a folder whose files are still mapped
        else:
            path.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Make renames in a folder survive a power failure, where the system can open folders: Windows cannot."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
