import io
import struct
import subprocess
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image, ImageCms
from torch.testing import assert_close

from artart.images import FORMATS, Marks, decode, grid, save, squash, to_model, to_pixels

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture(height: int = 16, width: int = 24) -> np.ndarray:
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


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    chunks, position = [], len(PNG_SIGNATURE)
    while position < len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        chunks.append((content[position + 4 : position + 8], content[position + 8 : position + 8 + length]))
        position += length + 12
    return chunks


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


def profile_of(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.info["icc_profile"]


def grey_curve(profile: bytes) -> np.ndarray:
    """The table of a grey ICC profile's kTRC tag: linear light in [0, 1] (ICC.1:2010, 9.2 and 10.5)."""
    (num_tags,) = struct.unpack(">I", profile[128:132])
    tags = {profile[132 + 12 * i : 136 + 12 * i]: 136 + 12 * i for i in range(num_tags)}
    (start,) = struct.unpack(">I", profile[tags[b"kTRC"] : tags[b"kTRC"] + 4])
    assert profile[start : start + 4] == b"curv"
    (num_entries,) = struct.unpack(">I", profile[start + 8 : start + 12])
    return np.frombuffer(profile, ">u2", num_entries, start + 12) / 65535


# --- value ranges


def test_all_256_values_survive_the_round_trip() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert_close(to_pixels(to_model(pixels)), pixels, rtol=0, atol=0)


def test_the_ends_of_the_ranges_meet() -> None:
    assert_close(to_model(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([-1.0, 1.0]), rtol=0, atol=0)


def test_what_lies_outside_the_range_is_clamped() -> None:
    images = torch.tensor([-torch.inf, -1.5, -1.0, 0.0, 1.0, 3.0, torch.inf])
    assert to_pixels(images).tolist() == [0, 0, 0, 128, 255, 255, 255]


def test_half_precision_becomes_pixels_too() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    assert_close(to_pixels(to_model(pixels).half()), pixels, rtol=0, atol=0)


# --- decoding


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA"])
def test_rgb_comes_back_as_it_was(kind: str) -> None:
    assert_array_equal(decoded(Image.fromarray(picture()), kind), picture())


@pytest.mark.parametrize("kind", ["WEBP", "JPEG2000"])
def test_lossless_modes_of_lossy_formats_come_back_as_they_were(kind: str) -> None:
    assert_array_equal(decoded(Image.fromarray(picture()), kind, lossless=True), picture())


@pytest.mark.parametrize("kind", [name for name in ("JPEG", "AVIF", "WEBP") if name in FORMATS])
def test_lossy_formats_come_back_alike(kind: str) -> None:
    difference = decoded(Image.fromarray(picture()), kind, quality=95).astype(int) - picture()
    assert np.abs(difference).mean() < 3


def test_a_file_is_named_by_a_path_too(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "picture.png")
    assert_array_equal(seen(tmp_path / "picture.png"), picture())


def test_a_16_bit_grey_png_is_scaled_not_saturated() -> None:
    values = np.linspace(0, 65535, 16 * 24).reshape(16, 24).astype(np.uint16)
    assert_array_equal(decoded(Image.fromarray(values), "PNG"), grey((values / 257).round().astype(np.uint8)))


def test_a_dark_16_bit_picture_stays_dark() -> None:
    assert decoded(Image.fromarray(np.full((2, 2), 200, np.uint16)), "PNG").max() == 1


@pytest.mark.parametrize("colour_type", [2, 6], ids=["RGB", "RGBA"])
def test_a_16_bit_colour_png_is_scaled_not_saturated(colour_type: int) -> None:
    values = picture().astype(np.uint16) * 257
    if colour_type == 6:
        values = np.dstack([values, np.full(values.shape[:2], 65535, np.uint16)])
    assert_array_equal(seen(png(values, colour_type)), picture())


def test_a_1_bit_picture_is_black_and_white() -> None:
    dots = np.indices((8, 8)).sum(axis=0) % 2 == 0
    assert_array_equal(decoded(Image.fromarray(dots), "PNG"), grey(dots * np.uint8(255)))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_a_float_tiff_is_scaled_by_its_white(white: float) -> None:
    values = np.linspace(0, white, 256, dtype=np.float32).reshape(16, 16)
    assert_array_equal(decoded(Image.fromarray(values), "TIFF"), grey(np.arange(256, dtype=np.uint8).reshape(16, 16)))


def test_what_is_no_number_in_a_float_tiff_spoils_no_other_pixel() -> None:
    values = np.array([[0.0, 0.2, 1.0, -3.0, np.nan, np.inf, -np.inf]], np.float32)
    assert decoded(Image.fromarray(values), "TIFF")[0, :, 0].tolist() == [0, 51, 255, 0, 0, 255, 0]


@pytest.mark.parametrize("white", [255, 65535, 2_000_000_000])
def test_a_32_bit_integer_tiff_is_scaled_by_its_white(white: int) -> None:
    values = np.array([[0, white // 5, white]], np.int32)
    assert_array_equal(decoded(Image.fromarray(values), "TIFF"), grey(np.array([[0, 51, 255]], np.uint8)))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    first, *others = (Image.new("RGB", (16, 16), colour) for colour in ("#ff0000", "#00ff00", "#0000ff"))
    pixels = decoded(first, kind, save_all=True, append_images=others)
    assert_near(pixels, [255, 0, 0], levels=2)


def test_a_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    assert decoded(image, "PNG", transparency=0).tolist() == [[[255, 255, 255], [0, 0, 200]]]
    assert decoded(image, "PNG", transparency=bytes([51, 255])).tolist() == [[[244, 204, 204], [0, 0, 200]]]


def test_a_palette_without_transparency_keeps_its_colours() -> None:
    image = Image.new("P", (1, 1))
    image.putpalette([200, 10, 0])
    assert decoded(image, "PNG").tolist() == [[[200, 10, 0]]]


def test_a_transparent_colour_of_an_rgb_png_becomes_white() -> None:
    image = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8))
    assert decoded(image, "PNG", transparency=(9, 8, 7)).tolist() == [[[255, 255, 255], [1, 2, 3]]]


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
    """Its raw values say 255 for no ink. A file without Adobe's marker is read alike, as browsers do."""
    file = written(Image.new("CMYK", (16, 16), (255, 0, 0, 51)), "JPEG", quality=100)
    content = file.getvalue()
    start = content.index(b"\xff\xee")
    assert content[start + 4 : start + 9] == b"Adobe"
    (length,) = struct.unpack(">H", content[start + 2 : start + 4])
    unmarked = io.BytesIO(content[:start] + content[start + 2 + length :])
    for one in (file, unmarked):
        assert_near(seen(one), [0, 204, 204], levels=2)


TURNS = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}  # EXIF 2.3, table "Orientation": how each number stores the upright picture


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_every_exif_orientation_gives_the_upright_picture(orientation: int, kind: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](picture(32, 48))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True}
    pixels = decoded(stored, kind, exif=exif, **options)
    assert pixels.shape == (32, 48, 3)
    assert_near(pixels, picture(32, 48), levels=6 if kind == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12", b"Exif\0\0" + b"\xff" * 40]
)
def test_exif_that_cannot_be_read_is_ignored(exif: bytes) -> None:
    image = Image.fromarray(picture())
    assert_array_equal(decoded(image, "JPEG", exif=exif), decoded(image, "JPEG"))


def test_exif_that_cannot_be_written_again_turns_the_picture_all_the_same() -> None:
    """Pillow rewrites EXIF when it has turned a picture, and fails on entries of a wrong type."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    resolution_as_bytes = exif.tobytes().replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x01")
    stored = Image.fromarray(np.ascontiguousarray(TURNS[6](picture(32, 48))))
    pixels = decoded(stored, "JPEG", exif=resolution_as_bytes, quality=100, subsampling=0)
    assert_near(pixels, picture(32, 48), levels=6)


# --- colour


def test_adobe_rgb_becomes_srgb_in_a_real_picture(shared_data: Path) -> None:
    path = shared_data / "odd" / "icc_gm_00848101.jpg"
    with Image.open(path) as image:
        raw = np.asarray(image)[::7, ::7]
    expected = adobe_rgb_as_srgb(raw)
    assert_near(seen(path)[::7, ::7], expected, levels=3)
    assert np.abs(raw - expected).max() > 10  # the profile does matter here


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_adobe_rgb_becomes_srgb_in_every_mode(mode: str, shared_data: Path) -> None:
    profile = profile_of(shared_data / "odd" / "icc_gm_00848101.jpg")
    image = Image.fromarray(picture()).convert(mode)
    expected = adobe_rgb_as_srgb(np.asarray(image.convert("RGB")))
    assert_near(decoded(image, "PNG", icc_profile=profile), expected, levels=3)


def test_an_srgb_profile_leaves_the_pixels_alone() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert_array_equal(decoded(Image.fromarray(picture()), "PNG", icc_profile=profile), picture())


@pytest.mark.parametrize("damage", ["noise", "cut", "of another colour space"])
def test_a_profile_that_cannot_be_used_is_ignored(damage: str, shared_data: Path) -> None:
    profile = profile_of(shared_data / "odd" / "icc_gm_00848101.jpg")
    profiles = {
        "noise": b"\x00\xff" * 200,
        "cut": profile[:300],
        "of another colour space": profile_of(shared_data / "odd" / "L_grey_Vol10_CésarBirotteau.jpg"),
    }
    assert_array_equal(decoded(Image.fromarray(picture()), "PNG", icc_profile=profiles[damage]), picture())


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_dot_gain_profile_is_applied(mode: str, shared_data: Path) -> None:
    profile = profile_of(shared_data / "odd" / "L_grey_Vol10_CésarBirotteau.jpg")
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    curve = grey_curve(profile)
    expected = srgb_encoded(np.interp(ramp / 255, np.linspace(0, 1, len(curve)), curve))
    assert_near(decoded(image, "PNG", icc_profile=profile), expected[..., None], levels=3)
    assert np.abs(ramp - expected).max() > 8  # the profile does matter here


# --- what is not opened


def test_postscript_and_pdf_start_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        pytest.fail(f"a program was started: {args}")

    files = [written(Image.fromarray(picture()), kind) for kind in ("EPS", "PDF")]
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for file in files:
        with pytest.raises(Image.UnidentifiedImageError):
            decode(file)


# --- resizing and grids


def test_squash_averages_what_is_finer_than_a_pixel() -> None:
    checkerboard = Image.fromarray((np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")
    pixels = squash(checkerboard, 32)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert_near(pixels, [127.5], levels=4)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (7, 3), (40, 20)])
def test_squash_makes_a_square_of_any_shape(size: tuple[int, int]) -> None:
    assert_array_equal(squash(Image.new("RGB", size, (10, 20, 30)), 16), np.broadcast_to([10, 20, 30], (16, 16, 3)))


def test_squash_keeps_left_and_right_top_and_bottom() -> None:
    assert_array_equal(squash(Image.fromarray(picture(16, 16)), 16), picture(16, 16))


def test_grid_puts_each_row_in_a_row_on_white() -> None:
    levels = torch.tensor([[10, 20, 30], [110, 120, 130]], dtype=torch.uint8)
    sheet = grid([to_model(row).view(3, 1, 1, 1).expand(3, 3, 4, 6) for row in levels])
    expected = torch.full((3, 2 + 2 * (4 + 2), 2 + 3 * (6 + 2)), 255, dtype=torch.uint8)
    for row in range(2):
        for column in range(3):
            y, x = 2 + row * 6, 2 + column * 8
            expected[:, y : y + 4, x : x + 6] = levels[row, column]
    assert_close(sheet, expected, rtol=0, atol=0)


# --- saving


def saved(path: Path, source: Any = "trained", **details: object) -> Path:
    save(torch.from_numpy(picture()).permute(2, 0, 1), path, Marks(source, details))
    return path


def xmp_of(path: Path) -> ET.Element:
    packets = [data for kind, data in png_chunks(path.read_bytes()) if kind == b"iTXt"]
    assert len(packets) == 1
    keyword, flags_and_text = packets[0].split(b"\0", 1)
    assert keyword == b"XML:com.adobe.xmp"
    assert flags_and_text[:4] == bytes(4)  # uncompressed, no language: what XMP part 3 asks for
    return ET.fromstring(flags_and_text[4:].decode())


def text_of(packet: ET.Element, tag: str) -> str:
    names = {
        "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
        "xmp": "http://ns.adobe.com/xap/1.0/",
        "dc": "http://purl.org/dc/elements/1.1/",
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    }
    text = packet.findtext(f".//{tag}", namespaces=names)
    assert text is not None
    return text


def test_a_saved_png_holds_the_pixels(tmp_path: Path) -> None:
    with Image.open(saved(tmp_path / "deep" / "picture.png")) as image:
        assert image.format == "PNG"
        assert_array_equal(np.asarray(image), picture())


@pytest.mark.parametrize(
    ("source", "term"),
    [("trained", "trainedAlgorithmicMedia"), ("composite", "compositeWithTrainedAlgorithmicMedia")],
)
def test_a_saved_png_says_how_it_was_made(source: str, term: str, tmp_path: Path) -> None:
    packet = xmp_of(saved(tmp_path / "picture.png", source))
    expected = f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}"
    assert text_of(packet, "Iptc4xmpExt:DigitalSourceType") == expected
    assert text_of(packet, "xmp:CreatorTool").startswith("artart ")


def test_details_may_hold_any_character(tmp_path: Path) -> None:
    name = "César <b>&amp; \"Söhne\" 'é' 北斎 🎨 ]]>.jpg"
    packet = xmp_of(saved(tmp_path / "picture.png", input=name, seed=7))
    assert text_of(packet, "dc:description/rdf:Alt/rdf:li") == f"input={name}; seed=7"


def test_characters_that_xml_cannot_hold_are_replaced(tmp_path: Path) -> None:
    packet = xmp_of(saved(tmp_path / "picture.png", input="a\x00b\x1bc\udce9d\ufffe"))
    assert text_of(packet, "dc:description/rdf:Alt/rdf:li") == "input=a\ufffdb\ufffdc\ufffdd\ufffd"


def test_pillow_sees_the_marks(tmp_path: Path) -> None:
    with Image.open(saved(tmp_path / "picture.png")) as image:
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
