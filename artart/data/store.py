"""The pixel store: decoded images of one size in one file that is mapped into memory, never half written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import numpy as np

PIXELS, DIGESTS = "pixels.bin", "digests.npy"


class PixelStore:
    """Images as they are trained on, found by the SHA-256 of their file's content.

    A folder of two files: `pixels.bin`, N images (3, S, S) after each other, and `digests.npy`, (N, 32); all uint8.
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
    """Images on their way into a new store in an empty folder, each (3, size, size)."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.row_bytes = 3 * size**2
        self.rows: dict[str, int] = {}
        self.file = (folder / PIXELS).open("xb")

    def add(self, digest: str, pixels: np.ndarray) -> None:
        """Append an image, uint8, once; an interruption in the middle leaves nothing behind."""
        if digest not in self.rows:
            self.file.seek(len(self.rows) * self.row_bytes)
            self.file.write(pixels.tobytes())
            self.rows[digest] = len(self.rows)

    def finish(self) -> None:
        """Put it on the disk, to survive a power cut."""
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
    """The newest store of that size and resize mode below a folder that is whole; None if there is none."""
    for candidate in sorted(
        folder.glob(f"{size}-{resize_mode}-*"), key=lambda path: path.stat().st_mtime, reverse=True
    ):
        with suppress(Exception):  # np.load raises nearly anything on damaged bytes
            return PixelStore(candidate, size)
    return None


def keep_only(store: Path | None, folder: Path, size: int, resize_mode: str) -> None:
    """Remove the other stores of that size and resize mode: damaged ones, and one that this one replaced."""
    for other in folder.glob(f"{size}-{resize_mode}-*"):
        if other != store:
            shutil.rmtree(other, ignore_errors=True)  # NFS refuses to remove a folder whose files are still mapped


@contextmanager
def writing(folder: Path, size: int, resize_mode: str) -> Iterator[Writer]:
    """A new store, which takes the place of the one before once it is on the disk; on an error nothing changes.

    One process at a time may write below a folder; another that has the old store open keeps it.

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
        keep_only(published, folder, size, resize_mode)
    except OSError as error:
        error.filename = error.filename or str(folder)  # a write that fails does not say where
        raise
    finally:
        clean(folder)


def clean(folder: Path, pattern: str = ".*.part") -> None:
    """Remove what a process left behind that did not come to its end."""
    for path in folder.glob(pattern):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """What was renamed in a folder survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
