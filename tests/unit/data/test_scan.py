import importlib
import io
import multiprocessing
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageCms

from artart.data import demo, scan
from artart.data.decode import FORMATS, open_image, resize, upright
from artart.data.find import find_all
from artart.data.index import write_unused
from artart.data.scan import Examined, FileInfo, examine, examine_all
from artart.data.workers import CHUNK
from artart.io.provenance import ImageProvenance, xmp

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # pytest overrides artart's own filter
Nobody = Callable[[], AbstractContextManager[None]]
SIZE = 16
TEXT = b"Notes on the images: P1 to P6, see below.\n" * 50
KINDS = [kind for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000", "AVIF") if kind in FORMATS]


class Hung(BaseException):
    """Not an Exception, so that `examine` does not take it for a flaw."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """So many of the processor, whatever else the machine does; or some minutes of waiting."""

    def give_up(*args: object) -> None:
        raise Hung(f"not done in {seconds} s")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 60 + 10 * seconds)}
    before = {number: signal.signal(number, give_up) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that another user may enter, which pytest's is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


paint = cache(demo.paint)


def image(seed: int = 0, size: int = 48) -> Image.Image:
    return Image.fromarray(paint("painting", seed, size))


def encoded(kind: str, size: int = 48, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    image(size=size).convert(mode).save(file, format=kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes, depth: int = 8) -> bytes:
    """An RGB PNG that Pillow would not write."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def bomb() -> bytes:
    """A PNG that says it is 60,000 pixels wide and high."""
    return png(60000, 60000, bytes(100))


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def examined(path: Path, **settings: Any) -> Examined:
    """What holds of every file, whatever is in it."""
    with within(5):
        one = examine(path, SIZE, **settings)
    assert one.path == path
    assert (one.pixels is not None) == (one.facts.perceptual_hash != "")
    assert one.pixels is None or not one.facts.flaw
    assert len(one.facts.flaw.splitlines()) <= 1
    return one


def facts_of(path: Path) -> FileInfo:
    one = examined(path)
    assert one.facts.flaw == ""
    return one.facts


def flaw(path: Path) -> str:
    one = examined(path)
    assert one.pixels is None
    return one.facts.flaw


def expected(file: Path) -> np.ndarray | None:
    """The pixels of a file as artart.data.decode gives them, of which tests/unit/data/test_decode.py treats."""
    try:
        with open_image(file) as image:
            return resize(upright(image), SIZE, "stretch")
    except Exception:  # noqa: BLE001 - of any type
        return None


def found(root: Path) -> list[str]:
    with within(5):
        return [str(path.relative_to(root)) for path in find_all(root).images]


# --- find


def test_every_image_of_a_nested_folder_is_found_in_order(art_folder: Path) -> None:
    paths = find_all(art_folder).images
    assert len(paths) == 12
    assert paths == sorted(path for path in art_folder.rglob("*") if path.is_file())
    assert paths == find_all(art_folder).images


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["no_suffix", "wrong.txt", "wrong.jpg"])
def test_an_image_is_found_by_its_content(kind: str, name: str, tmp_path: Path) -> None:
    write(tmp_path / name, encoded(kind))
    assert found(tmp_path) == [name]
    assert facts_of(tmp_path / name).format == kind


@pytest.mark.parametrize(
    "suffix",
    [".jpg", ".JPG", ".JpEg", ".jfif", ".Png", ".gif", ".TIF", ".tiff", ".bmp", ".WebP", ".tga", ".mpo", ".jp2"],
)
def test_a_file_that_calls_itself_an_image_is_found_though_it_is_none(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"broken{suffix}", TEXT)
    assert found(tmp_path) == [f"broken{suffix}"]
    assert flaw(tmp_path / f"broken{suffix}").startswith("not an image")


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    icon = struct.pack("<HHHBBBBHHIH", 0, 1, 1, 16, 16, 0, 0, 1, 32, 66536, 22)  # its bytes make a TGA header
    contents = {"notes.txt": TEXT, "art.csv": b"P1,2,3\n", "art.json": b"{}", "empty": b"", "favicon.ico": icon + TEXT}
    contents |= {"plot.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "art.pdf": b"%PDF-1.4\n" + TEXT}
    for name, content in contents.items():
        write(tmp_path / name, content)
    assert found(tmp_path) == []


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "art"
    for name in ("seen.png", ".hidden.png", ".git/a.png", "a/.thumbnails/b.png", "a/._c.png", "a/d.png"):
        write(root / name, encoded("PNG"))
    assert found(root) == ["a/d.png", "seen.png"]


def test_what_is_no_file_is_passed_over_and_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    write(tmp_path / "folder.jpg" / "image.png", encoded("PNG"))
    assert found(tmp_path) == ["folder.jpg/image.png"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "deep" / "linked.png", encoded("PNG"))
    root = tmp_path / "art"
    write(root / "own.png", encoded("PNG"))
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "link.png").symlink_to(root / "own.png")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "loop").symlink_to(root)
    assert found(root) == ["link/deep/linked.png", "link.png", "own.png"]


