"""Decodes image files to upright sRGB pixels, without torch, so that worker processes start fast and stay small."""

import math
import struct
import threading
import warnings
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageColor, ImageOps

from artart.data import deep, layouts, png, profiles
from artart.data.profiles import to_srgb

for plugin in ("pillow_heif.HeifImagePlugin", "pillow_jxl"):  # of the extra "formats": HEIC and JPEG XL
    with suppress(ImportError):
        import_module(plugin)
Image.init()  # Image.open fails on the name of a plugin that is not loaded, and threads would race to load them
_KNOWN = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "PNG", "PPM", "TGA", "TIFF", "WEBP")
FORMATS = tuple(name for name in _KNOWN if name in Image.OPEN)  # older Pillows have no AVIF; MPO opens as JPEG
WHITE = (255, 255, 255)
MAX_PIXELS = 200_000_000
ORIENTATION = 0x0112  # EXIF
TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), start=2))  # by EXIF orientation
HEAD = 65536  # bytes; the header of an AVIF ends there
Colour = tuple[int, int, int]  # sRGB
ResizeMode = Literal["stretch", "center_crop", "pad"]

Image.MAX_IMAGE_PIXELS = None  # Pillow has one limit for the whole process; open_image checks the caller's instead
_PILLOWS_LIMIT = threading.Lock()

# Users need no warnings about large images or odd metadata: a file is decoded, or there is a reason why not.
# A filter for the whole process, because before Python 3.14 catch_warnings is not safe in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class TooLarge(ValueError):  # noqa: N818 - a fact about an image
    """An image of more pixels than the caller allows."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__("{} x {} pixels".format(*size))
        self.size = size  # width, height


def open_image(
    file: str | Path | BinaryIO, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """Read an image's header; its pixels are decoded later. A profile of its colours is in `info["icc_profile"]`.

    Raises:
        TooLarge: if the header says that it has more than max_pixels.
        DecompressionBombError: if a frame of a GIF has more than twice as many.
        Unsupported: if it may be decoded to wrong pixels.
        Exception: of many types (OSError, SyntaxError ...), as Pillow's decoders raise them.
    """
    with Path(file).open("rb") if isinstance(file, str | Path) else nullcontext(file) as opened:
        opened.seek(0)
        head = opened.read(HEAD)
        found, bits, cicp = png.readable(opened) if head.startswith(png.SIGNATURE) else (opened, 8, ())
        try:
            image = _open(file if found is opened else found, head, max_pixels, formats)
        except Image.UnidentifiedImageError:
            layouts.check_tiff(opened)  # says what it is
            raise
        try:
            if image.width * image.height > max_pixels:
                raise TooLarge(image.size)
            at = opened.tell()
            layouts.check(image, opened)
            opened.seek(at)
            _add_profile(image, head, bits, cicp)
        except ValueError:
            with image:  # closes the file, unless it is the caller's
                raise
    return image


def open_header(path: Path) -> Image.Image:
    """Read an image's header, even if it may be decoded to wrong pixels. Raises the other errors of `open_image`."""
    with path.open("rb") as opened:
        head = opened.read(HEAD)
    return _open(path, head, MAX_PIXELS, FORMATS)


def _canvas(head: bytes) -> tuple[int, int]:
    """Width and height of a GIF or WebP (RFC 9649, sections 2.5 to 2.7), which Pillow allocates when it opens the file.

    Of other and of cut files 0.
    """
    if head.startswith(b"GIF8") and len(head) >= 10:
        return struct.unpack_from("<HH", head, 6)
    if head[8:15] != b"WEBPVP8" or len(head) < 30:
        return 0, 0
    if head[15:16] == b"X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if head[15:16] == b"L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 26)
    return width & 0x3FFF, height & 0x3FFF


