"""Colour profiles: from an image's own colours to sRGB."""

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from artart.data.layouts import Unsupported

SRGB = ImageCms.createProfile("sRGB")
D65, D50 = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)  # xy; XYZ of ICC profiles
BT709 = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))  # xy of red, green, blue
PRIMARIES = {1: BT709, 2: BT709, 9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))}  # ITU-T H.273, table 2
PRIMARIES |= {12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Curve = Callable[[np.ndarray], np.ndarray]  # stored values to light, both in [0, 1]


def to_srgb(image: Image.Image) -> Image.Image:
    """An image in mode L, RGB, CMYK or LAB in mode RGB, through its colour profile if that can be read and fits.

    Slower than decoding, so resize first.
    """
    icc = image.info.get("icc_profile")
    if icc and image.mode == "L" and space(icc) == "RGB":
        image = image.convert("RGB")
    return (converted(image, icc) if icc else None) or (image if image.mode == "RGB" else image.convert("RGB"))


def converted(image: Image.Image, icc: bytes) -> Image.Image | None:
    """An image, also in mode I;16, in sRGB; None if its profile cannot be read or does not fit, or is sRGB."""
    with suppress(ImageCms.PyCMSError, OSError, ValueError):
        if transform := _transform(icc, image.mode):
            return ImageCms.applyTransform(image, transform)
    return None


def space(icc: bytes) -> str:
    """What a profile's values are: "RGB", "GRAY", "CMYK" ...; empty: it cannot be read."""
    with suppress(ImageCms.PyCMSError, OSError):
        return ImageCms.ImageCmsProfile(io.BytesIO(icc)).profile.xcolor_space.strip()
    return ""


@lru_cache(maxsize=16)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None if it changes no colour by more than a level."""
    flags = ImageCms.Flags.NONE if mode == "RGB" else ImageCms.Flags.NOOPTIMIZE  # of dark greys that is 2 levels off
    transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(icc)), SRGB, mode, "RGB", flags=flags)
    if mode != "RGB":
        return transform
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), axis=-1).reshape(1, -1, 3)
    changed = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
    return None if np.abs(changed.astype(int) - colours).max() <= 1 else transform


def needs_16_bits(icc: bytes) -> bool:
    """Whether neighbouring greys of 8 bits become sRGB colours more than three levels apart, as linear ones do."""
    ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=-1))
    ramp.info["icc_profile"] = icc
    return bool(np.abs(np.diff(np.asarray(to_srgb(ramp)).astype(int)[0, :, 1])).max() > 3)


def of_code_points(primaries: int, transfer: int) -> bytes | None:
    """The profile of colours that are named by code points of ITU-T H.273; None: those of sRGB.

    Raises Unsupported for other colours than standard ones of SDR.
    """
    if transfer in (16, 18):
        raise Unsupported("colours", "HDR", "save it with the colours of sRGB")
    if primaries not in PRIMARIES or transfer not in CURVES:
        raise Unsupported("colours", f"code points {primaries}/{transfer}", "save it with the colours of sRGB")
    if PRIMARIES[primaries] == BT709 and transfer in (2, 13):
        return None
    return matrix_profile(f"code points {primaries}/{transfer}", CURVES[transfer], PRIMARIES[primaries])


def of_gamma(gamma: float, chromaticities: tuple[float, ...] = ()) -> bytes | None:
    """The profile of a PNG's gAMA and cHRM (white, red, green, blue; x and y each); None: those of sRGB.

    Like libpng, takes a gamma within 5 % of 1 / 2.2 for the curve of sRGB.
    """
    is_srgb_curve = abs(gamma * 2.2 - 1) <= 0.05
    white, *primaries = zip(chromaticities[::2], chromaticities[1::2], strict=True) if chromaticities else (D65, *BT709)
    is_srgb = np.abs(np.subtract([white, *primaries], [D65, *BT709])).max() < 0.002
    if is_srgb_curve and is_srgb:
        return None
    curve = srgb_to_light if is_srgb_curve else _power(1 / gamma)
    return matrix_profile(f"gamma {gamma}", curve, tuple(primaries), white)


def srgb_to_light(values: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _bt709_to_light(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0.081, values / 4.5, ((values + 0.099) / 1.099) ** (1 / 0.45))


def _power(exponent: float) -> Curve:
    return lambda values: values**exponent


CURVES: dict[int, Curve] = {2: srgb_to_light, 4: _power(2.2), 5: _power(2.8), 8: _power(1), 13: srgb_to_light}
CURVES |= dict.fromkeys((1, 6, 14, 15), _bt709_to_light)  # ITU-T H.273, table 3


def matrix_profile(
    name: str, curve: Curve, primaries: tuple[tuple[float, float], ...], white: tuple[float, float] = D65
) -> bytes:
    """An ICC profile of RGB colours: ICC.1:2001-04, 6.3.1.2; adapted to D50 with the Bradford matrix (annex E)."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (*primaries, white)]).T
    to_xyz = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    cones = BRADFORD @ np.array(D50) / (BRADFORD @ xyz[:, 3])
    columns = (np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ to_xyz).T
    table = (curve(np.linspace(0, 1, 4096)).clip(0, 1) * 65535).round().astype(">u2").tobytes()
    tags = {name: b"XYZ \0\0\0\0" + _s15f16(*xyz) for name, xyz in zip(("rXYZ", "gXYZ", "bXYZ"), columns, strict=True)}
    tags["wtpt"] = b"XYZ \0\0\0\0" + _s15f16(*D50)
    tags["desc"] = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + bytes(79)
    tags |= dict.fromkeys(("rTRC", "gTRC", "bTRC"), b"curv\0\0\0\0" + struct.pack(">I", 4096) + table)
    start, index, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        index += struct.pack(">4sII", name.encode(), start + len(data), len(value))
        data += value
    fields = (start + len(data), b"lcms", 0x02400000, b"mntrRGB XYZ ", b"", b"acsp", b"", _s15f16(*D50), b"")
    return struct.pack(">I4sI12s12s4s28s12s48s", *fields) + index + data


def _s15f16(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
