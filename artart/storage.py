"""Files that appear whole or not at all, weights that execute nothing."""

import hashlib
import io
import json
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from artart import ArtError
from artart.plain import rebuild

METADATA = "artart"  # the key of the facts in a .safetensors file
PICKLES = 4  # one after the other in torch's old format: magic number, version, system, content
MAX_HEADER = 16 * 2**20  # bytes of what stands beside the tensors, which is read by Python
PLAIN = {  # what a pickle may name, besides storages
    "collections OrderedDict",
    "collections Counter",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor",  # of old files
    "torch._utils _rebuild_parameter",
}


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of `path` once it is written and on the disk; else it is removed.

    Raises:
        OSError: if the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: its files are private whatever the umask. Only the start of the name: it may be as long as can be.
    part = path.with_name(f".{path.name[:40]}.{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a write that fails does not say where
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Write readable JSON, atomically."""
    with atomic(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


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
        return rebuild(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))


def _records_pickle(path: Path, check_all: bool) -> BinaryIO:
    """The pickle in what torch.save wrote, after a look at the whole: it neither compresses nor writes a byte twice.

    Unless `check_all`, only the pickle is held against its checksum.

    Raises:
        ValueError: if it would swell on its way into memory, or is none of torch's, or a record is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = {one.filename for one in records}
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


def save_shared(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a .safetensors file of named tensors that carries `facts`, plain data, in its metadata.

    Raises:
        OSError: if it cannot be written.
    """
    tensors = {name: value.contiguous() for name, value in weights.items()}
    with atomic(path) as file:
        file.write(safetensors.torch.save(tensors, {METADATA: json.dumps(facts)}))


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
    """Whether files can be written into a folder, or into one of that name that is not there yet."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with atomic(probe := folder / ".probe"):
            pass
        probe.unlink()
    except OSError:
        return False
    finally:
        with suppress(OSError):
            for path in missing:  # the deepest first
                path.rmdir()
    return True


def free(path: Path) -> Path:
    """The path, or with -2, -3 ... before its suffix if it is taken."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate
