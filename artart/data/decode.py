"""Decodes image files to upright sRGB pixels, without torch, so that worker processes start fast and stay small."""

import io
import struct
import threading
import warnings
from contextlib import nullcontext, suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps

for plugin in ("pillow_heif.HeifImagePlugin", "pillow_jxl"):  # of the extra "formats": HEIC and JPEG XL
    with suppress(ImportError):
        import_module(plugin)
Image.init()  # Image.open fails on the name of a plugin that is not loaded, and threads would race to load them
_KNOWN = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "PNG", "PPM", "TGA", "TIFF", "WEBP")
FORMATS = tuple(name for name in _KNOWN if name in Image.OPEN)  # older Pillows have no AVIF; MPO opens as JPEG
SRGB = ImageCms.createProfile("sRGB")
PAPER = (255, 255, 255)
MAX_PIXELS = 200_000_000
ResizeMode = Literal["stretch", "center_crop", "pad"]

Image.MAX_IMAGE_PIXELS = None  # Pillow has one limit for the whole process; open_image checks the caller's instead
_PILLOWS_LIMIT = threading.Lock()

# Users need no warnings about large images or odd metadata: a file is decoded, or there is a reason why not.
# A filter for the whole process, because before Python 3.14 catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class TooLarge(ValueError):  # noqa: N818 - a fact about an image
    """An image of more pixels than the caller allows: "60000 x 60000 pixels"."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.size = size  # width, height

    def __str__(self) -> str:
        return f"{self.size[0]} x {self.size[1]} pixels"


def open_image(
    file: str | Path | BinaryIO, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """Read an image's header; its pixels are decoded later.

    Raises:
        TooLarge: if the header says that it has more than max_pixels.
        Exception: of many types (OSError, SyntaxError ...), as Pillow's decoders raise them.
    """
    with Path(file).open("rb") if isinstance(file, str | Path) else nullcontext(file) as opened:
        opened.seek(0)
        head = opened.read(30)
    canvas = _canvas(head)
    if canvas[0] * canvas[1] > max_pixels:
        raise TooLarge(canvas)
    with _PILLOWS_LIMIT:
        if head.startswith(b"GIF8"):  # may hold a frame larger than its canvas, which Pillow fills when it opens it
            Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            image = Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = None
    if image.width * image.height > max_pixels:
        with image:  # closes the file, unless it is the caller's
            raise TooLarge(image.size)
    return image


def _canvas(head: bytes) -> tuple[int, int]:
    """The size of a GIF or a WebP, whose pixels Pillow allocates when it opens them; (0, 0) of other formats.

    Source: GIF89a, 18; RFC 9649 (WebP), 2.5 to 2.7; RFC 6386 (VP8), 9.1.
    """
    if head.startswith(b"GIF8") and len(head) >= 10:
        return struct.unpack_from("<HH", head, 6)
    if len(head) == 30 and head.startswith(b"RIFF"):
        if head[8:16] == b"WEBPVP8X":
            return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
        if head[8:16] == b"WEBPVP8L":
            bits = int.from_bytes(head[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if head[8:16] == b"WEBPVP8 ":
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def upright(image: Image.Image) -> Image.Image:
    """The first frame of an opened image, decoded to the last byte, upright, 8 bits deep, on white.

    Its colours stay in its own profile. Bit depths are scaled where Pillow would clip them, and transparent pixels
    become white.

    Returns:
        An image in mode L, RGB, CMYK or LAB; `image` itself if it is that already.

    Raises:
        Exception: of many types (OSError, SyntaxError ...), as Pillow's decoders raise them.
    """
    image.load()
    with suppress(Exception):  # damaged EXIF says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        flat = _to_8_bit(image)
    elif image.has_transparency_data:
        mode = "L" if image.mode in ("L", "LA") else "RGB"  # a grey profile needs grey
        flat = Image.new(mode, image.size, "white")
        rgba = image.convert("RGBA")
        flat.paste(rgba.convert(mode), mask=rgba.getchannel("A"))
    else:
        return image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")
    if icc := image.info.get("icc_profile"):
        flat.info["icc_profile"] = icc
    return flat


def to_srgb(image: Image.Image) -> Image.Image:
    """The result of `upright` in mode RGB, through its colour profile if that can be read and fits the image.

    Slower than decoding, so resize first.
    """
    if icc := image.info.get("icc_profile"):
        with suppress(ImageCms.PyCMSError, OSError, ValueError):
            if transform := _transform(icc, image.mode):
                converted = ImageCms.applyTransform(image, transform)
                assert converted is not None
                return converted
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None if it is sRGB already."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    if "sRGB" in ImageCms.getProfileDescription(profile):
        return None
    return ImageCms.buildTransform(profile, SRGB, mode, "RGB")


def decode(file: str | Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A file in mode RGB: open_image, upright and to_srgb."""
    with open_image(file, max_pixels) as image:
        return to_srgb(upright(image))


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Convert modes I;16, I and F to L; NaN becomes black.

    Of I and F white is the first of 1, 255, 65535 and the largest value that is not exceeded.
    """
    if image.mode.startswith("I;16"):
        levels = (np.arange(65536) / 257).round().astype(np.uint8)
        return Image.fromarray(levels[np.asarray(image)])
    values = np.asarray(image, dtype=np.float64)
    peak = values.max(initial=0, where=np.isfinite(values))
    white = next(white for white in (1.0, 255.0, 65535.0, peak) if peak <= white)
    return Image.fromarray(np.nan_to_num(values / white * 255).clip(0, 255).round().astype(np.uint8))


def resize(image: Image.Image, size: int, resize_mode: ResizeMode, paper: tuple[int, int, int] = PAPER) -> np.ndarray:
    """Resize the result of `upright` to sRGB, uint8 (size, size, 3), antialiased.

    Args:
        resize_mode: stretch: ignore the aspect ratio; center_crop: the largest square of the centre; pad: keep the
            aspect ratio and centre the image on `paper`, an sRGB colour.
    """
    if resize_mode == "center_crop":
        return np.asarray(to_srgb(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)))
    if resize_mode == "pad":
        width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
        sheet = Image.new("RGB", (size, size), paper)
        inner = to_srgb(image.resize((width, height), Image.Resampling.BILINEAR))
        sheet.paste(inner, ((size - width) // 2, (size - height) // 2))
        return np.asarray(sheet)
    return np.asarray(to_srgb(image.resize((size, size), Image.Resampling.BILINEAR)))