def _open(source: str | Path | BinaryIO, head: bytes, max_pixels: int, formats: tuple[str, ...]) -> Image.Image:
    if math.prod(size := _canvas(head)) > max_pixels:
        raise TooLarge(size)
    with _PILLOWS_LIMIT:
        if head.startswith(b"GIF8"):  # a frame may be larger than the canvas
            Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            return Image.open(source, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = None


def _add_profile(image: Image.Image, head: bytes, bits: int, cicp: tuple[int, ...]) -> None:
    """Make a profile of what other than a profile tells an image's colours. Source: PNG 3rd edition, 4.3."""
    if bits < 8 and image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2**bits - 1)  # Pillow scales the grey of 2 and 4 bits but not this
    code_points = cicp[:2] or _code_points(head)
    profile = image.info.get("icc_profile")
    if code_points:
        profile = profiles.of_code_points(*code_points)
    elif not profile and image.format == "PNG" and "gamma" in image.info and "srgb" not in image.info:
        with suppress(ArithmeticError, TypeError, ValueError, struct.error):  # of no colours, such as a gamma of 0
            profile = profiles.of_gamma(image.info["gamma"], image.info.get("chromaticity", ()))
    if profile:
        image.info["icc_profile"] = profile


def _code_points(head: bytes) -> tuple[int, ...]:
    """Primaries and transfer function of an AVIF or HEIF (ISO/IEC 14496-12, 12.1.5); empty: not given."""
    at = head.find(b"colrnclx")
    return struct.unpack_from(">HH", head, at + 8) if head[4:8] == b"ftyp" and at >= 0 else ()


def upright(image: Image.Image, background: Colour = WHITE) -> Image.Image:
    """The first frame of an opened image, decoded to the last byte, upright, 8 bits deep, on an sRGB background.

    It has mode L, RGB, CMYK or LAB, colours without alpha are in their own profile; `image` itself if it is that
    already. Raises errors of many types (OSError, SyntaxError ...), as Pillow's decoders do.
    """
    low = deep.low_bytes(image)
    if low:
        low.load()
    image.load()
    flat = _on_background(image, low, background)
    turn = TURNS.get(orientation(image))
    return flat if turn is None else flat.transpose(turn)


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8. Reading it decodes a PNG; decoding turns a TIFF upright."""
    with suppress(Exception):  # damaged EXIF says nothing about the pixels
        number = image.getexif().get(ORIENTATION, 1)
        return int(number) if number in range(1, 9) else 1
    return 1


def _on_background(image: Image.Image, low: Image.Image | None, background: Colour) -> Image.Image:
    if low or image.mode.startswith("I"):
        return deep.flatten(image, low, background)
    if not image.has_transparency_data:
        return image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")
    sheet = Image.new("RGB", image.size, background)
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    if icc := image.info.get("icc_profile"):
        colours = rgba.convert("L" if image.mode in ("L", "LA") else "RGB")  # a grey profile needs grey
        colours.info["icc_profile"] = icc
        sheet.paste(to_srgb(colours), mask=rgba.getchannel("A"))
    else:
        sheet.paste(rgba, mask=rgba)
    return sheet


def colour_of(name: str) -> Colour:
    """A colour that `PIL.ImageColor` knows, such as white or #808080. Raises ValueError if it knows none."""
    red, green, blue = ImageColor.getrgb(name)[:3]
    return red, green, blue


def decode(file: str | Path | BinaryIO, max_pixels: int = MAX_PIXELS, background: Colour = WHITE) -> Image.Image:
    """A file in mode RGB: open_image, upright and to_srgb."""
    with open_image(file, max_pixels) as image:
        return to_srgb(upright(image, background))


def resize(image: Image.Image, size: int, resize_mode: ResizeMode, background: Colour = WHITE) -> np.ndarray:
    """Resize the result of `upright` to sRGB, uint8 (size, size, 3), antialiased.

    Args:
        resize_mode: stretch: ignore the aspect ratio; center_crop: the largest square of the centre; pad: keep the
            aspect ratio and centre the image on `background`.
    """
    if resize_mode == "center_crop":
        return np.asarray(to_srgb(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)))
    if resize_mode == "pad":
        width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
        sheet = Image.new("RGB", (size, size), background)
        inner = to_srgb(image.resize((width, height), Image.Resampling.BILINEAR))
        sheet.paste(inner, ((size - width) // 2, (size - height) // 2))
        return np.asarray(sheet)
    return np.asarray(to_srgb(image.resize((size, size), Image.Resampling.BILINEAR)))
