"""Finds the image files below a folder and examines each: its facts, its pixels, or why it is no usable image.

Worker processes import this module: it needs no torch.
"""

import hashlib
import io
import logging
import os
from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from artart.data.decode import FORMATS, MAX_PIXELS, ResizeMode, TooLarge, open_image, resize, upright
from artart.data.perceptual_hash import perceptual_hash
from artart.data.workers import in_workers
from artart.io.provenance import provenance_of
from artart.io.terminal import progress_bar

log = logging.getLogger(__name__)

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
ORIENTATION = 0x0112  # EXIF
MAX_IN_PROCESS = 1  # files that are examined without worker processes: any file may crash its decoder
MAX_PAGES = 100  # of a TIFF that are counted


class FileInfo(NamedTuple):
    """The facts of a file; sides in pixels as in its header."""

    bytes: int = 0
    mtime: int = 0  # nanoseconds
    sha256: str = ""  # empty: its content could not be read
    format: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""  # Pillow's
    frames: int = 0
    alpha: bool = False
    icc: str = ""  # the colour profile's description
    orientation: int = 1  # EXIF, 1 to 8; 1 is upright
    perceptual_hash: str = ""  # empty: it was not decoded
    opt_out: str = ""  # PLUS Data Mining: what it prohibits
    source: str = ""  # IPTC Digital Source Type
    flaw: str = ""  # why it cannot be decoded


class Examined(NamedTuple):
    """A file's facts, and its pixels if it can be decoded."""

    path: Path
    facts: FileInfo
    pixels: np.ndarray | None  # uint8 (S, S, 3)


def find(root: Path) -> list[Path]:
    """Every file below root that is an image by its content or its suffix, sorted.

    Hidden files and folders and the folders of artart's runs are ignored. Links to folders are followed, each real
    folder once.
    """

    def ignore(error: OSError) -> None:
        log.warning("%s: %s; this folder is ignored", error.filename, error.strerror)

    files, seen = [], set()
    for folder, folders, names in os.walk(root, onerror=ignore, followlinks=True):
        real = os.path.realpath(folder)
        is_run = ".hydra" in folders and {"train.log", "prepare.log"} & set(names) and Path(folder) != root
        if real in seen or is_run:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    formats = {*FORMATS, "MPO"}  # MPO is a JPEG followed by further images; Pillow opens it as JPEG
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    # Path.is_file raises an error in a folder that can be listed but not entered.
    files = [path for path in files if os.path.isfile(path)]  # noqa: PTH113
    return sorted(path for path in files if path.suffix.lower() in suffixes or _is_image(path))


def _is_image(path: Path) -> bool:
    """Whether a file has an image's header. The rest is not read. TGA is left out: its header has no magic number."""
    try:
        with open_image(path, formats=tuple(name for name in FORMATS if name != "TGA")):
            return True
    except (TooLarge, Image.DecompressionBombError):
        return True
    except Exception:  # noqa: BLE001 - Pillow's decoders raise nearly anything on foreign bytes
        return False


def class_of(path: Path, root: Path) -> str | None:
    """The name of root's sub-folder that holds the file at any depth; None for a file in root itself."""
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def examine(path: Path, size: int, resize_mode: ResizeMode = "stretch", max_pixels: int = MAX_PIXELS) -> Examined:
    """Read and decode a file completely; any error becomes its flaw. An image above max_pixels is not decoded."""
    facts = FileInfo()
    try:
        with path.open("rb") as file:
            facts = _identity(file)
            file.seek(0)
            start = file.read(len(LFS_POINTER))
            if not start or start == LFS_POINTER:
                pointer = "Git-LFS pointer, not the image itself: run `git lfs pull`"
                return Examined(path, facts._replace(flaw=pointer if start else "empty file"), None)
            with open_image(file, max_pixels) as image:
                facts = facts._replace(**_header(image))
                if image.format == "PNG":
                    image.load()  # getexif does so, and of a damaged image the second load raises nothing
                facts = facts._replace(orientation=_orientation(image))
                flat = upright(image)
                provenance = provenance_of(image)
                pixels = resize(flat, size, resize_mode)
                facts = facts._replace(
                    alpha=image.has_transparency_data,
                    perceptual_hash=perceptual_hash(flat),
                    opt_out=provenance.opt_out,
                    source=provenance.source,
                    frames=_num_frames(image),  # last: it leaves the image at any of its frames
                )
                return Examined(path, facts, pixels)
    except MemoryError:  # no facts: it is tried again, as it may succeed later or elsewhere
        return Examined(path, FileInfo(flaw="takes more memory to decode than there is"), None)
    except TooLarge as error:
        return Examined(path, facts._replace(width=error.size[0], height=error.size[1]), None)
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise nearly anything on damaged bytes
        return Examined(path, facts._replace(perceptual_hash="", flaw=_flaw(error)), None)


def _identity(file: io.BufferedReader) -> FileInfo:
    """The facts by which an unchanged file is recognised."""
    status = os.fstat(file.fileno())
    return FileInfo(status.st_size, status.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest())


def _crashed(path: Path) -> Examined:
    """The result for a file that kills the process that decodes it. Its identity is kept, so it is not tried again."""
    facts = FileInfo()
    with suppress(OSError), path.open("rb") as file:
        facts = _identity(file)
    return Examined(path, facts._replace(flaw="crashes the decoder"), None)


def _header(image: Image.Image) -> dict[str, Any]:
    """The facts in an image's header."""
    facts: dict[str, Any] = {"format": image.format, "mode": image.mode, "frames": 1}
    facts["width"], facts["height"] = image.size
    if icc := image.info.get("icc_profile"):
        facts["icc"] = "unreadable"
        with suppress(Exception):
            description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc)))
            facts["icc"] = " ".join(description[:100].split())
    return facts


def _orientation(image: Image.Image) -> int:
    with suppress(Exception):  # damaged EXIF says nothing about the pixels
        orientation = image.getexif().get(ORIENTATION, 1)
        return int(orientation) if orientation in range(1, 9) else 1
    return 1


def _num_frames(image: Image.Image) -> int:
    """Frames or pages, as far as they can be counted; at most MAX_PAGES of a TIFF: Pillow takes quadratic time."""
    frames = 1
    with suppress(Exception):
        if image.format != "TIFF":
            return getattr(image, "n_frames", 1)
        while frames < MAX_PAGES:
            image.seek(frames)
            frames += 1
    return frames


def _flaw(error: Exception) -> str:
    """An error in one line that a user understands."""
    match error:
        case Image.UnidentifiedImageError():
            return "not an image, or cut off in its header"
        case Image.DecompressionBombError():
            return "a frame is larger than data.max_pixels"
        case FileNotFoundError():
            return "vanished while it was read"
        case PermissionError():
            return "no permission to read it"
        case OSError(strerror=str(reason)) if reason:
            return f"cannot be read: {reason}"
    return "cut off or damaged: " + (" ".join(str(error).split()) or type(error).__name__)


def examine_all(
    paths: Sequence[Path],
    size: int,
    resize_mode: ResizeMode = "stretch",
    max_pixels: int = MAX_PIXELS,
    num_workers: int | None = None,
    description: str = "reading images",
) -> Generator[Examined, None, None]:
    """Examine files in the order given, with a progress bar, in worker processes if there are several."""
    one = partial(examine, size=size, resize_mode=resize_mode, max_pixels=max_pixels)
    few = len(paths) <= MAX_IN_PROCESS
    results = map(one, paths) if few else in_workers(one, paths, _crashed, num_workers, preload=__name__)
    with progress_bar() as bar:
        yield from bar.track(results, total=len(paths), description=description)
