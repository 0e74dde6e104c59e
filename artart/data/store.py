"""A store: arrays of one shape, such as decoded images, in a file that is mapped into memory and never half written."""

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np

VALUES, DIGESTS = "values.bin", "digests.npy"


class Kind(NamedTuple):
    """What a store holds of each image."""

    name: str  # of its folder, without a random end
    shape: tuple[int, ...]
    dtype: type = np.uint8

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Store:
    """An array for each image, by the SHA-256 of its file's content.

    A folder of two files: `values.bin`, N arrays, and `digests.npy`, (N, 32) uint8.
    """

    def __init__(self, folder: Path, kind: Kind) -> None:
        """Map a store into memory.

        Raises:
            Exception: of many types, if its files are damaged, do not fit each other or cannot be read.
        """
        digests = np.load(folder / DIGESTS)
        if (folder / VALUES).stat().st_size != len(digests) * kind.row_bytes:
            raise ValueError(f"{folder}: damaged")
        self.folder = folder
        self.values = np.memmap(folder / VALUES, kind.dtype, mode="c", shape=(len(digests), *kind.shape))
        self.rows = {digest.tobytes().hex(): row for row, digest in enumerate(digests)}


class Writer:
    """Writes arrays of a kind into a new store in an empty folder."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.folder = folder
        self.row_bytes = kind.row_bytes
        self.rows: dict[str, int] = {}
        self.file = (folder / VALUES).open("xb")

    def add(self, digest: str, values: np.ndarray) -> None:
        """Append the array of an image unless it is there; an interrupted call adds nothing."""
        if digest not in self.rows:
            self.file.seek(len(self.rows) * self.row_bytes)
            self.file.write(values.tobytes())
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


def find(folder: Path, kind: Kind) -> Store | None:
    """The newest undamaged store of a kind below a folder; None if there is none."""
    stores = folder.glob(f"{kind.name}-*")
    for candidate in sorted(stores, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(Exception):  # np.load raises nearly anything on damaged bytes
            return Store(candidate, kind)
    return None


@contextmanager
def writing(folder: Path, kind: Kind) -> Iterator[Writer]:
    """Write a new store, which replaces the older one once it is on the disk; on an error nothing changes.

    Only one process at a time may write below a folder. Processes that have the older store open keep it.

    Raises:
        OSError: if it cannot be written.
    """
    part = folder / f".{uuid4().hex}.part"
    part.mkdir()
    try:
        writer = Writer(part, kind)
        with writer.file:
            yield writer
            writer.finish()
        published = part.rename(folder / f"{kind.name}-{uuid4().hex[:8]}")
        sync(folder)
        clean(folder, f"{kind.name}-*", keep=published)
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
