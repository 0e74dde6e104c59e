"""Which image files Pillow decodes to the right pixels, and what the others are.

Pillow decodes many layouts of TIFF to noise, darkness or a negative, without an error. Those known to be right are
listed here (tests/unit/data/test_tiff_layouts.py decodes each of them); all others are refused.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2 as Directory

MAX_PAGES = 100  # of a TIFF that are looked at
REMEDY = "save it as PNG with 8 or 16 bits per channel"

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
SAMPLES, PLANAR, COLOUR_MAP, SUB_IFDS, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT = 277, 284, 320, 330, 332, 338, 339
COLOURS: dict[Any, str] = {0: "inverted grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
COLOURS |= {None: "colours without a name", 9: "ICC Lab", 10: "ITU Lab", 32803: "camera raw", 34892: "camera raw"}
NUM_COLOURS: dict[Any, int] = {2: 3, 5: 4, 6: 3, 8: 3}  # channels without extra ones; of other colours: 1
NUMBERS = {2: " signed", 3: " floating-point"}  # by sample format
EXTRAS = {0: "an extra channel", 1: "premultiplied alpha", 2: "alpha"}
FAX, JPEG = {2, 3, 4}, 7
PACKED = {1, 5, 8, 32773, 32946, 34925, 50000}  # none, LZW, Deflate, PackBits, Deflate, LZMA, Zstandard

Layouts = dict[tuple, list[tuple[int, ...]]]  # kinds of extra channels by colours and bits
PIXEL_BY_PIXEL: Layouts = {
    **{(colours, bits): [()] for colours in (0, 1, 3) for bits in (1, 2, 4, 8)},
    (1, 8): [(), (0,), (2,)],
    (1, 16): [()],
    (2, 8): [(), (0,), (0, 0), (1,), (2,), (2, 0)],
    (2, 16): [(), (0,), (2,)],
    (5, 8): [(), (0,)],
    (6, 8): [()],
    (8, 8): [()],
}
IN_PLANES: Layouts = {(2, 8): [(), (2,)], (5, 8): [()]}


class Unsupported(ValueError):  # noqa: N818 - a fact about an image
    """An image that may be decoded to wrong pixels: "unsupported TIFF: 12-bit grey; save it as ..."."""

    def __init__(self, kind: str, what: str, remedy: str = REMEDY) -> None:
        super().__init__(f"unsupported {kind}: {what}; {remedy}")


def check(image: Image.Image, file: BinaryIO | None = None) -> None:
    """Raise Unsupported if an opened image may be decoded to wrong pixels; its file, if given, tells more."""
    if file and image.format == "TGA":
        file.seek(0)
        head = file.read(18)
        if (head[16] == 16 and head[2] in (2, 10)) or head[7] == 16:  # the only alpha bit is rarely one
            raise Unsupported("TGA", "16-bit colours")
    if file and image.format == "TIFF":
        check_tiff(file)
    if tags := getattr(image, "tag_v2", None):
        _check_tags(tags)
    if image.format == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        raise Unsupported("JPEG", "CMYK that does not say whether it holds ink or light", "save it as RGB")
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        raise Unsupported(image.format or "image", f"values of mode {image.mode}, whose white is not known")


def check_tiff(file: BinaryIO) -> None:
    """The same of a TIFF's first page, also if Pillow cannot open it; and Unsupported if that is a preview of another.

    A file whose directories cannot be read is left to Pillow.
    """
    pages: list[dict[int, Any]] = []
    with suppress(Exception):  # Pillow raises nearly anything on damaged bytes
        for page in _pages(file):
            pages.append(page)
    if not pages or not pages[0].keys() >= {WIDTH, LENGTH, PHOTOMETRIC}:
        return
    _check_tags(pages[0])
    (width, height), *sizes = ((page.get(WIDTH, 0), page.get(LENGTH, 0)) for page in pages)
    largest = max(sizes, key=math.prod, default=(0, 0))
    if math.prod(largest) > 2 * width * height:
        sides = f"{width} x {height} pixels, another {largest[0]} x {largest[1]}"
        raise Unsupported("TIFF", f"the first page has {sides}", "save the page that you mean as PNG")


def _pages(file: BinaryIO) -> Iterator[dict[int, Any]]:
    """The tags of each page of a TIFF; of the sub-pages of the first one too."""
    file.seek(0)
    header = file.read(8)
    header += file.read(8) if header[2] == 43 else b""  # BigTIFF
    directory, num_pages = Directory(header), 0
    while directory.next and num_pages < MAX_PAGES:
        file.seek(directory.next)
        directory.load(file)
        yield (page := dict(directory))
        if not num_pages:
            for start in np.atleast_1d(page.get(SUB_IFDS, ()))[:MAX_PAGES].tolist():
                below = Directory(header)
                file.seek(int(start))
                below.load(file)
                yield dict(below)
        num_pages += 1


def _check_tags(tags: Mapping[int, Any]) -> None:
    """Raise Unsupported unless a TIFF's page has one of the layouts that are decoded to the right pixels."""
    colours, compression = tags.get(PHOTOMETRIC), tags.get(COMPRESSION, 1)
    in_planes = tags.get(PLANAR, 1) == 2
    bits, numbers = (set(np.atleast_1d(tags.get(tag, 1)).tolist()) for tag in (BITS, SAMPLE_FORMAT))
    extras = tuple(np.atleast_1d(tags.get(EXTRA_SAMPLES, ())).tolist())
    unnamed = tags.get(SAMPLES, 1) - NUM_COLOURS.get(colours, 1) - len(extras)
    what = f"{'/'.join(map(str, sorted(bits)))}-bit{''.join(NUMBERS.get(one, '') for one in numbers)} "
    what += COLOURS.get(colours, f"colours of kind {colours}")
    what += "".join(f" with {EXTRAS.get(one, 'an extra channel')}" for one in sorted({*extras}))
    what += " with a channel that may be alpha or not" if unnamed > 0 else ""
    what += " in planes" if in_planes else ""
    allowed = (IN_PLANES if in_planes and tags.get(SAMPLES, 1) > 1 else PIXEL_BY_PIXEL).get((colours, *bits), [])
    if numbers != {1} or extras not in allowed or unnamed:
        raise Unsupported("TIFF", what)
    if tags.get(INK_SET, 1) != 1:
        raise Unsupported("TIFF", "inks other than cyan, magenta, yellow and black")
    if colours == 3 and max(tags.get(COLOUR_MAP, (0,))) < 256:
        raise Unsupported("TIFF", "a palette of 8-bit colours, where 16-bit ones are due")
    is_packed = compression in PACKED and colours != 6
    is_jpeg = compression == JPEG and bits == {8} and colours in (1, 2, 6) and not in_planes
    is_fax = compression in FAX and bits == {1}
    is_reversed = tags.get(FILL_ORDER, 1) != 1 and (colours, *bits) not in ((0, 1), (1, 1))
    if not (is_packed or is_jpeg or is_fax) or is_reversed:
        raise Unsupported("TIFF", f"{what}, compression {compression}, bit order {tags.get(FILL_ORDER, 1)}")
