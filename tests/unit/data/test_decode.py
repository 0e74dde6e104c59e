import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageCms

from artart.data.decode import FORMATS, TooLarge, decode, open_image, resize, upright
from artart.data.layouts import Unsupported

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def make_image(height: int = 16, width: int = 24) -> np.ndarray:
    """Smooth, and different under every turn and flip."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + 2 * y) * 3], axis=-1).astype(np.uint8)


def written(image: Image.Image, kind: str, **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file


def decoded(image: Image.Image, kind: str, **options: Any) -> np.ndarray:
    """What artart sees of an image written by Pillow, as (H, W, 3)."""
    return seen(written(image, kind, **options))


def seen(file: io.BytesIO | Path) -> np.ndarray:
    image = decode(file)
    assert image.mode == "RGB"
    return np.asarray(image)


def png(values: np.ndarray, colour_type: int) -> io.BytesIO:
    """A PNG of 16 bits, which Pillow cannot write for every colour type; values are (H, W, channels)."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    return io.BytesIO(
        PNG_SIGNATURE
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks.items()
        )
    )


def assert_near(pixels: np.ndarray, expected: np.ndarray | list[float], levels: float) -> None:
    assert np.abs(pixels - np.asarray(expected, float)).max() <= levels


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


def srgb_encoded(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, to [0, 255]."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def adobe_rgb_as_srgb(pixels: np.ndarray) -> np.ndarray:
    """Adobe RGB (1998) version 2005-05, section 4.3; both spaces have the white point D65."""
    adobe_to_xyz = [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    srgb_to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    linear = (pixels / 255.0) ** (563 / 256)
    return srgb_encoded(linear @ (np.linalg.inv(srgb_to_xyz) @ adobe_to_xyz).T)


def grey_curve(profile: bytes) -> np.ndarray:
    """The table of a grey ICC profile's kTRC tag: linear light in [0, 1] (ICC.1:2010, 9.2 and 10.5)."""
    (num_tags,) = struct.unpack(">I", profile[128:132])
    tags = {profile[132 + 12 * i : 136 + 12 * i]: 136 + 12 * i for i in range(num_tags)}
    (start,) = struct.unpack(">I", profile[tags[b"kTRC"] : tags[b"kTRC"] + 4])
    assert profile[start : start + 4] == b"curv"
    (num_entries,) = struct.unpack(">I", profile[start + 8 : start + 12])
    return np.frombuffer(profile, ">u2", num_entries, start + 12) / 65535


# --- decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_rgb_comes_back_as_it_was(kind: str) -> None:
    assert_array_equal(decoded(Image.fromarray(make_image()), kind), make_image())


@pytest.mark.parametrize("kind", ["WEBP", "JPEG2000"])
def test_lossless_modes_of_lossy_formats_come_back_as_they_were(kind: str) -> None:
    assert_array_equal(decoded(Image.fromarray(make_image()), kind, lossless=True), make_image())


@pytest.mark.parametrize("kind", [name for name in ("JPEG", "AVIF", "WEBP") if name in FORMATS])
def test_lossy_formats_come_back_alike(kind: str) -> None:
    difference = decoded(Image.fromarray(make_image()), kind, quality=95).astype(int) - make_image()
    assert np.abs(difference).mean() < 3


def test_a_file_is_named_by_a_path_too(tmp_path: Path) -> None:
    Image.fromarray(make_image()).save(tmp_path / "image.png")
    assert_array_equal(seen(tmp_path / "image.png"), make_image())


def test_a_16_bit_grey_png_is_scaled_not_saturated() -> None:
    values = np.linspace(0, 65535, 16 * 24).reshape(16, 24).astype(np.uint16)
    assert_array_equal(decoded(Image.fromarray(values), "PNG"), grey((values / 257).round().astype(np.uint8)))


@pytest.mark.parametrize("colour_type", [2, 6], ids=["RGB", "RGBA"])
def test_a_16_bit_colour_png_is_scaled_not_saturated(colour_type: int) -> None:
    values = make_image().astype(np.uint16) * 257
    if colour_type == 6:
        values = np.dstack([values, np.full(values.shape[:2], 65535, np.uint16)])
    assert_array_equal(seen(png(values, colour_type)), make_image())


@pytest.mark.parametrize("kind", ["TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["F", "I"])
def test_values_without_a_known_white_are_refused(mode: str, kind: str) -> None:
    if (mode, kind) == ("I", "PPM"):  # has 16 bits
        assert decoded(Image.new(mode, (2, 2), 51 * 257), kind).max() == 51
    else:
        with pytest.raises(Unsupported, match=f"unsupported {kind}: .*floating|signed|mode F"):
            decoded(Image.new(mode, (2, 2)), kind)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    first, *others = (Image.new("RGB", (16, 16), colour) for colour in ("#ff0000", "#00ff00", "#0000ff"))
    pixels = decoded(first, kind, save_all=True, append_images=others)
    assert_near(pixels, [255, 0, 0], levels=2)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_white_and_hides_the_colour_below(mode: str, kind: str) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 51, 255)):
        image.putpixel((x, 0), (100, 100, 100, alpha))
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert decoded(image.convert(mode), kind, **options)[0].tolist() == [[255] * 3, [224] * 3, [100] * 3]


def test_a_cmyk_tiff_holds_ink() -> None:
    inks = Image.new("CMYK", (1, 1), (255, 0, 0, 51))
    assert decoded(inks, "TIFF").tolist() == [[[0, 204, 204]]]


def test_an_adobe_cmyk_jpeg_holds_inverted_ink() -> None:
    """Its raw values say 255 for no ink. Programs differ about a file without Adobe's marker."""
    file = written(Image.new("CMYK", (16, 16), (255, 0, 0, 51)), "JPEG", quality=100)
    assert_near(seen(file), [0, 204, 204], levels=2)
    content = file.getvalue()
    start = content.index(b"\xff\xee")
    assert content[start + 4 : start + 9] == b"Adobe"
    (length,) = struct.unpack(">H", content[start + 2 : start + 4])
    with pytest.raises(Unsupported, match="unsupported JPEG: CMYK that does not say whether it holds ink or light"):
        decode(io.BytesIO(content[:start] + content[start + 2 + length :]))


def tga(depth: int, pixel: bytes, attribute_bits: int = 0) -> io.BytesIO:
    """4 x 4 equal pixels without compression."""
    return io.BytesIO(struct.pack("<3B5x4H2B", 0, 0, 2, 0, 0, 4, 4, depth, attribute_bits) + 16 * pixel)


@pytest.mark.parametrize("attribute_bits", [0, 1])
def test_a_tga_of_16_bits_is_refused(attribute_bits: int) -> None:
    with pytest.raises(Unsupported, match="unsupported TGA: 16-bit colours"):
        decode(tga(16, struct.pack("<H", 0x7C00), attribute_bits))
    assert seen(tga(32, bytes([9, 8, 7, 255]), 8))[0, 0].tolist() == [7, 8, 9]


def test_an_avif_tells_its_colours_by_code_points() -> None:
    content = written(Image.new("RGB", (16, 16), (40, 180, 90)), "AVIF", quality=100).getvalue()
    box = b"colrnclx" + struct.pack(">HH", 1, 13)
    assert content.count(box) == 1
    in_p3 = io.BytesIO(content.replace(box, b"colrnclx" + struct.pack(">HH", 12, 13)))
    assert_near(seen(in_p3)[0, 0], [0, 183, 78], levels=4)
    with pytest.raises(Unsupported, match="unsupported colours: HDR"):
        decode(io.BytesIO(content.replace(box, b"colrnclx" + struct.pack(">HH", 9, 16))))


TURNS = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}  # EXIF 2.3, table "Orientation": how each number stores the upright image


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_every_exif_orientation_gives_the_upright_image(orientation: int, kind: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](make_image(32, 48))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
    pixels = decoded(stored, kind, exif=exif, **options)
    assert pixels.shape == (32, 48, 3)
    assert_near(pixels, make_image(32, 48), levels=6 if kind == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"Exif\0\0" + b"\xff" * 40]
)
def test_exif_that_cannot_be_read_is_ignored(exif: bytes) -> None:
    image = Image.fromarray(make_image())
    assert_array_equal(decoded(image, "JPEG", exif=exif), decoded(image, "JPEG"))


