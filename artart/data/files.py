"""From a folder to decoded pictures, with a reason for each file that is none."""

import csv
import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from artart.images import FORMATS, decode, squash
from artart.storage import atomic
from artart.terminal import progress_bar

log = logging.getLogger(__name__)

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class Decoded(NamedTuple):
    """A usable picture."""

    path: Path
    pixels: np.ndarray  # uint8 (S, S, 3)
    digest: str  # SHA-256 of the file's content


class Rejected(NamedTuple):
    """A file that calls itself a picture but cannot be used."""

    path: Path
    reason: str
    bytes: int


def find(root: Path) -> list[Path]:
    """Every file below root that is a picture by its content or by its suffix, sorted.

    Hidden files and folders are passed over; links to folders are followed, each real folder once.
    """
    files, seen = [], set()
    for folder, folders, names in os.walk(root, onerror=_passed_over, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    suffixes = picture_suffixes()
    return sorted(path for path in files if _is_file(path) and (path.suffix.lower() in suffixes or is_picture(path)))


def _is_file(path: Path) -> bool:
    """Path.is_file raises where a folder may be listed but not entered."""
    return os.path.isfile(path)  # noqa: PTH113


def _passed_over(error: OSError) -> None:
    log.warning("%s: %s; this folder is passed over", error.filename, error.strerror)


def picture_suffixes() -> set[str]:
    """Suffixes of the formats that are read, in lower case."""
    formats = {*FORMATS, "MPO"}  # a JPEG with further pictures behind it, which Pillow opens as JPEG
    return {suffix for suffix, name in Image.registered_extensions().items() if name in formats}


def is_picture(path: Path) -> bool:
    """Whether a file's header is that of a picture; the rest is not read. TGA's header could be that of anything."""
    try:
        with Image.open(path, formats=[name for name in FORMATS if name != "TGA"]):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # noqa: BLE001 - Pillow's decoders raise nearly anything on foreign bytes
        return False


def class_of(path: Path, root: Path) -> str | None:
    """The name of root's sub-folder in which the file lies, however deep; None for a file in root itself."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def read(path: Path, size: int) -> Decoded | Rejected:
    """Read and decode one file, fully; whatever is wrong with it becomes a reason."""
    content = b""
    try:
        content = path.read_bytes()
        if not content:
            return Rejected(path, "empty file", 0)
        if content.startswith(LFS_POINTER):
            return Rejected(path, "Git-LFS pointer, not the picture itself: run `git lfs pull`", len(content))
        return Decoded(path, squash(decode(io.BytesIO(content)), size), sha256(content).hexdigest())
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise nearly anything on damaged bytes
        return Rejected(path, _reason(error), len(content))


def _reason(error: Exception) -> str:
    """One line that a person understands."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture, or cut off in its header"
    if isinstance(error, Image.DecompressionBombError):
        return "implausibly large: " + str(error).split(",")[0].removeprefix("Image size ")
    if isinstance(error, FileNotFoundError):
        return "vanished while it was read"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return "cut off or damaged: " + (" ".join(str(error).split()) or type(error).__name__)


def read_all(
    paths: Sequence[Path], size: int, num_threads: int | None = None, description: str = "reading pictures"
) -> Iterator[Decoded | Rejected]:
    """Read files in the order given, in threads (Pillow decodes outside Python's lock), with a progress bar."""
    pool = ThreadPoolExecutor(num_threads or os.cpu_count())
    try:
        with progress_bar() as bar:
            yield from bar.track(pool.map(partial(read, size=size), paths), total=len(paths), description=description)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the files in hand, not for the rest


def write_rejected(rejected: Iterable[Rejected], file: Path) -> None:
    """A table of the unusable files, with the reasons."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(Rejected._fields)
    writer.writerows(rejected)
    with atomic(file) as out:
        out.write(text.getvalue().encode("utf-8", "surrogateescape"))
