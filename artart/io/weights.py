"""Reading and writing weights: torch's files and .safetensors. Nothing in a file is executed."""

import io
import json
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from artart import ArtError
from artart.io.files import create
from artart.io.plain import rebuild
from artart.io.terminal import first_line

METADATA = "artart"  # the key of the facts in a .safetensors file
NUM_PICKLES = 5  # in a row in torch's old format: magic number, version, system, content, names of storages
TAIL = 98  # bytes of an archive behind its directory, at most: the ZIP64 end, its locator, the end
MAX_HEADER = 16 * 2**20  # bytes of everything except the tensors, which Python parses
MAX_STEPS = 2_000_000  # of a pickle; each takes about a microsecond, twice
PLAIN = {  # names that a pickle may import, besides storages
    "collections OrderedDict",
    "collections Counter",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor",  # of old files
    "torch._utils _rebuild_parameter",
}
READING = {"empty", "set_", "detach", "alias"}  # operations on tensors by which torch reads plain weights


def load(path: Path, mapped: bool = False) -> Any:
    """Read what torch.save wrote, as exact plain data on the CPU (`plain.rebuild`).

    With `mapped` the tensors stay in the file until they are used, and are not checked for damage; not possible in
    torch's old format.

    Raises ArtError if the file is missing, damaged or holds more than plain data.
    """
    with _one_line(path):
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # torch decides by the same bytes
        _refuse_odd_pickles(_pickle_of_archive(path, check_all=not mapped) if is_zip else path.open("rb"))
        with _ReadOnly():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
        return rebuild(content, path.stat().st_size)


class _ReadOnly(TorchDispatchMode):
    """Refuse to compute: a pickle may ask for the elements or a copy of a view that is larger than any memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ not in READING:
            raise pickle.UnpicklingError(str(func))
        return func(*args, **(kwargs or {}))


def _pickle_of_archive(path: Path, check_all: bool) -> BinaryIO:
    """The pickle in an archive of torch.save, which neither compresses nor stores a byte twice.

    Without `check_all` only the pickle's checksum is verified. Raises ValueError if the archive would grow in memory,
    was not written by torch, or holds a damaged record.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL))
        if not _has_one_directory(file.read(), size):
            raise ValueError("its directory is not where torch.save writes it")
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = {one.filename.lower() for one in records}  # torch ignores case
        if any(one.compress_type != zipfile.ZIP_STORED for one in records):
            raise ValueError("it is compressed, which torch.save never does")
        if sum(one.file_size for one in records) > size or len(names) < len(records):
            raise ValueError("its records are larger than the file, or there twice")
        if len({name.partition("/")[0] for name in names}) != 1 or any(".." in Path(name).parts for name in names):
            raise ValueError("its records lie in several folders")
        if check_all and (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} is damaged")
        header = archive.getinfo(f"{records[0].filename.partition('/')[0]}/data.pkl")
        _check_header(header.file_size)
        return io.BytesIO(archive.read(header))


def _has_one_directory(tail: bytes, size: int) -> bool:
    """Whether a file ends with its archive's only directory, so that all readers find the same: no comment, no gap.

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
    """Raise UnpicklingError if a pickle imports a name that is not in PLAIN: torch allows some that take any memory."""
    with file:
        for _ in range(1 if isinstance(file, io.BytesIO) else NUM_PICKLES):
            for name in _names_in(file):
                if name not in PLAIN and not re.fullmatch(r"torch \w+Storage", name):
                    raise pickle.UnpicklingError(name)


def _names_in(file: BinaryIO) -> Iterator[str]:
    """The names that the next pickle imports."""
    try:
        for step, (opcode, name, place) in enumerate(pickletools.genops(file)):
            _check_header(place or 0)
            if step > MAX_STEPS:
                raise ValueError(f"its pickle has more than {MAX_STEPS:,} steps")
            if "GLOBAL" in opcode.name:
                yield str(name)
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from None


def _check_header(num_bytes: int) -> None:
    if num_bytes > MAX_HEADER:
        raise ValueError(f"its header has more than {MAX_HEADER:,} bytes")


def load_weights(path: Path, mapped: bool = False) -> dict[str, Tensor]:
    """Named tensors from a .safetensors file or a state dict written by torch.save; `mapped` as for `load`.

    Raises ArtError if the file is missing, damaged or holds anything but named tensors.
    """
    if is_safetensors(path):
        with _safetensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if not is_state_dict(weights := load(path, mapped)):
        raise ArtError(f"{path}: not a state dict (names and tensors)")
    return weights


def is_state_dict(node: Any) -> bool:
    """Whether it is a dict of tensors by name."""
    return isinstance(node, dict) and all(isinstance(key, str) and isinstance(node[key], Tensor) for key in node)


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of what `load_weights` reads, without reading the tensors (but those of torch's old format)."""
    if is_safetensors(path):
        with _safetensors(path) as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return {name: tuple(value.shape) for name, value in load_weights(path, mapped=True).items()}


def is_safetensors(path: Path) -> bool:
    """Whether a file is read as .safetensors, by its suffix."""
    return path.suffix.lower() == ".safetensors"


def save_shared(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bool:
    """Write a .safetensors file of named tensors that carries `facts`, plain data, in its metadata; False if it exists.

    Raises OSError if it cannot be written.
    """
    tensors = {name: value.contiguous() for name, value in weights.items()}
    return create(path, safetensors.torch.save(tensors, {METADATA: json.dumps(facts)}))


def load_shared(path: Path) -> Any:
    """Read what `save_shared` wrote: its facts, and its tensors as `state_dict`.

    Raises ArtError if the file is missing, damaged or carries no such facts.
    """
    with _safetensors(path) as file:
        facts = rebuild(json.loads((file.metadata() or {}).get(METADATA, "null")))
    if not isinstance(facts, dict):
        raise ArtError(f"{path}: holds weights alone; artart.export writes a file that also describes them")
    return {**facts, "state_dict": load_weights(path)}


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    """An open .safetensors file."""
    with _one_line(path):
        with path.open("rb") as header:
            _check_header(int.from_bytes(header.read(8), "little"))
        with safetensors.safe_open(path, "pt") as file:
            yield file


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn any error of reading a foreign file into one line that names the file."""
    if path.exists() and not path.is_file():  # reading a pipe would wait
        raise ArtError(f"{path}: not a file")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's guesses about files of other programs
            yield
    except FileNotFoundError:
        raise ArtError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise ArtError(
            f"{path}: holds Python objects, not plain weights, or is no weights file; it was not opened"
        ) from None
    except Exception as error:  # noqa: BLE001
        raise ArtError(f"{path}: damaged or not a weights file ({first_line(error)})") from None