def test_a_bomb_without_a_suffix_is_found_by_its_content(tmp_path: Path) -> None:
    write(tmp_path / "bomb", bomb())
    assert found(tmp_path) == ["bomb"]


def test_folders_that_cannot_be_entered_are_passed_over_with_a_warning(
    public_path: Path, caplog: pytest.LogCaptureFixture, as_nobody: Nobody
) -> None:
    for name in ("open", "closed", "only_listed"):
        write(public_path / name / "image.png", encoded("PNG"))
    (public_path / "closed").chmod(0o700 if os.geteuid() == 0 else 0)
    (public_path / "only_listed").chmod(0o744 if os.geteuid() == 0 else 0o400)
    with as_nobody():
        paths = find_all(public_path).images
    for name in ("closed", "only_listed"):
        (public_path / name).chmod(0o755)
    assert paths == [public_path / "only_listed" / "image.png", public_path / "open" / "image.png"]  # one is rejected
    assert caplog.messages == [f"{public_path / 'closed'}: Permission denied; this folder is ignored"]


# --- examine: a good file


def test_a_good_file_gives_its_pixels_and_what_the_disk_tells(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", encoded("PNG"))
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    one = examined(path)
    assert one.pixels is not None
    assert_array_equal(one.pixels, np.asarray(image().resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    assert one.pixels.dtype == np.uint8
    assert one.facts.sha256 == sha256(path.read_bytes()).hexdigest()
    assert one.facts.bytes == len(path.read_bytes())
    assert one.facts.mtime == 1_234_567_890_123_456_789


SEVERAL = {"save_all": True}  # frames or pages
SAVED = {
    "JPEG": (".jpg", "RGB", {}, FileInfo(format="JPEG", mode="RGB")),
    "grey JPEG": (".jpg", "L", {"progressive": True}, FileInfo(format="JPEG", mode="L")),
    "CMYK JPEG": (".jpg", "CMYK", {}, FileInfo(format="JPEG", mode="CMYK")),
    "MPO": (".mpo", "RGB", SEVERAL, FileInfo(format="MPO", mode="RGB")),
    "PNG": (".png", "RGB", {}, FileInfo(format="PNG", mode="RGB")),
    "16-bit grey PNG": (".png", "I;16", {}, FileInfo(format="PNG", mode="I;16")),
    "1-bit PNG": (".png", "1", {}, FileInfo(format="PNG", mode="1")),
    "PNG with alpha": (".png", "RGBA", {}, FileInfo(format="PNG", mode="RGBA")),
    "grey PNG with alpha": (".png", "LA", {}, FileInfo(format="PNG", mode="LA")),
    "palette": (".png", "P", {}, FileInfo(format="PNG", mode="P")),
    "palette with transparency": (".png", "P", {"transparency": 3}, FileInfo(format="PNG", mode="P")),
    "animated PNG": (".png", "RGB", SEVERAL, FileInfo(format="PNG", mode="RGB")),
    "animated GIF": (".gif", "P", SEVERAL, FileInfo(format="GIF", mode="P")),
    "animated WebP": (".webp", "RGB", SEVERAL, FileInfo(format="WEBP", mode="RGB")),
    "TIFF of several pages": (".tif", "RGB", SEVERAL, FileInfo(format="TIFF", mode="RGB")),
    "BMP": (".bmp", "RGB", {}, FileInfo(format="BMP", mode="RGB")),
    "PPM": (".ppm", "RGB", {}, FileInfo(format="PPM", mode="RGB")),
    "TGA": (".tga", "RGB", {}, FileInfo(format="TGA", mode="RGB")),
    "JPEG 2000": (".jp2", "RGB", {}, FileInfo(format="JPEG2000", mode="RGB")),
}


@pytest.mark.parametrize(("suffix", "mode", "options", "facts"), SAVED.values(), ids=SAVED)
def test_the_facts_are_those_of_the_file(
    suffix: str, mode: str, options: dict[str, Any], facts: FileInfo, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    first, *more = (image(seed).resize((40, 30)).convert(mode) for seed in range(3))
    first.save(path, **options, **({"append_images": more} if options == SEVERAL else {}))
    one = examined(path)
    own = ("bytes", "mtime", "ctime", "sha256", "perceptual_hash")
    assert one.facts == facts._replace(width=40, height=30, **{name: getattr(one.facts, name) for name in own})
    assert_array_equal(one.pixels, expected(path))


def test_a_16_bit_colour_png_is_examined(tmp_path: Path) -> None:
    row = b"\0" + struct.pack(">3H", 65535, 32896, 0) * 8
    one = examined(write(tmp_path / "a.png", png(8, 8, row * 8, depth=16)))
    assert (one.facts.mode, one.facts.width, one.facts.flaw) == ("RGB", 8, "")
    assert_array_equal(one.pixels, np.broadcast_to([255, 128, 0], (SIZE, SIZE, 3)))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_reported_beside_the_stored_sides(orientation: int, suffix: str, tmp_path: Path) -> None:
    stored, exif = image(size=64).crop((0, 0, 64, 40)), Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a{suffix}", exif=exif)
    facts = facts_of(tmp_path / f"a{suffix}")
    assert facts.orientation == orientation
    if suffix != ".tif":  # whose sides Pillow tells upright
        assert (facts.width, facts.height) == stored.size


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_is_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image().save(tmp_path / "a.jpg", exif=exif)
    assert facts_of(tmp_path / "a.jpg").orientation == 1


def test_the_colour_profile_is_described(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    image().save(tmp_path / "a.jpg", icc_profile=profile.tobytes())
    image().save(tmp_path / "b.jpg", icc_profile=b"no profile")
    assert [facts_of(tmp_path / name).icc for name in ("a.jpg", "b.jpg")] == ["sRGB built-in", "unreadable"]


OPT_OUT = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/"
plus:DataMining="http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED-AIMLTRAINING"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_marks_are_found(suffix: str, tmp_path: Path) -> None:
    for name, packet in (("opt_out", OPT_OUT), ("source", xmp(ImageProvenance("trained", {}))), ("none", "")):
        options: dict[str, Any] = {"tiffinfo": {700: packet.encode()}} if suffix == ".tif" else {"xmp": packet.encode()}
        image().save(tmp_path / f"{name}{suffix}", **options)
    message = [facts_of(tmp_path / f"{name}{suffix}") for name in ("opt_out", "source", "none")]
    assert [facts.opt_out for facts in message] == ["DMI-PROHIBITED-AIMLTRAINING", "", ""]
    assert [facts.source for facts in message] == ["", "trainedAlgorithmicMedia", ""]


def test_the_same_image_twice_has_one_perceptual_hash_and_another_image_another(tmp_path: Path) -> None:
    image(0).save(tmp_path / "a.png")
    image(0).save(tmp_path / "b.bmp")
    image(1).save(tmp_path / "c.png")
    a, b, c = (facts_of(tmp_path / name).perceptual_hash for name in ("a.png", "b.bmp", "c.png"))
    assert a == b != c


def test_the_fit_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 20), "red")
    image.paste((0, 0, 255), (20, 0, 40, 20))
    image.save(tmp_path / "a.png")
    stretched, cropped, padded = (
        examined(tmp_path / "a.png", resize_mode=resize_mode).pixels
        for resize_mode in ("stretch", "center_crop", "pad")
    )
    assert stretched is not None and cropped is not None and padded is not None
    assert_array_equal(stretched[0, 0], [255, 0, 0])
    assert_array_equal(cropped[0, SIZE // 2], [0, 0, 255])
    assert_array_equal(cropped[SIZE // 2, 1], [0, 0, 255])
    assert_array_equal(padded[0, 0], [255, 255, 255])
    assert_array_equal(padded[SIZE // 2, 0], [255, 0, 0])


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_an_extreme_shape_can_be_used(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (9, 8, 7)).save(tmp_path / "a.png")
    assert_array_equal(examined(tmp_path / "a.png").pixels, np.broadcast_to([9, 8, 7], (SIZE, SIZE, 3)))


def test_many_pages_take_no_longer_than_one(tmp_path: Path) -> None:
    content = bytearray(encoded("TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    (num_tags,) = struct.unpack_from("<H", content, start)
    page = [(256, 1), (257, 1), (262, 1), (273, 8)]  # width, height, colours, where the pixels are
    tags = struct.pack("<H", len(page)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in page)
    for i in range(20_000):
        struct.pack_into("<I", content, start + 2 + 12 * (num_tags if i == 0 else len(page)), len(content))
        start = len(content)
        content += tags + bytes(4)
    with within(5):
        one = examined(write(tmp_path / "a.tif", content))
    assert_array_equal(one.pixels, np.asarray(image().resize((SIZE, SIZE), Image.Resampling.BILINEAR)))


# --- examine: a bad file


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


PNG, BMP = encoded("PNG", 256), encoded("BMP")
BAD = {
    "zero bytes": (b"", "empty file"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git-LFS pointer"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "not an image, or cut off in its header"),
    "zeros": (bytes(5000), "not an image, or cut off in its header"),
    "JPEG header alone": (encoded("JPEG")[:30], "cut off or damaged: Truncated File Read"),
    "BMP of 2 bits": (
        BMP[:28] + b"\2" + BMP[29:],
        "unsupported: BMP pixel depth (2); save it as PNG with 8 or 16 bits",
    ),
    "PNG with a flipped byte": (flipped(PNG, PNG.index(b"IDAT") + 60), "cut off or damaged: the checksum of IDAT"),
    "PNG with a flipped length": (flipped(PNG, PNG.index(b"IDAT") - 2), "cut off or damaged: the checksum of IDAT"),
}


@pytest.mark.parametrize(("content", "expected"), BAD.values(), ids=BAD)
def test_a_bad_file_has_a_flaw(content: bytes, expected: str, tmp_path: Path) -> None:
    one = examined(write(tmp_path / "bad.jpg", content))
    assert one.facts.flaw.startswith(expected)
    assert one.pixels is None
    assert one.facts.bytes == len(content)
    assert one.facts.sha256 == sha256(content).hexdigest()


def test_a_damaged_image_still_tells_what_its_header_says(tmp_path: Path) -> None:
    for suffix, content in ((".png", PNG[:-3000]), (".jpg", encoded("JPEG", 256)[:-3000])):
        facts = examined(write(tmp_path / f"a{suffix}", content)).facts
        assert facts.flaw.startswith("cut off or damaged: ")
        assert (facts.width, facts.height, facts.mode) == (256, 256, "RGB")


WHOLE = {kind: encoded(kind, 256) for kind in KINDS} | {
    "progressive JPEG": encoded("JPEG", 256, progressive=True),
    "grey JPEG": encoded("JPEG", 256, "L"),
    "CMYK JPEG": encoded("JPEG", 256, "CMYK"),
    "JPEG with restarts": encoded("JPEG", 256, restart_marker_rows=1),
    "TIFF, LZW": encoded("TIFF", 256, compression="tiff_lzw"),
    "TIFF, Deflate": encoded("TIFF", 256, compression="tiff_adobe_deflate"),
    "TIFF, JPEG": encoded("TIFF", 256, compression="jpeg"),
}


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
def test_a_cut_file_is_rejected(content: bytes, tmp_path: Path) -> None:
    for percent in (10, 50, 99):
        reason = flaw(write(tmp_path / f"{percent}.jpg", content[: len(content) * percent // 100]))
        assert reason.startswith(("cut off or damaged: ", "not an image, or cut off in its header"))


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE)
def test_half_an_image_is_never_accepted_when_the_last_bytes_are_missing(content: bytes, tmp_path: Path) -> None:
    """A PNG whose end marker is missing may hold all of its pixels; a JPEG of which more is missing does not."""
    whole = examined(write(tmp_path / "whole", content)).pixels
    for num_bytes in (1, 2, 3, 4, 20, 100):
        one = examined(write(tmp_path / f"{num_bytes}", content[:-num_bytes]))
        if content.startswith(b"\xff\xd8") and num_bytes > 2:
            assert one.facts.flaw.startswith("cut off or damaged: image file is truncated")
        if one.pixels is not None:
            assert_array_equal(one.pixels, whole)


def test_a_damaged_second_page_leaves_the_first(tmp_path: Path) -> None:
    content = bytearray(encoded("TIFF", save_all=True, append_images=[image(1)]))
    (start,) = struct.unpack_from("<I", content, 4)
    (num_tags,) = struct.unpack_from("<H", content, start)
    (second,) = struct.unpack_from("<I", content, start + 2 + 12 * num_tags)
    struct.pack_into("<H", content, second + 2, 0x1234)  # its width goes by another name
    one = examined(write(tmp_path / "a.tif", content))
    assert_array_equal(one.pixels, np.asarray(image().resize((SIZE, SIZE), Image.Resampling.BILINEAR)))


def test_a_vanished_file_has_a_flaw(tmp_path: Path) -> None:
    assert flaw(tmp_path / "gone.jpg") == "vanished while it was read"


def test_a_folder_has_a_flaw(tmp_path: Path) -> None:
    assert flaw(tmp_path) == "cannot be read: Is a directory"


def test_a_file_that_may_not_be_read_has_a_flaw(public_path: Path, as_nobody: Nobody) -> None:
    path = write(public_path / "secret.png", encoded("PNG"))
    path.chmod(0o600 if os.geteuid() == 0 else 0)
    with as_nobody():
        assert flaw(path) == "no permission to read it"


def bmp_of(width: int, height: int) -> bytes:
    content = bytearray(encoded("BMP"))
    struct.pack_into("<ii", content, 18, width, height)
    return bytes(content)


BOMBS = {"PNG": bomb(), "BMP": bmp_of(60000, 60000), "PPM": b"P6 60000 60000 255\n" + TEXT}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_measured_not_decoded(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "bomb.jpg", content)
    with within(5):
        one = examined(path)
    assert one.pixels is None
    size = {"width": 60000, "height": 60000}
    assert one.facts == FileInfo(
        len(content), path.stat().st_mtime_ns, path.stat().st_ctime_ns, sha256(content).hexdigest(), **size
    )


def test_the_limit_of_pixels_is_the_callers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", encoded("PNG", 48))
    assert examined(path, max_pixels=48 * 48).pixels is not None
    too_large = examined(path, max_pixels=48 * 48 - 1)
    assert too_large.pixels is None
    assert (too_large.facts.width, too_large.facts.height, too_large.facts.flaw) == (48, 48, "")


@pytest.mark.parametrize(
    "kind", ["JPEG", *(pytest.param(kind, marks=pytest.mark.slow) for kind in (*KINDS, "TGA", "MPO") if kind != "JPEG")]
)
def test_a_flipped_byte_ends_in_the_pixels_that_decode_gives_or_in_a_flaw(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scan, "perceptual_hash", lambda image: "0")  # which takes most of the time
    draw, content, path = random.Random(kind), encoded(kind, 24), tmp_path / "a.jpg"
    for i in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content) if i % 2 else min(len(content), 200))] ^= draw.randrange(1, 256)
        one = examined(write(path, damaged))
        pixels = None if one.facts.width * one.facts.height > scan.MAX_PIXELS else expected(path)
        assert (pixels is None) == (one.pixels is None)
        if pixels is not None:
            assert_array_equal(one.pixels, pixels)
    if kind != "TIFF":  # libtiff writes to the terminal
        assert capfd.readouterr() == ("", "")


def test_each_odd_file_is_judged_rightly(odd_files: Path) -> None:
    facts = {path.name: examined(path).facts for path in find_all(odd_files).images}
    assert {name: fact.flaw for name, fact in facts.items() if fact.flaw} == {
        "empty_00001229.jpg": "empty file",
        "lfs_pointer_POM00007429.jpg": "Git-LFS pointer, not the image itself: run `git lfs pull`",
        "truncated_rare_domains_commoner_kaokore.png": "cut off or damaged: image file is truncated",
    }
    good = {name: fact for name, fact in facts.items() if not fact.flaw}
    assert {n: (f.format, f.width, f.height, f.mode, f.icc) for n, f in good.items()} == {
        "LA_Vol10_CésarBirotteau_IC.png": ("PNG", 40, 40, "LA", "Dot Gain 15%"),
        "L_grey_Vol10_CésarBirotteau.jpg": ("JPEG", 135, 200, "L", "Dot Gain 15%"),
        "P_palette_artic_24645.png": ("PNG", 149, 102, "P", ""),
        "RGBA_sharaku1.png": ("PNG", 34, 38, "RGBA", ""),
        "animated_recording.gif": ("GIF", 80, 46, "P", ""),
        "huge_espinasse.jpg": ("JPEG", 1207, 1642, "L", ""),
        "icc_gm_00848101.jpg": ("JPEG", 180, 126, "RGB", "Adobe RGB (1998)"),
        "narrow_Belated.jpg": ("JPEG", 48, 199, "RGB", ""),
        "png_named_jpg_Figur2@A Gentleman of France.jpg": ("PNG", 94, 94, "RGBA", ""),
        "quote_a' plum park in Kameido Utagawa Hiroshige.jpeg": ("JPEG", 42, 63, "RGB", ""),
        "tiny_palette_transparent_fullscreen.png": ("PNG", 26, 52, "P", ""),
        "webp_grey_met-436965.webp": ("WEBP", 107, 67, "RGB", ""),
    }


# --- examine_all


def same(one: Examined, other: Examined) -> bool:
    return one[:2] == other[:2] and np.array_equal(one.pixels, other.pixels)  # type: ignore[arg-type]


def many(folder: Path, count: int = 120) -> list[Path]:
    """So many files that worker processes examine them."""
    contents = [encoded("PNG"), encoded("JPEG", 64), b"", encoded("GIF"), png(9, 3, bytes(3 * 28))]
    return [write(folder / f"{i:04}.png", contents[i % len(contents)]) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, 32, 33, 90])
def test_files_come_in_the_order_given_whoever_examines_them(count: int, tmp_path: Path) -> None:
    paths = many(tmp_path, count)[::-1]
    settings: dict[str, Any] = {"resize_mode": "pad", "max_pixels": 48 * 48}
    with within(30):
        results = list(examine_all(paths, SIZE, num_workers=2, **settings))
    assert len(results) == count
    assert all(same(one, examine(path, SIZE, **settings)) for one, path in zip(results, paths, strict=True))


def test_few_files_need_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "in_workers", lambda *_, **__: pytest.fail("processes were started"))
    assert len(list(examine_all(many(tmp_path, scan.MAX_IN_PROCESS), SIZE))) == scan.MAX_IN_PROCESS


def test_two_files_are_examined_by_processes(
    few_files_need_no_process: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of tests: any file may crash its decoder."""
    in_workers, counts = scan.in_workers, list[int]()

    def counted(one: Callable[[Path], Examined], paths: Sequence[Path], *more: Any) -> Iterator[Examined]:
        counts.append(len(paths))
        return in_workers(one, paths, *more)

    monkeypatch.setattr(scan, "MAX_IN_PROCESS", few_files_need_no_process)
    monkeypatch.setattr(scan, "in_workers", counted)
    for count, isolated in ((1, False), (2, False), (1, True)):
        assert len(list(examine_all(many(tmp_path, count), SIZE, num_workers=1, isolated=isolated))) == count
    assert counts == [2, 1]


@pytest.mark.parametrize("count", [32, 120])
def test_a_file_that_vanishes_meanwhile_is_the_only_one_missing(count: int, tmp_path: Path) -> None:
    paths = many(tmp_path, count)
    results = examine_all(paths, SIZE, num_workers=1)
    next(results)
    paths[-1].unlink()
    *others, last = results
    assert last.facts == FileInfo(flaw="vanished while it was read")
    assert not [one for one in others if one.facts.flaw not in ("", "empty file")]


SILENT = """
import sys
from pathlib import Path
from artart.data.find import find_all
from artart.data.scan import examine_all
for one in examine_all(find_all(Path(sys.argv[1])).images, 16, num_workers=1):
    print(one.path.name, one.pixels is not None)
"""


@pytest.mark.parametrize("count", [0, 32])
def test_nothing_is_said_of_odd_metadata(count: int, tmp_path: Path) -> None:
    """In a process of its own, because pytest changes how warnings are shown."""
    for i in range(count):
        image().save(tmp_path / f"{i:03}.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12")
    encoded_palette = {"mode": "P", "transparency": bytes(range(200))}
    write(tmp_path / "palette.png", encoded("PNG", **encoded_palette))
    command = [sys.executable, "-W", "always::UserWarning", "-W", "always::RuntimeWarning", "-c", SILENT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*(f"{i:03}.jpg True" for i in range(count)), "palette.png True"]
    assert done.stderr == ""


def test_what_a_decoder_in_c_prints_does_not_reach_the_terminal(tmp_path: Path) -> None:
    for i in range(3):
        path = tmp_path / f"{i:03}.tif"
        image().save(path, compression="tiff_lzw")
        content = path.read_bytes()
        path.write_bytes(content[:200] + bytes(60) + content[260:])  # libtiff complains on its own
    command = [sys.executable, "-c", SILENT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""


# --- workers that die, and ends before the end

HELPER = """
import os
import signal
import time
from pathlib import Path
from artart.data.scan import examine
from artart.data.workers import CHUNK, exclusive

SIGNALS = {"0003.png": signal.SIGKILL, "0050.png": signal.SIGSEGV, "0051.png": signal.SIGPROF}

def deadly(path, **settings):
    if path.name in SIGNALS:
        os.kill(os.getpid(), SIGNALS[path.name])
    return examine(path, **settings)

def held_alone(path, **settings):
    with exclusive(True):
        marks = path.with_name("inside"), path.with_name("overlap")
        (marks[0] if not marks[0].exists() else marks[1]).touch()
        time.sleep(0.02)
        marks[0].unlink(missing_ok=True)
    return examine(path, **settings)

def deadly_once(path, **settings):
    if path.name == "0050.png" and not path.with_suffix(".died").exists():
        path.with_suffix(".died").touch()
        os.abort()
    return examine(path, **settings)

def blocked_behind_first_chunk(path, **settings):
    if int(path.stem) >= CHUNK:
        os.close(os.open(path.with_name("gate"), os.O_RDONLY))  # waits until somebody opens it for writing
    path.with_suffix(".done").touch()
    return examine(path, **settings)
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions that a worker can import, which it cannot from here."""
    name = f"helper_{tmp_path.name}"
    write(tmp_path / "helper" / f"{name}.py", HELPER.encode())
    monkeypatch.syspath_prepend(tmp_path / "helper")
    return importlib.import_module(name)


def test_workers_that_are_killed_lose_no_file(tmp_path: Path) -> None:
    paths = many(tmp_path, 160)
    results, num_killed = [], 0
    with within(60):
        for one in examine_all(paths, SIZE, num_workers=2):
            results.append(one)
            if len(results) in (1, 90):
                for worker in multiprocessing.active_children():
                    worker.kill()
                    num_killed += 1
    assert num_killed >= 2
    assert len(results) == len(paths)
    assert all(same(one, examine(path, SIZE)) for one, path in zip(results, paths, strict=True))


@pytest.mark.parametrize(
    ("function", "deaths"),
    [
        ("deadly", {"0003.png", "0050.png", "0051.png"}),
        pytest.param("deadly_once", set(), marks=pytest.mark.slow),
    ],
    ids=["deadly", "deadly_once"],
)
def test_a_file_that_kills_its_workers_is_flawed_and_no_other(
    function: str, deaths: set[str], helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = many(tmp_path)
    monkeypatch.setattr(scan, "examine", getattr(helper, function))
    with within(60):
        results = list(examine_all(paths, SIZE, num_workers=2))
    assert len(results) == len(paths)
    for one, path in zip(results, paths, strict=True):
        if path.name in deaths:
            known = FileInfo(*examine(path, SIZE).facts[:4])  # is not tried again
            facts = {
                "0003.png": FileInfo(flaw="needs more memory than there is: lower data.num_workers or data.max_pixels"),
                "0050.png": known._replace(flaw="crashes the decoder"),
                "0051.png": known._replace(flaw="takes more than 120 s to decode: save it again"),
            }
            assert one == Examined(path, facts[path.name], None)
        else:
            assert same(one, examine(path, SIZE))


def test_an_item_that_takes_too_long_ends_its_process() -> None:
    script = "from artart.data import workers; workers.MAX_SECONDS = 0.2; workers._each(sum, [range(10**12)])"
    with within(30):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=20)
    assert done.returncode == -signal.SIGPROF


def test_one_worker_at_a_time_is_exclusive(helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = many(tmp_path, 48)  # three chunks
    monkeypatch.setattr(scan, "examine", helper.held_alone)
    with within(60):
        assert len(list(examine_all(paths, SIZE, num_workers=3))) == 48
    assert not (paths[0].with_name("overlap")).exists()


def test_a_blank_image_is_rejected_and_a_white_one_is_not(tmp_path: Path) -> None:
    icon = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    icon.paste((255, 255, 255, 255), (8, 8, 24, 24))
    icon.save(tmp_path / "icon.png")
    icon.convert("RGB").save(tmp_path / "white.png")
    assert flaw(tmp_path / "icon.png").startswith("blank on white, try data.background=black: ")
    assert examined(tmp_path / "white.png").pixels is not None
    shown = examined(tmp_path / "icon.png", background=(0, 0, 0)).pixels
    assert shown is not None
    assert (shown[0, 0].tolist(), shown[8, 8].tolist()) == ([0, 0, 0], [255, 255, 255])


def test_a_blank_image_on_a_dark_background_needs_a_light_one(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(tmp_path / "icon.png")
    flaw = examined(tmp_path / "icon.png", background=(0, 0, 16)).facts.flaw
    assert flaw.startswith("blank on #000010, try data.background=white: ")


def test_closing_the_results_cancels_the_chunks_that_have_not_begun(
    helper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight chunks are submitted: one is done, two run and at most three are on their way to a worker."""
    paths = many(tmp_path, 400)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    submit, shutdown = ProcessPoolExecutor.submit, ProcessPoolExecutor.shutdown
    futures, opened = list[Future[Any]](), list[int]()

    def open_gate(_: object) -> None:
        opened.append(os.open(gate, os.O_RDWR))

    def record(*arguments: Any) -> Future[Any]:
        futures.append(submit(*arguments))
        return futures[-1]

    def open_unless_cancelling(pool: ProcessPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if not cancel_futures:
            open_gate(pool)  # this test fails then, and need not hang
        shutdown(pool, wait, cancel_futures=cancel_futures)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", record)
    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", open_unless_cancelling)
    monkeypatch.setattr(scan, "examine", helper.blocked_behind_first_chunk)
    results = examine_all(paths, SIZE, num_workers=2)
    with within(10):
        next(results)
        futures[-1].add_done_callback(open_gate)
        results.close()
    assert futures[-1].cancelled()
    assert CHUNK <= len(list(tmp_path.glob("*.done"))) <= 6 * CHUNK
    assert multiprocessing.active_children() == []
    for descriptor in opened:
        os.close(descriptor)


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """What a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_is_no_flaw_of_the_file_in_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = many(tmp_path, scan.MAX_IN_PROCESS)
    calls: list[Path] = []

    def interrupted(file: Any, max_pixels: int) -> Image.Image:
        calls.append(file.name)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(file, max_pixels)

    original: Callable[[Any, int], Image.Image] = scan.open_image
    monkeypatch.setattr(scan, "open_image", interrupted)
    with within(5), pytest.raises(KeyboardInterrupt):
        list(examine_all(paths, SIZE))
    assert len(calls) == 3


ENDLESS = """
import multiprocessing, signal, sys, time
from contextlib import closing
from pathlib import Path
from artart.data.find import find_all
from artart.data.scan import examine_all

signal.signal(signal.SIGINT, signal.default_int_handler)
results = examine_all(find_all(Path(sys.argv[1])).images * 1000, 16, num_workers=2)
next(results)
time.sleep(float(sys.argv[2]))
try:
    with closing(results):
        print(len(multiprocessing.active_children()), flush=True)
        for one in results:
            time.sleep(float(sys.argv[2]))
except KeyboardInterrupt:
    print("stopped", len(multiprocessing.active_children()), flush=True)
    raise
"""


@contextmanager
def endless(folder: Path, pause: float) -> Iterator[subprocess.Popen[str]]:
    """A process, at the head of a group, whose two workers examine files for minutes; if it pauses, they idle."""
    many(folder)
    command = [sys.executable, "-c", ENDLESS, str(folder), str(pause)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "2\n"
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0, 1], ids=["busy", "idle"])
def test_ctrl_c_stops_the_parent_and_its_workers_without_a_word_of_theirs(pause: float, tmp_path: Path) -> None:
    with endless(tmp_path, pause) as process:
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)  # until nobody holds its pipes: no worker either
    assert out == "stopped 0\n"
    assert process.returncode == -signal.SIGINT
    assert err.startswith("Traceback ")
    assert err.endswith("\nKeyboardInterrupt\n")
    assert err.count("Traceback ") == 1


INTERRUPTED = """
import os, signal, sys, threading
from pathlib import Path
from artart.data.find import find_all
from artart.data.scan import examine_all

signal.signal(signal.SIGINT, signal.default_int_handler)
paths = find_all(Path(sys.argv[1])).images * 1000
threading.Timer(float(sys.argv[2]), os.killpg, (0, signal.SIGINT)).start()
try:
    list(examine_all(paths, 16, num_workers=2))
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.parametrize("delay", [0.1, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.02, 0.3))])
def test_ctrl_c_while_the_workers_start_makes_none_of_them_complain(delay: float, tmp_path: Path) -> None:
    many(tmp_path)
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path), str(delay)]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("stopped\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM], ids=str)
def test_workers_do_not_outlive_their_parent(death: signal.Signals, tmp_path: Path) -> None:
    with endless(tmp_path, pause=1) as process:
        process.send_signal(death)
        _, err = process.communicate(timeout=120)  # until nobody holds its pipes: no worker either
    assert process.returncode == -death
    assert "Traceback" not in err  # Python's resource tracker may tell that it cleaned up


# --- the table of files that are not used


def test_the_table_is_there_when_no_file_is_flawed(tmp_path: Path) -> None:
    write_unused([], tmp_path, tmp_path)
    assert (tmp_path / "rejected.csv").read_text() == "path,reason,bytes\n"
