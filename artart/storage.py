"""Files that appear whole or not at all, weights that execute nothing."""

import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from artart import ArtError


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place once it is written and on the disk; else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The process's umask, which mkstemp ignores and which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


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
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ArtError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        raise ArtError(
            f"{path}: holds Python objects, not plain weights, or is no weights file; it was not opened"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ArtError(f"{path}: damaged or not a PyTorch file ({str(error).splitlines()[0]})") from None


def load_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors from a .safetensors file or a state dict written by torch.save.

    Raises:
        ArtError: if the file is missing, damaged or holds anything but named tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except FileNotFoundError:
            raise ArtError(f"{path}: no such file") from None
        except SafetensorError as error:
            raise ArtError(f"{path}: damaged or not a safetensors file ({error})") from None
    weights = load(path)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ArtError(f"{path}: not a state dict (names and tensors)")
    return weights
