"""Files that appear whole or not at all, weights that execute nothing."""

import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from artart import ArtError

METADATA = "artart"  # the key of the facts in a .safetensors file


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


def load(path: Path) -> Any:
    """What torch.save wrote, as plain data on the CPU; nothing in the file is executed.

    Raises:
        ArtError: if the file is missing, damaged or holds more than plain data.
    """
    with _one_line(path):
        if path.is_file() and zipfile.is_zipfile(path):
            _refuse_bomb(path)
        return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_bomb(path: Path) -> None:
    """torch.save neither compresses nor writes a byte twice; what does would swell on its way into memory."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED for one in records):
        raise ValueError("it is compressed, which torch.save never does")
    if sum(one.file_size for one in records) > path.stat().st_size:
        raise ValueError("its records are larger than the file")


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
    with _one_line(path), safetensors.safe_open(path, "pt") as file:
        facts = json.loads((file.metadata() or {}).get(METADATA, "null"))
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if not isinstance(facts, dict):
        raise ArtError(f"{path}: holds weights alone; artart.export writes what belongs to them beside them")
    return {**facts, "state_dict": weights}


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns what reading a foreign file raises, which may be nearly anything, into one line that names the file."""
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
    """Whether files can be written into a folder, which is made if it is missing."""
    try:
        with atomic(probe := folder / ".probe"):
            pass
        probe.unlink()
    except OSError:
        return False
    return True


def free(path: Path) -> Path:
    """The path, or with -2, -3 ... before its suffix if it is taken."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate
