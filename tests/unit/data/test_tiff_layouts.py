"""A truth table: TIFFs of known pixels are decoded to them or refused for what they are."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from artart.data.decode import decode
from artart.data.layouts import Unsupported

HEIGHT, WIDTH, TILE, ROWS_PER_STRIP = 19, 21, 16, 5


def lzw(data: bytes) -> bytes:
    """Without a dictionary: 9 bits each, as it is cleared before codes grow. Source: TIFF 6.0, section 13."""
    codes = [code for at in range(0, len(data), 200) for code in (256, *data[at : at + 200])] + [257]
    return np.packbits([code >> bit & 1 for code in codes for bit in range(8, -1, -1)]).tobytes()


def packbits(data: bytes) -> bytes:
    """Literal runs only: TIFF 6.0, section 9."""
    return b"".join(bytes([len(data[at : at + 128]) - 1]) + data[at : at + 128] for at in range(0, len(data), 128))


COMPRESSIONS: dict[int, Callable[[bytes], bytes]] = {1: bytes, 5: lzw, 8: zlib.compress, 32773: packbits}


class Layout(NamedTuple):
    """How the values of a TIFF are stored."""

    bits: int
    numbers: int = 1  # 1: unsigned, 2: signed, 3: float
    photometric: int = 1  # 0: white is zero, 1: grey, 2: RGB, 3: palette, 5: CMYK
    extras: tuple[int, ...] = ()  # 0: unspecified, 1: premultiplied alpha, 2: alpha
    order: str = "<"
    planar: int = 1
    is_tiled: bool = False
    compression: int = 1
    predictor: int = 1
    fill_order: int = 1

    @property
    def num_colours(self) -> int:
        return {2: 3, 5: 4}.get(self.photometric, 1)


def packed(rows: np.ndarray, layout: Layout) -> bytes:
    """(rows, values) as bytes, each row filled up to one."""
    if layout.bits in (8, 16, 32, 64):
        kind = {1: "u", 2: "i", 3: "f"}[layout.numbers]
        return rows.astype(f"{layout.order}{kind}{layout.bits // 8}").tobytes()
    digits = rows[..., None].astype(np.int64) >> np.arange(layout.bits)[::-1] & 1
    return np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def blocks(values: np.ndarray, layout: Layout) -> Iterator[bytes]:
    """The compressed strips or tiles of (H, W, C)."""
    height, width = (TILE, TILE) if layout.is_tiled else (ROWS_PER_STRIP, WIDTH)
    for plane in [values] if layout.planar == 1 else np.split(values, values.shape[2], axis=2):
        for top, left in product(range(0, HEIGHT, height), range(0, WIDTH, width)):
            block = plane[top : top + height, left : left + width]
            if layout.is_tiled:
                block = np.pad(block, ((0, TILE - block.shape[0]), (0, TILE - block.shape[1]), (0, 0)))
            if layout.predictor == 2:
                block = np.diff(block.astype(np.int64), axis=1, prepend=0) % (1 << layout.bits)
            data = COMPRESSIONS[layout.compression](packed(block.reshape(len(block), -1), layout))
            yield data if layout.fill_order == 1 else bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)


def tiff(values: np.ndarray, layout: Layout, **more: tuple[int, list[int]]) -> bytes:
    """A TIFF of (H, W, C); more: further tags, "t" and the number: type and values. Source: TIFF 6.0, sections 2, 8."""
    parts, channels = list(blocks(values, layout)), values.shape[2]
    starts = (8 + np.cumsum([0, *map(len, parts)])).tolist()
    tags: dict[int, tuple[int, list[int]]] = {
        256: (4, [WIDTH]),
        257: (4, [HEIGHT]),
        258: (3, [layout.bits] * channels),
        259: (3, [layout.compression]),
        262: (3, [layout.photometric]),
        266: (3, [layout.fill_order]),
        277: (3, [channels]),
        284: (3, [layout.planar]),
        317: (3, [layout.predictor]),
        339: (3, [layout.numbers] * channels),
        **({338: (3, list(layout.extras))} if layout.extras else {}),
    }
    if layout.is_tiled:
        tags |= {322: (4, [TILE]), 323: (4, [TILE]), 324: (4, starts[:-1]), 325: (4, [*map(len, parts)])}
    else:
        tags |= {273: (4, starts[:-1]), 278: (4, [ROWS_PER_STRIP]), 279: (4, [*map(len, parts)])}
    tags |= {int(name[1:]): tag for name, tag in more.items()}
    directory, end = b"", starts[-1] + 6 + 12 * len(tags)
    beyond = b""
    for number, (kind, numbers) in sorted(tags.items()):
        value = struct.pack(f"{layout.order}{len(numbers)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", *numbers)
        if len(value) > 4:
            beyond, value = beyond + value, struct.pack(f"{layout.order}I", end + len(beyond))
        directory += struct.pack(f"{layout.order}HHI", number, kind, len(numbers)) + value.ljust(4, b"\0")
    head = struct.pack(f"{layout.order}2sHI", b"II" if layout.order == "<" else b"MM", 42, starts[-1])
    return head + b"".join(parts) + struct.pack(f"{layout.order}H", len(tags)) + directory + bytes(4) + beyond


def make_values(layout: Layout) -> np.ndarray:
    """Random values (H, W, C); premultiplied colours are at most their alpha."""
    random = np.random.default_rng(0)
    shape = (HEIGHT, WIDTH, layout.num_colours + len(layout.extras))
    if layout.numbers == 3:
        return random.random(shape)
    values = random.integers(0, 2 ** (layout.bits - (layout.numbers == 2)), shape, dtype=np.uint64)
    return np.minimum(values, values[..., layout.num_colours, None]) if 1 in layout.extras else values


def expected(values: np.ndarray, layout: Layout, palette: np.ndarray) -> np.ndarray:
    """sRGB in [0, 255], not rounded, on white."""
    light = values / (1 if layout.numbers == 3 else 2.0**layout.bits - 1)
    colours, extras = np.split(light, [layout.num_colours], axis=2)
    if layout.photometric == 0:
        colours = 1 - colours
    if layout.photometric == 3:
        colours = palette[:, values[..., 0].astype(int)].transpose(1, 2, 0) / 65535
    if layout.photometric == 5:
        colours = (1 - colours[..., :3]) * (1 - colours[..., 3:])
    if layout.extras[:1] == (2,):
        colours = colours * extras[..., :1] + 1 - extras[..., :1]
    if layout.extras[:1] == (1,):
        colours = colours + 1 - extras[..., :1]
    return np.broadcast_to(255 * colours, (HEIGHT, WIDTH, 3))


def outcome(layout: Layout) -> str:
    """ "decoded", or why not; fails if the pixels are wrong or the reason is none."""
    values = make_values(layout)
    palette = np.random.default_rng(1).integers(0, 65536, (3, 2 ** min(layout.bits, 8)))
    more = {"t320": (3, palette.ravel().tolist())} if layout.photometric == 3 else {}
    try:
        pixels = decode(io.BytesIO(tiff(values, layout, **more)))
    except Unsupported as reason:
        return str(reason)
    difference = np.asarray(pixels) - expected(values, layout, palette)
    assert np.abs(difference).max() <= 1.001, layout
    return "decoded"


CHANNELS = [(0, ()), (1, ()), (1, (0,)), (1, (1,)), (1, (2,)), (3, ()), (3, (2,)), (5, ()), (5, (0,))]
CHANNELS += [(2, extras) for extras in [(), (0,), (1,), (2,), (0, 0), (2, 0), (1, 0)]]
INTEGERS = [(bits, 1) for bits in (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 24, 32, 64)]
OTHERS = [(8, 2), (16, 2), (32, 2), (64, 2), (16, 3), (32, 3), (64, 3)]


def layouts(bits: int, numbers: int, compressions: dict[int, int]) -> Iterator[Layout]:
    """Every combination that makes sense, with predictors for which a compression exists; of tiles and bits, half.

    Strips and tiles alternate, so that each occurs with any two of the rest; reversed bits come with the first order.
    """
    choices = product(CHANNELS, enumerate("<>"), (1, 2), enumerate(compressions.items()))
    for (photometric, extras), (i, order), planar, (k, (compression, predictor)) in choices:
        is_tiled = bool((i + planar + k) % 2)
        layout = Layout(bits, numbers, photometric, extras, order, planar, is_tiled, compression, predictor)
        has_planes = layout.num_colours + len(extras) > 1
        if (planar == 1 or has_planes) and (predictor == 1 or bits in (8, 16)) and (photometric != 3 or bits <= 8):
            yield layout
            if order == "<":
                yield layout._replace(fill_order=2)


ALL = [layout for kind in INTEGERS + OTHERS for layout in layouts(*kind, {1: 1, 5: 2, 8: 1, 32773: 1})]


@pytest.mark.parametrize("some", [slice(0, None, 37), pytest.param(slice(None), marks=pytest.mark.slow)], ids=str)
def test_a_tiff_is_decoded_to_its_pixels_or_refused_for_what_it_is(some: slice) -> None:
    outcomes = {layout: outcome(layout) for layout in ALL[some]}
    for layout, said in outcomes.items():
        assert said == "decoded" or said.startswith(f"unsupported TIFF: {layout.bits}-bit"), layout
    assert list(outcomes.values()).count("decoded") > len(outcomes) / 40


COMMON = [
    *(Layout(bits, photometric=photometric) for photometric in (0, 1, 3) for bits in (1, 2, 4, 8)),
    *(Layout(bits, photometric=2, extras=extras) for bits in (8, 16) for extras in [(), (0,), (2,)]),
    Layout(16),
    Layout(8, extras=(2,)),
    Layout(8, photometric=2, extras=(1,)),
    Layout(8, photometric=5),
    *(Layout(8, photometric=photometric, planar=2) for photometric in (2, 5)),
]


@pytest.mark.parametrize("changed", [{}, {"order": ">"}, {"is_tiled": True}, {"compression": 5, "predictor": 2}])
def test_common_tiffs_are_decoded(changed: dict[str, Any]) -> None:
    for layout in COMMON:
        layout = layout._replace(**changed)
        if layout.predictor == 1 or layout.bits >= 8:
            assert outcome(layout) == "decoded", layout


REFUSED = [
    (Layout(16, photometric=2, planar=2), "16-bit RGB in planes"),
    (Layout(16, extras=(2,)), "16-bit grey with alpha"),
    (Layout(16, photometric=0), "16-bit inverted grey"),
    (Layout(12), "12-bit grey"),
    (Layout(32, numbers=3, photometric=2), "32-bit floating-point RGB"),
    (Layout(16, numbers=2), "16-bit signed grey"),
    (Layout(8, photometric=3, fill_order=2), "8-bit palette, compression 1, bit order 2"),
]


@pytest.mark.parametrize(("layout", "what"), REFUSED, ids=str)
def test_a_refused_tiff_is_named_with_a_remedy(layout: Layout, what: str) -> None:
    assert outcome(layout) == f"unsupported TIFF: {what}; save it as PNG with 8 or 16 bits per channel"


GREY = Layout(8)


@pytest.mark.parametrize(
    ("layout", "more", "what"),
    [
        (Layout(8, photometric=3), {"t320": (3, list(range(256)) * 3)}, "a palette of 8-bit colours"),
        (Layout(8, photometric=5), {"t332": (3, [2])}, "inks other than"),
        (Layout(8, photometric=2), {"t277": (3, [4])}, "a channel that may be alpha or not"),
        (GREY, {"t262": (3, [32803])}, "camera raw"),
        (GREY, {"t259": (3, [34887])}, "compression 34887"),
        (GREY, {"t259": (3, [50001])}, "compression 50001"),
        (GREY, {"t259": (3, [6])}, "compression 6"),
    ],
)
def test_a_tag_that_changes_the_meaning_of_values_is_seen(layout: Layout, more: dict[str, Any], what: str) -> None:
    with pytest.raises(Unsupported, match=what):
        decode(io.BytesIO(tiff(make_values(layout), layout, **more)))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "CMYK", "I;16"])
def test_what_libtiff_packs_is_unpacked(mode: str, compression: str) -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16))
    image = grey if mode == "I;16" else Image.effect_noise((30, 20), 90).convert(mode)
    packed, plain = io.BytesIO(), io.BytesIO()
    image.save(packed, "TIFF", compression=compression)
    image.save(plain, "TIFF")
    assert_array_equal(decode(packed), decode(plain))


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax_is_black_on_white(compression: str) -> None:
    dots = Image.fromarray(np.random.default_rng(0).random((20, 30)) < 0.5)
    file = io.BytesIO()
    dots.save(file, "TIFF", compression=compression)
    assert_array_equal(decode(file), dots.convert("RGB"))


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr"])
def test_a_jpeg_in_a_tiff_keeps_its_colours(mode: str) -> None:
    image, file = Image.new(mode, (32, 32), 90 if mode == "L" else (90, 140, 200)), io.BytesIO()
    image.save(file, "TIFF", compression="jpeg", quality=95)
    difference = np.asarray(decode(file), int) - np.asarray(image.convert("RGB"))
    assert np.abs(difference).max() <= 2


def pages(*sizes: tuple[int, int], below: bool) -> io.BytesIO:
    """A TIFF with a page of each size; below: the second is a sub-page (tag 330) of the first."""
    file = io.BytesIO()
    first, *others = (Image.new("RGB", size) for size in sizes)
    first.save(file, "TIFF", save_all=True, append_images=others, tiffinfo={330: (0,)} if below else {})
    if below:  # moves the second page from the chain of pages to tag 330
        content = bytearray(file.getvalue())
        (at,) = struct.unpack_from("<I", content, 4)
        (number,) = struct.unpack_from("<H", content, at)
        end = at + 2 + 12 * number
        entry = next(at + 2 + 12 * i for i in range(number) if content[at + 2 + 12 * i :][:2] == struct.pack("<H", 330))
        struct.pack_into("<HII", content, entry + 2, 4, 1, *struct.unpack_from("<I", content, end))
        struct.pack_into("<I", content, end, 0)
        file = io.BytesIO(content)
    return file


@pytest.mark.parametrize("below", [False, True])
def test_a_preview_before_the_image_is_not_taken_for_it(below: bool) -> None:
    with pytest.raises(Unsupported, match="the first page has 16 x 12 pixels, another 180 x 120"):
        decode(pages((16, 12), (180, 120), below=below))
    assert decode(pages((180, 120), (16, 12), below=below)).size == (180, 120)
    assert decode(pages((180, 120), (182, 120), below=below)).size == (180, 120)  # a document