def test_exif_that_cannot_be_written_again_turns_the_image_all_the_same() -> None:
    """Pillow rewrites EXIF when it has turned an image, and fails on entries of a wrong type."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    resolution_as_bytes = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x01")
    stored = Image.fromarray(np.ascontiguousarray(TURNS[6](make_image(32, 48))))
    pixels = decoded(stored, "JPEG", exif=resolution_as_bytes, quality=100, subsampling=0)
    assert_near(pixels, make_image(32, 48), levels=6)


# --- colour


def test_adobe_rgb_becomes_srgb_in_a_real_image(adobe_rgb: bytes, art_files: list[Path]) -> None:
    file = written(Image.open(art_files[-1]), "JPEG", icc_profile=adobe_rgb, quality=95)
    with Image.open(file) as image:
        raw = np.asarray(image)
    expected = adobe_rgb_as_srgb(raw)
    assert_near(seen(file), expected, levels=3)
    assert np.abs(raw - expected).max() > 10  # the profile does matter here


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_adobe_rgb_becomes_srgb_in_every_mode(mode: str, adobe_rgb: bytes) -> None:
    image = Image.fromarray(make_image()).convert(mode)
    expected = adobe_rgb_as_srgb(np.asarray(image.convert("RGB")))
    assert_near(decoded(image, "PNG", icc_profile=adobe_rgb), expected, levels=3)


def test_an_srgb_profile_leaves_the_pixels_alone() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert_array_equal(decoded(Image.fromarray(make_image()), "PNG", icc_profile=profile), make_image())


@pytest.mark.parametrize("damage", ["noise", "cut", "of another colour space"])
def test_a_profile_that_cannot_be_used_is_ignored(damage: str, adobe_rgb: bytes, dot_gain: bytes) -> None:
    profiles = {"noise": b"\x00\xff" * 200, "cut": adobe_rgb[:300], "of another colour space": dot_gain}
    assert_array_equal(decoded(Image.fromarray(make_image()), "PNG", icc_profile=profiles[damage]), make_image())


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_dot_gain_profile_is_applied(mode: str, dot_gain: bytes) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    curve = grey_curve(dot_gain)
    expected = srgb_encoded(np.interp(ramp / 255, np.linspace(0, 1, len(curve)), curve))
    assert_near(decoded(image, "PNG", icc_profile=dot_gain), expected[..., None], levels=1.001)
    assert np.abs(ramp - expected).max() > 8  # the profile does matter here


# --- what is not opened


def test_postscript_and_pdf_start_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        pytest.fail(f"a program was started: {args}")

    files = [written(Image.fromarray(make_image()), kind) for kind in ("EPS", "PDF")]
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for file in files:
        with pytest.raises(Image.UnidentifiedImageError):
            decode(file)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_a_file_that_is_cut_off_is_refused(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    content = written(Image.fromarray(pixels), kind, **options).getvalue()
    for part in (0.3, 0.6, 0.9):
        with pytest.raises(Exception):  # noqa: B017 - of which type, differs from format to format
            decode(io.BytesIO(content[: int(len(content) * part)]))


# --- what is too large

SIDE = 60_000


def png_bomb() -> bytes:
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def jpeg_bomb() -> bytes:
    content = bytearray(written(Image.new("RGB", (8, 8)), "JPEG").getvalue())
    struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, SIDE, SIDE)
    return bytes(content)


def tiff_bomb() -> bytes:
    tags = {256: SIDE, 257: SIDE, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: SIDE, 279: SIDE * SIDE}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def bmp_bomb() -> bytes:
    content = bytearray(written(Image.new("RGB", (8, 8)), "BMP").getvalue())
    struct.pack_into("<II", content, 18, SIDE, SIDE)
    return bytes(content)


def gif_bomb(canvas: int) -> bytes:
    """Its frame is to be replaced by the background: Pillow fills that as soon as it opens the file."""
    screen = b"GIF89a" + struct.pack("<HHBBB", canvas, canvas, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    dispose = b"!\xf9\x04" + bytes([2 << 2, 0, 0, 0, 0])
    return screen + dispose + b"," + struct.pack("<HHHHB", 0, 0, SIDE, SIDE, 0) + b"\x02\x02\x4c\x01\x00;"


def webp_bomb(kind: bytes) -> bytes:
    """A canvas far larger than its frame; of the two simple kinds, whose frame is the canvas, the largest there is."""
    frame = bytearray(written(Image.new("RGB", (8, 8)), "WEBP", lossless=kind != b"VP8 ").getvalue()[12:])
    if kind == b"VP8X":
        canvas = b"\x02\0\0\0" + 2 * struct.pack("<I", SIDE - 1)[:3]
        place = bytes(6) + 2 * struct.pack("<I", 7)[:3] + bytes(4)
        chunks = [(kind, canvas), (b"ANIM", bytes(6)), (b"ANMF", place + frame)]
        frame = bytearray().join(name + struct.pack("<I", len(data)) + data for name, data in chunks)
    elif kind == b"VP8L":
        struct.pack_into("<I", frame, 9, (1 << 28) - 1)
    else:
        struct.pack_into("<HH", frame, 14, 0x3FFF, 0x3FFF)
    return b"RIFF" + struct.pack("<I", len(frame) + 4) + b"WEBP" + frame


BOMBS = {
    "PNG": (png_bomb(), "60000 x 60000 pixels"),
    "JPEG": (jpeg_bomb(), "60000 x 60000 pixels"),
    "TIFF": (tiff_bomb(), "60000 x 60000 pixels"),
    "BMP": (bmp_bomb(), "60000 x 60000 pixels"),
    "GIF": (gif_bomb(SIDE), "60000 x 60000 pixels"),
    "WEBP VP8X": (webp_bomb(b"VP8X"), "60000 x 60000 pixels"),
    "WEBP VP8L": (webp_bomb(b"VP8L"), "16384 x 16384 pixels"),
    "WEBP VP8": (webp_bomb(b"VP8 "), "16383 x 16383 pixels"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_its_header(name: str, tmp_path: Path) -> None:
    content, message = BOMBS[name]
    (tmp_path / "bomb").write_bytes(content)
    start = time.thread_time()
    opened = io.BytesIO(content)
    opened.seek(0, io.SEEK_END)
    for file in (opened, tmp_path / "bomb"):
        with pytest.raises(TooLarge, match=f"^{message}$"):
            open_image(file)
    assert time.thread_time() - start < 5  # none is decoded


@pytest.mark.parametrize("name", ["GIF", "WEBP VP8", "WEBP VP8L", "WEBP VP8X"])
def test_pillow_does_not_open_bombs_for_which_it_takes_memory_at_once(name: str, monkeypatch) -> None:
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(TooLarge):
        open_image(io.BytesIO(BOMBS[name][0]))


def test_a_gif_whose_frame_is_too_large_is_refused_before_it_is_filled() -> None:
    start = time.thread_time()
    with pytest.raises(Image.DecompressionBombError):
        open_image(io.BytesIO(gif_bomb(1)))
    assert time.thread_time() - start < 0.5
    assert open_image(io.BytesIO(png_bomb()), SIDE * SIDE).size == (SIDE, SIDE)  # and Pillow's limit is gone again


@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF", "BMP"])
def test_the_caller_may_allow_more_than_pillow(name: str) -> None:
    with open_image(io.BytesIO(BOMBS[name][0]), max_pixels=SIDE * SIDE) as image:
        assert image.size == (SIDE, SIDE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_the_limit_itself_is_allowed(kind: str) -> None:
    file = written(Image.new("RGB", (20, 10)), kind)
    assert open_image(file, max_pixels=200).size == (20, 10)
    assert decode(file, max_pixels=200).size == (20, 10)
    for read in (open_image, decode):
        with pytest.raises(TooLarge) as refused:
            read(file, max_pixels=199)
        assert refused.value.size == (20, 10)


def test_decoding_needs_no_torch() -> None:
    """The processes that decode would take seconds and hundreds of megabytes each."""
    script = "import sys, artart.data.decode, artart.io.provenance; print({'torch', 'torchvision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_pillows_own_limit_is_off_from_the_start() -> None:
    script = "import artart.data.decode; from PIL import Image; print(Image.MAX_IMAGE_PIXELS)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


# --- resizing


def averaged(values: np.ndarray, start: float, scale: float, size: int) -> np.ndarray:
    """Along the first axis, `size` means under triangles `scale` apart and twice as wide (bilinear, antialiased)."""
    centres = start + (np.arange(size)[:, None] + 0.5) * scale
    weights = (1 - np.abs(np.arange(len(values)) + 0.5 - centres) / max(scale, 1)).clip(0)
    return np.einsum("ij,jkc->ikc", weights / weights.sum(axis=1, keepdims=True), values)


def resized(values: np.ndarray, box: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    """The box (left, top, width, height) of an image (H, W, 3), independent of Pillow."""
    rows = averaged(values.astype(float), box[1], box[3] / height, height)
    return averaged(rows.swapaxes(0, 1), box[0], box[2] / width, width).swapaxes(0, 1)


SHAPES = [(200, 300), (300, 200), (131, 131), (97, 64), (20, 15), (15, 33)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_stretch_takes_all_of_an_image_whatever_its_shape(height: int, width: int) -> None:
    expected = resized(noise(height, width), (0, 0, width, height), 32, 32)
    assert_near(resize(Image.fromarray(noise(height, width)), 32, "stretch"), expected, levels=1)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_crop_takes_the_largest_square_of_the_centre(height: int, width: int) -> None:
    side = min(height, width)
    expected = resized(noise(height, width), ((width - side) / 2, (height - side) / 2, side, side), 32, 32)
    assert_near(resize(Image.fromarray(noise(height, width)), 32, "center_crop"), expected, levels=1)


@pytest.mark.parametrize(
    ("height", "width", "inside"),
    [
        (200, 300, (slice(5, 26), slice(0, 32))),
        (300, 200, (slice(0, 32), slice(5, 26))),
        (131, 131, (slice(0, 32), slice(0, 32))),
        (128, 64, (slice(0, 32), slice(8, 24))),
        (5, 20, (slice(12, 20), slice(0, 32))),
    ],
)
def test_pad_keeps_the_aspect_ratio_and_centres_on_white(height: int, width: int, inside: tuple[slice, slice]) -> None:
    expected = np.full((32, 32, 3), 255.0)
    rows, columns = expected[inside].shape[:2]
    expected[inside] = resized(noise(height, width), (0, 0, width, height), columns, rows)
    pixels = resize(Image.fromarray(noise(height, width)), 32, "pad")
    assert pixels.dtype == np.uint8
    assert_near(pixels, expected, levels=1)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_pad_and_crop_lose_no_image_however_narrow(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 20, 30))
    assert_array_equal(resize(image, 16, "center_crop"), np.broadcast_to([10, 20, 30], (16, 16, 3)))
    padded = resize(image, 16, "pad", (1, 2, 3))
    assert (padded == [10, 20, 30]).all(axis=-1).sum() == 16
    assert (padded == [1, 2, 3]).all(axis=-1).sum() == 16 * 15


@pytest.mark.parametrize("resize_mode", ["stretch", "center_crop", "pad"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_a_resized_image_went_through_its_profile(kind: str, resize_mode: Any, adobe_rgb: bytes) -> None:
    """After it was resized, so that its pixels are those of the whole image in any colour that does not change."""
    colour = np.array([40, 180, 90])
    file = written(Image.new("RGB", (50, 50), tuple(colour)), kind, icc_profile=adobe_rgb)
    with open_image(file) as image:
        pixels = resize(upright(image), 16, resize_mode)
    assert_near(pixels, adobe_rgb_as_srgb(colour), levels=4)
    assert np.abs(pixels - colour).max() > 20  # the profile does matter here
    assert_near(pixels, np.asarray(decode(file))[0, 0], levels=1)
