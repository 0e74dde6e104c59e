"""A truth table: PNGs of known pixels, with all colour types, depths and chunks that tell their colours."""

import io
import struct
import zlib
from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageCms

from artart.data.decode import decode, open_image
from artart.data.layouts import Unsupported

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
KINDS = [(colour_type, bits) for colour_type, depths in DEPTHS.items() for bits in depths]
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
PALETTE = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)

Chunks = list[tuple[bytes, bytes]]


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def rows(values: np.ndarray, bits: int) -> bytes:
    """(H, W, C) without filters, each row filled up to a byte."""
    digits = values[..., None] >> np.arange(bits)[::-1] & 1
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(digits.reshape(len(values), -1).astype(np.uint8), 1))


def png(values: np.ndarray, colour_type: int, bits: int, chunks: Chunks = [], interlaced: bool = False) -> io.BytesIO:  # noqa: B006
    """Source: PNG, 3rd edition, sections 7 and 8.1; chunks: before the image data."""
    height, width = values.shape[:2]
    passes = [values[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [values]
    data = zlib.compress(b"".join(rows(one, bits) for one in passes if one.size))
    palette = [(b"PLTE", PALETTE[: 2**bits].tobytes())] if colour_type == 3 else []
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    parts = [(b"IHDR", header), *palette, *chunks, (b"IDAT", data), (b"IEND", b"")]
    return io.BytesIO(SIGNATURE + b"".join(chunk(*part) for part in parts))


def make_values(colour_type: int, bits: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**bits, (19, 21, CHANNELS[colour_type]))


def colours_and_alpha(values: np.ndarray, colour_type: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) and (H, W, 1) in [0, 1]."""
    if colour_type == 3:
        return PALETTE[values[..., 0]] / 255, np.ones((*values.shape[:2], 1))
    light = values / (2**bits - 1)
    alpha = light[..., -1:] if colour_type in (4, 6) else np.ones((*values.shape[:2], 1))
    return np.broadcast_to(light[..., : 3 if colour_type in (2, 6) else 1], (*values.shape[:2], 3)), alpha


def assert_near(file: io.BytesIO, colours: np.ndarray, alpha: np.ndarray | float = 1, levels: float = 1.001) -> None:
    difference = np.asarray(decode(file)) - 255 * (colours * alpha + 1 - alpha)
    assert np.abs(difference).max() <= levels


@pytest.mark.parametrize(("colour_type", "bits"), KINDS)
def test_a_png_is_decoded_to_its_pixels(colour_type: int, bits: int) -> None:
    values = make_values(colour_type, bits)
    for interlaced in (False, True):
        file = png(values, colour_type, bits, interlaced=interlaced)
        assert_near(file, *colours_and_alpha(values, colour_type, bits))


@pytest.mark.parametrize(("colour_type", "bits"), [kind for kind in KINDS if kind[0] in (0, 2)])
def test_the_transparent_colour_is_white_and_no_other(colour_type: int, bits: int) -> None:
    values = make_values(colour_type, bits)
    values[3], values[4], values[5] = values[0, 0], values[0, 0] + 2**bits - 1, values[0, 0]
    values[5, :, 0] ^= 1  # as near as can be
    values %= 2**bits
    key = struct.pack(f">{CHANNELS[colour_type]}H", *values[0, 0])
    colours, _ = colours_and_alpha(values, colour_type, bits)
    alpha = (values != values[0, 0]).any(axis=-1, keepdims=True)
    assert_near(png(values, colour_type, bits, [(b"tRNS", key)]), colours, alpha)


@pytest.mark.parametrize("bits", DEPTHS[3])
def test_transparent_palette_entries_are_laid_on_white(bits: int) -> None:
    values, alphas = make_values(3, bits), np.random.default_rng(2).integers(0, 256, 2**bits, dtype=np.uint8)
    colours, _ = colours_and_alpha(values, 3, bits)
    assert_near(png(values, 3, bits, [(b"tRNS", alphas.tobytes())]), colours, alphas[values] / 255)


# --- colours

SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
P3_TO_XYZ = np.array([[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0, 0.04511, 1.04394]])
BT2020_TO_XYZ = np.array([[0.63696, 0.14462, 0.16888], [0.2627, 0.678, 0.0593], [0, 0.02807, 1.06099]])


def encoded(light: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def in_srgb(light: np.ndarray, to_xyz: np.ndarray = SRGB_TO_XYZ) -> np.ndarray:
    return encoded(light @ (np.linalg.inv(SRGB_TO_XYZ) @ to_xyz).T)


def cicp(primaries: int, transfer: int) -> Chunks:
    return [(b"cICP", bytes([primaries, transfer, 0, 1]))]


def gamma(value: float) -> Chunks:
    return [(b"gAMA", struct.pack(">I", round(value * 100000)))]


P3_CHROMATICITIES = [(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))]
CUBE = np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3, indexing="ij"), axis=-1).reshape(64, 64, 3)
X = CUBE / 255
COLOURS = {
    "cICP of sRGB": (cicp(1, 13), X),
    "cICP of Display P3": (cicp(12, 13), in_srgb(linear(X), P3_TO_XYZ)),
    "cICP of linear light": (cicp(1, 8), in_srgb(X)),
    "cICP of gamma 2.2": (cicp(1, 4), in_srgb(X**2.2)),
    "cICP of BT.2020": (
        cicp(9, 14),
        in_srgb(np.where(X < 0.081, X / 4.5, ((X + 0.099) / 1.099) ** (1 / 0.45)), BT2020_TO_XYZ),
    ),
    "gAMA of linear light": (gamma(1), in_srgb(X)),
    "gAMA of old Macs": (gamma(1 / 1.8), in_srgb(X**1.8)),
    "gAMA of sRGB": (gamma(0.45455), X),
    "gAMA of no curve": (gamma(0), X),
    "cHRM of no colours": ([*gamma(1 / 1.8), (b"cHRM", bytes(32))], X),
    "cHRM on a line": (
        [*gamma(1 / 1.8), (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 47000, 46500))],
        X,
    ),
    "gAMA and cHRM": (gamma(0.45455) + P3_CHROMATICITIES, in_srgb(linear(X), P3_TO_XYZ)),
    "sRGB before gAMA": ([(b"sRGB", b"\0"), *gamma(1)], X),
    "cICP before gAMA": (cicp(12, 13) + gamma(1), in_srgb(linear(X), P3_TO_XYZ)),
}


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_are_those_that_the_chunks_tell(name: str, bits: int) -> None:
    chunks, expected = COLOURS[name]
    file = png(CUBE * (257 if bits == 16 else 1), 2, bits, chunks)
    if bits == 16 and "linear" in name:
        with pytest.raises(Unsupported, match="16 bits with a linear profile"):
            decode(file)
    else:
        assert_near(file, expected, levels=2 if bits == 16 else 1.001)


@pytest.mark.parametrize("colour_type", [0, 4])
def test_grey_of_16_bits_goes_through_its_profile_with_all_its_bits(colour_type: int, dot_gain: bytes) -> None:
    values = np.full((64, 64, CHANNELS[colour_type]), 65535)
    values[..., 0] = np.arange(4096).reshape(64, 64)
    profile = [(b"iCCP", b"grey\0\0" + zlib.compress(dot_gain))]
    light = np.interp(values[..., :1] / 65535, np.arange(256) / 255, (np.arange(256) / 255) ** 1.7)  # as its table does
    expected = np.repeat(encoded(light), 3, axis=-1)
    assert_near(png(values, colour_type, 16, profile), expected)
    with pytest.raises(Unsupported, match="16 bits with a linear profile"):
        decode(png(values, colour_type, 16, gamma(1)))


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_refused(transfer: int) -> None:
    with pytest.raises(Unsupported, match="unsupported colours: HDR; save it with the colours of sRGB"):
        decode(png(CUBE, 2, 8, cicp(9, transfer)))


# --- damage

VALUES = make_values(2, 8)
GOOD = png(VALUES, 2, 8).getvalue()
LONG = zlib.compress(bytes(range(32, 127)) * 50_000)


def with_chunk(data: bytes, after: bytes = b"IHDR") -> io.BytesIO:
    at = GOOD.index(after) - 4
    (length,) = struct.unpack_from(">I", GOOD, at)
    return io.BytesIO(GOOD[: at + 12 + length] + data + GOOD[at + 12 + length :])


METADATA = {
    "wrong checksum of a text": chunk(b"tEXt", b"Title\0a", checksum=1),
    "wrong checksum of a size": chunk(b"pHYs", bytes(9), checksum=1),
    "cut gamma": chunk(b"gAMA", b"\0"),
    "cut size": chunk(b"pHYs", b"\0"),
    "4.7 MB of compressed text": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "4.7 MB of compressed international text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG),
    "text in an unknown compression": chunk(b"zTXt", b"Comment\0\x09abc"),
    "text that is not compressed": chunk(b"zTXt", b"Comment\0\0abc"),
    "a profile in an unknown compression": chunk(b"iCCP", b"profile\0\x09abc"),
    "a profile that is not compressed": chunk(b"iCCP", b"profile\0\0abc"),
    "broken EXIF": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "broken animation": chunk(b"acTL", b"\0") + chunk(b"fcTL", bytes(26)),
    "an unknown kind": chunk(b"abCd", b"x", checksum=1),
}


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("after", [b"IHDR", b"IDAT"])
def test_metadata_do_not_decide_about_pixels(name: str, after: bytes) -> None:
    assert_array_equal(decode(with_chunk(METADATA[name], after)), VALUES)


def test_metadata_beside_damaged_ones_are_kept() -> None:
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")
    with open_image(with_chunk(METADATA["cut size"] + xmp)) as image:
        assert image.info["xmp"] == b"<x/>"


def test_a_long_text_is_kept() -> None:
    with open_image(with_chunk(METADATA["4.7 MB of compressed text"])) as image:
        assert len(image.info["Comment"]) == 95 * 50_000


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS"])
def test_a_wrong_checksum_of_pixels_is_damage(kind: bytes) -> None:
    content = bytearray(png(make_values(3, 8), 3, 8, [(b"tRNS", b"\0")]).getvalue())
    at = content.index(kind)
    (length,) = struct.unpack_from(">I", content, at - 4)
    content[at + 4 + length] ^= 1
    with pytest.raises(ValueError, match=f"the checksum of {kind.decode()} is wrong"):
        decode(io.BytesIO(content))


def test_a_chunk_that_is_needed_and_unknown_is_named() -> None:
    with pytest.raises(Unsupported, match="unsupported PNG: a chunk 'CgBI'"):
        decode(with_chunk(chunk(b"CgBI", bytes(4))))


def test_a_profile_is_known_by_what_it_does(linear_profile: bytes) -> None:
    """Its description contains "sRGB"."""
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(linear_profile)))
    for mode, grey in product(("RGB", "L", "LA", "RGBA", "P"), (0, 55, 188, 255)):
        file = io.BytesIO()
        Image.new("L", (2, 2), grey).convert(mode).save(file, "PNG", icc_profile=linear_profile)
        assert_near(file, np.full((2, 2, 3), encoded(np.array(grey / 255))))
