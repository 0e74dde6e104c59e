"""Images of 16 bits per channel, of which Pillow decodes grey only; of colours it keeps the high bytes."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from artart.data.layouts import Unsupported
from artart.data.profiles import converted, needs_16_bits, space, to_srgb

STRIP = 256  # rows that are converted at once
ORDERS = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
LOW = {f"{mode};16{order}": f"{mode};16{ORDERS[order]}" for mode in ("RGB", "RGBX", "RGBA") for order in ORDERS}
LOW["LA;16B"] = "RGBA"  # all four bytes


def low_bytes(image: Image.Image) -> Image.Image | None:
    """An image of the low bytes of colours, decoded like the high ones but in the other byte order.

    None of an image of another kind or one that is loaded already. The file of `image` stays open.
    """
    tiles: list[ImageFile._Tile] = getattr(image, "tile", [])
    rawmode = [tile.args if isinstance(tile.args, str) else tile.args[0] for tile in tiles[:1] if tile.args]
    if not rawmode or rawmode[0] not in LOW:
        return None
    assert isinstance(image, ImageFile.ImageFile) and image.fp and image.format
    low = Image.open(image.fp, formats=[image.format])
    assert isinstance(low, ImageFile.ImageFile)
    for k, tile in enumerate(low.tile):
        args: Any = tile.args
        low.tile[k] = tile._replace(args=LOW[args] if isinstance(args, str) else (LOW[args[0]], *args[1:]))
    low.info["is_grey"] = rawmode == ["LA;16B"]
    return low


def flatten(high: Image.Image, low: Image.Image | None, background: tuple[int, int, int]) -> Image.Image:
    """Convert colours, their low bytes given, or grey (modes I;16 and I) to sRGB of 8 bits on a background.

    Raises Unsupported if colours have a profile that 8 bits are too few for.
    """
    icc, transparent = high.info.get("icc_profile"), high.info.get("transparency")
    if icc and space(icc) != "GRAY" and needs_16_bits(icc):
        raise Unsupported("colours", "16 bits with a linear profile", "save it with the colours of sRGB")
    sheet = Image.new("RGB", high.size)
    for top, values in _strips(high, low):
        colours, alpha = np.split(values, [3 if values.shape[2] > 2 else 1], axis=2)
        alpha = alpha / 65535 if transparent is None else np.any(colours != transparent, axis=2, keepdims=True)
        strip = np.asarray(_to_srgb(colours, icc))
        if alpha.size:
            strip = np.rint(strip * alpha + background * (1 - alpha)).astype(np.uint8)
        sheet.paste(Image.fromarray(strip), (0, top))
    return sheet


def _to_srgb(colours: np.ndarray, icc: bytes | None) -> Image.Image:
    """uint16 (rows, W, 1 or 3) in mode RGB; a profile of grey gets all bits."""
    is_grey = colours.shape[2] == 1
    if is_grey and icc and (image := converted(Image.fromarray(np.ascontiguousarray(colours[..., 0])), icc)):
        return image
    levels = np.rint(colours / 257).astype(np.uint8)
    image = Image.fromarray(levels[..., 0] if is_grey else levels)
    image.info["icc_profile"] = icc
    return to_srgb(image)


def _strips(high: Image.Image, low: Image.Image | None) -> Iterator[tuple[int, np.ndarray]]:
    """The first row and the values, uint16 (rows, W, channels), of each strip."""
    for top in range(0, high.height, STRIP):
        box = (0, top, high.width, min(top + STRIP, high.height))
        if low and low.info["is_grey"]:
            yield top, np.asarray(low.crop(box)).view(">u2").astype(np.uint16)
        elif low:
            yield top, np.asarray(high.crop(box), np.uint16) << 8 | np.asarray(low.crop(box))
        else:
            yield top, np.asarray(high.crop(box)).astype(np.uint16)[..., None]
