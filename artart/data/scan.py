"""Examines image files: the facts of each, its pixels, or why it is no usable image.

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

from artart.data.decode import (
    MAX_PIXELS,
    WHITE,
    Colour,
    ResizeMode,
    TooLarge,
    open_image,
    orientation,
    resize,
    upright,
)
from artart.data.find import kind_of
from artart.data.layouts import REMEDY, Unsupported
from artart.data.perceptual_hash import perceptual_hash
from artart.data.workers import MAX_SECONDS, OUT_OF_TIME, exclusive, in_workers
from artart.io.provenance import provenance_of
from artart.io.terminal import progress_bar

log = logging.getLogger(__name__)

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_IN_PROCESS = 1  # files that are examined without worker processes: any file may crash its decoder
LARGE = 25_000_000  # pixels; one process at a time decodes such an image, which takes 4 to 20 bytes a pixel
TOO_SLOW = f"takes more than {MAX_SECONDS} s to decode: save it again"
NO_MEMORY = "needs more memory than there is: lower data.num_workers or data.max_pixels"


class FileInfo(NamedTuple):
    """The facts of a file; sides in pixels as in its header."""

    bytes: int = 0
    mtime: int = 0  # nanoseconds, of the content
    ctime: int = 0  # nanoseconds, of content or inode: also changes if a program sets mtime back
    sha256: str = ""  # empty: its content could not be read
    format: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""  # Pillow's
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


def examine(
    path: Path, size: int, resize_mode: ResizeMode = "stretch", background: Colour = WHITE, max_pixels: int = MAX_PIXELS
) -> Examined:
    """Read and decode a file completely; any error becomes its flaw. An image above max_pixels is not decoded."""
    facts = FileInfo()
    try:
        with path.open("rb") as file:
            facts = identity(file)
            file.seek(0)
            if flaw := _flaw_of_content(file.read(64)):
                return Examined(path, facts._replace(flaw=flaw), None)
            with open_image(file, max_pixels) as image, exclusive(image.width * image.height > LARGE):
                facts = facts._replace(**_header(image))
                turned = orientation(image) if image.format == "TIFF" else 0  # which Pillow turns when it is loaded
                flat = upright(image, background)
                if image.has_transparency_data and (flaw := _blank(flat, background)):
                    return Examined(path, facts._replace(flaw=flaw), None)
                pixels = resize(flat, size, resize_mode, background)
                provenance = provenance_of(image, file)
                facts = facts._replace(
                    orientation=turned or orientation(image),
                    perceptual_hash=perceptual_hash(flat),
                    opt_out=provenance.opt_out,
                    source=provenance.source,
                )
                return Examined(path, facts, pixels)
    except MemoryError:  # no facts: it is tried again, as it may succeed later or elsewhere
        return Examined(path, FileInfo(flaw=NO_MEMORY), None)
    except TooLarge as error:
        return Examined(path, facts._replace(width=error.size[0], height=error.size[1]), None)
    except Image.DecompressionBombError as error:  # of a frame of a GIF: no facts, since data.max_pixels may be raised
        return Examined(path, FileInfo(flaw=_flaw(error)), None)
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise nearly anything on damaged bytes
        return Examined(path, facts._replace(flaw=_flaw(error)), None)


def identity(file: io.BufferedReader) -> FileInfo:
    """The facts by which an unchanged file is recognised."""
    status, digest = os.fstat(file.fileno()), hashlib.file_digest(file, "sha256").hexdigest()
    return FileInfo(status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest)


def _flaw_of_content(head: bytes) -> str:
    """What the first bytes of a file say against it."""
    if head.startswith(LFS_POINTER):
        return "Git-LFS pointer, not the image itself: run `git lfs pull`"
    return (kind_of(head) or "") if head else "empty file"


def _crashed(path: Path, by_signal: int) -> Examined:
    """The result for a file that ends the process that decodes it.

    One that was killed, as the system does if there is no memory left, is tried again by the next call. Otherwise the
    file's identity is kept, so that it is not.
    """
    if by_signal == 9:  # SIGKILL, which Windows does not have
        return Examined(path, FileInfo(flaw=NO_MEMORY), None)
    facts = FileInfo()
    with suppress(OSError), path.open("rb") as file:
        facts = identity(file)
    return Examined(path, facts._replace(flaw=TOO_SLOW if by_signal == OUT_OF_TIME else "crashes the decoder"), None)


def _header(image: Image.Image) -> dict[str, Any]:
    """The facts in an image's header."""
    facts = {"format": image.format, "mode": image.mode, "width": image.width, "height": image.height}
    if icc := image.info.get("icc_profile"):
        facts["icc"] = "unreadable"
        with suppress(Exception):
            description = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(icc)))
            facts["icc"] = " ".join(description[:100].split())
    return facts


def _blank(flat: Image.Image, background: Colour) -> str:
    """The flaw of a transparent image that shows nothing but the background; "" if it does."""
    if flat.getextrema() != tuple((level, level) for level in background):
        return ""
    name = "white" if background == WHITE else f"#{bytes(background).hex()}"
    other = "black" if sum(background) > sum(WHITE) / 2 else "white"
    return f"blank on {name}, try data.background={other}: nothing is seen of it"


def _flaw(error: Exception) -> str:
    """An error in one line that a user understands."""
    match error:
        case Image.UnidentifiedImageError():
            return "not an image, or cut off in its header"
        case Unsupported():
            return str(error)
        case Image.DecompressionBombError():
            return "a frame is larger than data.max_pixels"
        case OSError(args=[str(reason)]) if reason.startswith("Unsupported"):  # of a BMP, such as a depth of 2 bits
            return f"unsupported: {reason.removeprefix('Unsupported ')}; {REMEDY}"
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
    background: Colour = WHITE,
    max_pixels: int = MAX_PIXELS,
    num_workers: int | None = None,
    isolated: bool = False,
) -> Generator[Examined, None, None]:
    """Examine files in the order given, with a progress bar, in worker processes if there are several.

    A single file is examined in this process, which it ends if it crashes its decoder, unless `isolated`.
    """
    one = partial(examine, size=size, resize_mode=resize_mode, background=background, max_pixels=max_pixels)
    few = len(paths) <= MAX_IN_PROCESS - isolated
    results = map(one, paths) if few else in_workers(one, paths, _crashed, num_workers)
    with progress_bar() as bar:
        yield from bar.track(results, total=len(paths), description="reading images")
