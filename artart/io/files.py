"""Files that appear whole or not at all and under names of their own, weights that execute nothing."""

import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO
from uuid import uuid4

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from artart import ArtError
from artart.io.plain import rebuild

METADATA = "artart"  # the key of the facts in a .safetensors file
MAX_NAME = 255  # bytes of a file name
KEPT = 8  # characters at the end of a stem that is shortened
PICKLES = 5  # one after the other in torch's old format: magic number, version, system, content, names of storages
TAIL = 98  # bytes of an archive behind its directory, at most: its end for large files, where that is, its end
MAX_HEADER = 16 * 2**20  # bytes of what stands beside the tensors, which is read by Python
PLAIN = {  # what a pickle may name, besides storages
    "collections OrderedDict",
    "collections Counter",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor",  # of old files
    "torch._utils _rebuild_parameter",
}
READING = {"empty", "set_", "detach", "alias"}  # what torch does with tensors while it reads plain weights


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` once it is written and on the disk; on an error it is removed.

    Raises:
        OSError: if the file cannot be written.
    """
    with _part(path) as (part, file):
        yield file
        _close(file)
        part.replace(path)


def create(path: Path, content: bytes) -> bool:
    """Write a file unless the name is taken, by whoever and at whatever moment; False if it is.

    The file appears whole or not at all.

    Raises:
        OSError: if the file cannot be written.
    """
    with _part(path) as (part, file):
        file.write(content)
        _close(file)
        return _take(part, path)


def write_new(path: Path, content: bytes) -> Path:
    """Write a file under the first name of `numbered` that is free, and return that name.

    Processes that write at the same time get different names. The file appears whole or not at all.

    Raises:
        OSError: if the file cannot be written.
    """
    with _part(path) as (part, file):
        file.write(content)
        _close(file)
        return next(place for place in numbered(path) if _take(part, place))


def new_folder(path: Path) -> Path:
    """Make a folder under the first name of `numbered` that is free, and return it; no other process gets the same.

    Raises:
        OSError: if it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for place in numbered(path):
        with suppress(FileExistsError):
            place.mkdir()
            break
    return place


def numbered(path: Path) -> Iterator[Path]:
    """The path, then with -2, -3 ... before its suffix.

    A name that is too long for a file system is shortened within its stem; the end of the stem, which tells the images
    of one input apart, is kept.
    """
    for number in count(1):
        stem, ending = path.stem, (f"-{number}" if number > 1 else "") + path.suffix
        while len(os.fsencode(stem + ending)) > MAX_NAME:
            stem = stem[: -KEPT - 1] + stem[-KEPT:]  # by whole characters
        yield path.with_name(stem + ending)


@contextmanager
def _part(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Name and file of a new temporary file beside `path`; what has not been given another name is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: its files are private whatever the umask. Only the start of the name: it may be as long as can be.
    part = path.with_name(f".{path.name[:40]}.{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield part, file
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that fails does not say where
        raise
    finally:
        part.unlink(missing_ok=True)


def _close(file: BinaryIO) -> None:
    """Put the content on the disk before the file gets its name."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _take(part: Path, place: Path) -> bool:
    """Give a temporary file a name that nobody has; False if it is taken."""
    try:
        os.link(part, place)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            place.touch(exist_ok=False)  # reserves the name: for a moment the file is empty
        except FileExistsError:
            return False
        part.replace(place)
    return True


def write_json(path: Path, content: object) -> None:
    """Write readable JSON, atomically."""
    with atomic(path) as file:
        file.write(as_json(content))


def as_json(content: object) -> bytes:
    """Plain data as readable JSON."""
    return (json.dumps(content, indent=2) + "\n").encode()


def sha256(path: Path) -> str:
    """The hexadecimal hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(path: Path, mapped: bool = False) -> Any:
    """What torch.save wrote, rebuilt as exact plain data on the CPU (`plain.rebuild`); nothing in it is executed.

    Args:
        path: the file.
        mapped: leave the tensors' numbers in the file until they are used, and do not check them for damage.

    Raises:
        ArtError: if the file is missing, damaged or holds more than plain data.
    """
    with _one_line(path):
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # torch decides by the same bytes
        _refuse_odd_pickles(_records_pickle(path, check_all=not mapped) if is_zip else path.open("rb"))
        with _NothingButReading():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        return rebuild(content, path.stat().st_size)


class _NothingButReading(TorchDispatchMode):
    """Refuses to compute: a pickle may ask for the elements or a copy of a view that is larger than any memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ not in READING:
            raise pickle.UnpicklingError(str(func))
        return func(*args, **(kwargs or {}))


def _records_pickle(path: Path, check_all: bool) -> BinaryIO:
    """The pickle in what torch.save wrote, after a look at the whole: it neither compresses nor writes a byte twice.

    Unless `check_all`, only the pickle is held against its checksum.

    Raises:
        ValueError: if it would swell on its way into memory, or is none of torch's, or a record is damaged.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        if not _ends_plainly(file.read(), path.stat().st_size):
            raise ValueError("its directory is not where torch.save writes it")
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = {one.filename.lower() for one in records}  # torch does not tell upper from lower case
        if any(one.compress_type != zipfile.ZIP_STORED for one in records):
            raise ValueError("it is compressed, which torch.save never does")
        if sum(one.file_size for one in records) > path.stat().st_size or len(names) < len(records):
            raise ValueError("its records are larger than the file, or there twice")
        if len({name.partition("/")[0] for name in names}) != 1 or any(".." in Path(name).parts for name in names):
            raise ValueError("its records lie in several folders")
        if check_all and (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} is damaged")
        header = archive.getinfo(f"{records[0].filename.partition('/')[0]}/data.pkl")
        if header.file_size > MAX_HEADER:
            raise ValueError(f"its header has more than {MAX_HEADER:,} bytes")
        return io.BytesIO(archive.read(header))


def _ends_plainly(tail: bytes, size: int) -> bool:
    """Whether a file ends with an archive's only directory, as far as two readers can differ: no comment, no gap.

    Source: PKWARE's APPNOTE, 4.3.14 to 4.3.16.
    """
    directory, end = tail[:-42], tail[-22:]
    if end[:4] != b"PK\5\6" or end[20:] != b"\0\0":
        return False
    if tail[-42:-38] != b"PK\6\7":
        length, start = struct.unpack("<2L", end[12:20])
        return start + length == size - 22
    if len(directory) != 56 or directory[:12] != b"PK\6\6" + struct.pack("<Q", 44):
        return False
    length, start = struct.unpack("<2Q", directory[40:])
    return struct.unpack("<Q", tail[-34:-26])[0] == start + length == size - TAIL


def _refuse_odd_pickles(file: BinaryIO) -> None:
    """torch allows more than plain weights need, some of which takes any amount of memory.

    Raises:
        pickle.UnpicklingError: if a name stands in the file that is not in PLAIN.
    """
    with file:
        for _ in range(1 if isinstance(file, io.BytesIO) else PICKLES):
            for name in _names_in(file):
                if name not in PLAIN and not re.fullmatch(r"torch \w+Storage", name):
                    raise pickle.UnpicklingError(name)


def _names_in(file: BinaryIO) -> Iterator[str]:
    """What the next pickle asks to import."""
    try:
        for opcode, name, place in pickletools.genops(file):
            if (place or 0) > MAX_HEADER:
                raise ValueError(f"its header has more than {MAX_HEADER:,} bytes")
            if "GLOBAL" in opcode.name:
                yield str(name)
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from None


def load_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors from a .safetensors file or a state dict written by torch.save.

    Raises:
        ArtError: if the file is missing, damaged or holds anything but named tensors.
    """
    if path.suffix.lower() == ".safetensors":
        with _one_line(path):
            return safetensors.torch.load_file(path)
    weights = load(path)
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise ArtError(f"{path}: not a state dict (names and tensors)")
    return weights


def save_shared(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bool:
    """Write a .safetensors file of named tensors that carries `facts`, plain data, in its metadata; False if it exists.

    Raises:
        OSError: if it cannot be written.
    """
    tensors = {name: value.contiguous() for name, value in weights.items()}
    return create(path, safetensors.torch.save(tensors, {METADATA: json.dumps(facts)}))


def load_shared(path: Path) -> Any:
    """What `save_shared` wrote: its facts, and its tensors as `state_dict`.

    Raises:
        ArtError: if the file is missing, damaged or does not carry such facts.
    """
    with _one_line(path):
        with path.open("rb") as header:
            if int.from_bytes(header.read(8), "little") > MAX_HEADER:
                raise ValueError(f"its header has more than {MAX_HEADER:,} bytes")
        with safetensors.safe_open(path, "pt") as file:
            facts = rebuild(json.loads((file.metadata() or {}).get(METADATA, "null")))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if not isinstance(facts, dict):
        raise ArtError(f"{path}: holds weights alone; artart.export writes what belongs to them beside them")
    return {**facts, "state_dict": weights}


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns what reading a foreign file raises, which may be nearly anything, into one line that names the file."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ArtError(f"{path}: not a file")
    try:
        with warnings.catch_warnings(action="ignore"):  # guesses of torch about files that are none of its own
            yield
    except FileNotFoundError:
        raise ArtError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise ArtError(
            f"{path}: holds Python objects, not plain weights, or is no weights file; it was not opened"
        ) from None
    except Exception as error:  # noqa: BLE001
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ArtError(f"{path}: damaged or not a weights file ({reason})") from None


def is_writable(folder: Path) -> bool:
    """Whether files can be written into a folder, or a folder of that name can be made. Nothing is written."""
    try:
        for path in (folder, *folder.parents):
            with suppress(FileNotFoundError):
                path.lstat()
                break
        with TemporaryFile(dir=path, prefix="."):  # without a name, where the system can do that
            return True
    except OSError:
        return False


@contextmanager
def output_folder(out: str | None, default: Path) -> Iterator[Path]:
    """The folder `out`; if that is None, a new one like `default`, which is removed at the end if nothing is in it.

    Raises:
        ArtError: if it is a file or cannot be written.
    """
    folder = default if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise ArtError(f"out={folder}: is a file; name a folder")
    if not is_writable(folder):
        raise ArtError(f"out={folder}: cannot be written; name another folder")
    if out is not None:
        yield folder
        return
    missing = [path for path in folder.parents if not path.exists()]
    folder = new_folder(folder)
    try:
        yield folder
    finally:
        remove_empty([folder, *missing])


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the deepest first, up to one that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()
