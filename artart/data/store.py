"""A store: arrays of one shape, such as decoded images, in a file that is mapped into memory, grows and is checked."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf, prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

import numpy as np

from artart.io.terminal import progress_bar

VALUES, ROWS = "values.bin", "rows.bin"
ROW = np.dtype([("digest", "V32"), ("crc", "<u4")])


class Kind(NamedTuple):
    """What a store holds of each image."""

    name: str  # of its folder
    shape: tuple[int, ...]
    dtype: type = np.uint8

    @property
    def row_bytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class Store:
    """An array for each image, by the SHA-256 of its file's content.

    A folder of two files: `values.bin`, N arrays, and `rows.bin`, for each of them the digest and a CRC-32 of both. An
    array that does not fit its CRC, because a write was cut short or the disk has lost a bit, is not there.
    """

    def __init__(self, folder: Path, kind: Kind) -> None:
        """Map a store into memory and check it, at 1 GB/s. Raises OSError or ValueError if it cannot be read."""
        rows = np.fromfile(folder / ROWS, ROW)
        num_rows = min(len(rows), (folder / VALUES).stat().st_size // kind.row_bytes)
        self.values = np.memmap(folder / VALUES, kind.dtype, mode="c", shape=(num_rows, *kind.shape))
        self.rows: dict[str, int] = {}
        with progress_bar() as bar:
            for row in bar.track(range(num_rows), description="checking the cache"):
                digest = rows["digest"][row].tobytes()
                if _checksum(digest, self.values[row]) == rows["crc"][row]:
                    self.rows[digest.hex()] = row


class Writer:
    """Appends arrays of a kind to a store's files."""

    def __init__(self, values: BinaryIO, rows: BinaryIO, kind: Kind) -> None:
        self.files = (values, kind.row_bytes), (rows, ROW.itemsize)
        self.num_rows = min(file.seek(0, 2) // row_bytes for file, row_bytes in self.files)
        self.added: set[str] = set()

    def add(self, digest: str, values: np.ndarray) -> None:
        """Append the array of an image unless this writer has; an interrupted call adds nothing."""
        if digest in self.added:
            return
        key, data = bytes.fromhex(digest), values.tobytes()
        row = key + _checksum(key, data).to_bytes(4, "little")
        for (file, row_bytes), content in zip(self.files, (data, row), strict=True):
            file.seek(self.num_rows * row_bytes)
            file.write(content)
            file.flush()
        self.added.add(digest)
        self.num_rows += 1


def _checksum(digest: bytes, values: Any) -> int:
    return crc32(values, crc32(digest))


def find(folder: Path, kind: Kind, max_rows: float = inf) -> Store | None:
    """The store of a kind below a folder; None if it holds nothing.

    One of more than max_rows arrays, of which most are of images that are gone, is removed.
    """
    with suppress(OSError, ValueError):
        store = Store(folder / kind.name, kind)
        if len(store.values) > max_rows:
            del store  # Windows keeps a file that is mapped
            remove(folder / kind.name)
        elif store.rows:
            return store
    return None


@contextmanager
def writing(folder: Path, kind: Kind) -> Iterator[Writer]:
    """Append to the store of a kind below a folder; what was added stays, whatever happens then.

    Only one process at a time may write below a folder. Others keep what they have found.

    Raises OSError if it cannot be written.
    """
    place = folder / kind.name
    try:
        place.mkdir(exist_ok=True)
        for name in (VALUES, ROWS):
            (place / name).touch()
        with (place / VALUES).open("r+b") as values, (place / ROWS).open("r+b") as rows:
            yield Writer(values, rows, kind)
    except OSError as error:
        error.filename = error.filename or str(folder)  # a write that fails does not say where
        raise


def remove(path: Path) -> None:
    """Remove a file or folder, as far as no other process holds it."""
    with suppress(OSError):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def clean(folder: Path, pattern: str = ".*.part", keep: Path | None = None) -> None:
    """Remove what matches a pattern; by default what an interrupted process left behind."""
    for path in set(folder.glob(pattern)) - {keep}:
        remove(path)
