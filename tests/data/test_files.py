import csv
import io
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from artart.data import demo, files
from artart.data.files import Decoded, Rejected, class_of, find, read, read_all, write_rejected

SIZE = 16
TEXT = b"Notes on the pictures: P1 to P6, see below.\n" * 50


class Hung(BaseException):
    """Not an Exception, so that `read` does not take it for a reason."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    def give_up(*args: object) -> None:
        raise Hung(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything; so be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that another user may enter, which pytest's is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def picture(seed: int = 0, size: int = 48) -> Image.Image:
    return Image.fromarray(demo.paint("painting", seed, size))


def encoded(kind: str, size: int = 48) -> bytes:
    file = io.BytesIO()
    picture(size=size).save(file, format=kind)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb() -> bytes:
    """A PNG that says it is 60,000 pixels wide and high."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100)))


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def reason(path: Path) -> str:
    verdict = read(path, SIZE)
    assert isinstance(verdict, Rejected)
    assert verdict.path == path
    assert len(verdict.reason.splitlines()) == 1
    return verdict.reason


def found(root: Path) -> list[str]:
    with within(5):
        return [str(path.relative_to(root)) for path in find(root)]


# --- find


def test_every_picture_of_a_nested_folder_is_found_in_order(art_folder: Path) -> None:
    paths = find(art_folder)
    assert len(paths) == 12
    assert paths == sorted(path for path in art_folder.rglob("*") if path.is_file())
    assert paths == find(art_folder)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000"])
@pytest.mark.parametrize("name", ["no_suffix", "wrong.txt", "wrong.jpg"])
def test_a_picture_is_found_by_its_content(kind: str, name: str, tmp_path: Path) -> None:
    write(tmp_path / name, encoded(kind))
    assert found(tmp_path) == [name]
    assert isinstance(read(tmp_path / name, SIZE), Decoded)


@pytest.mark.parametrize(
    "suffix",
    [".jpg", ".JPG", ".JpEg", ".jfif", ".Png", ".gif", ".TIF", ".tiff", ".bmp", ".WebP", ".tga", ".mpo", ".jp2"],
)
def test_a_file_that_calls_itself_a_picture_is_found_though_it_is_none(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / f"broken{suffix}", TEXT)
    assert found(tmp_path) == [f"broken{suffix}"]
    assert reason(tmp_path / f"broken{suffix}").startswith("not a picture")


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
    write(tmp_path / "folder.jpg" / "picture.png", encoded("PNG"))
    assert found(tmp_path) == ["folder.jpg/picture.png"]


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
    public_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("open", "closed", "only_listed"):
        write(public_path / name / "picture.png", encoded("PNG"))
    (public_path / "closed").chmod(0o700 if os.geteuid() == 0 else 0)
    (public_path / "only_listed").chmod(0o744 if os.geteuid() == 0 else 0o400)
    with as_nobody():
        paths = find(public_path)
    for name in ("closed", "only_listed"):
        (public_path / name).chmod(0o755)
    assert paths == [public_path / "open" / "picture.png"]
    assert caplog.messages == [f"{public_path / 'closed'}: Permission denied; this folder is passed over"]


@pytest.mark.parametrize(
    ("path", "name"), [("a.png", None), ("cubism/a.png", "cubism"), ("cubism/1910/paris/a.png", "cubism")]
)
def test_the_class_is_the_first_folder_below_the_root(path: str, name: str | None) -> None:
    assert class_of(Path("/art") / path, Path("/art")) == name


# --- read


def test_a_good_file_gives_its_pixels_and_the_hash_of_its_content(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", encoded("PNG"))
    verdict = read(path, SIZE)
    assert isinstance(verdict, Decoded)
    assert verdict.path == path
    assert verdict.digest == sha256(path.read_bytes()).hexdigest()
    assert_array_equal(verdict.pixels, np.asarray(picture().resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    assert verdict.pixels.dtype == np.uint8


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


JPEG, PNG = encoded("JPEG", 256), encoded("PNG", 256)
BAD = {
    "zero bytes": (b"", "empty file"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git-LFS pointer"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "not a picture, or cut off in its header"),
    "zeros": (bytes(5000), "not a picture, or cut off in its header"),
    "JPEG cut at 1 %": (JPEG[: len(JPEG) // 100], "cut off or damaged: Truncated File Read"),
    "JPEG cut at 10 %": (JPEG[: len(JPEG) // 10], "cut off or damaged: image file is truncated"),
    "JPEG cut at 50 %": (JPEG[: len(JPEG) // 2], "cut off or damaged: image file is truncated"),
    "JPEG cut at 99 %": (JPEG[: len(JPEG) * 99 // 100], "cut off or damaged: image file is truncated"),
    "PNG with a flipped byte": (flipped(PNG, PNG.index(b"IDAT") + 60), "cut off or damaged: broken data stream"),
    "PNG with a flipped length": (flipped(PNG, PNG.index(b"IDAT") - 2), "cut off or damaged: broken PNG file"),
    "PNG cut": (PNG[:-300], "cut off or damaged: image file is truncated"),
    "GIF cut": (encoded("GIF")[:-300], "cut off or damaged: image file is truncated"),
    "BMP cut": (encoded("BMP")[:-300], "cut off or damaged: image file is truncated"),
    "TIFF cut": (encoded("TIFF")[:-300], "cut off or damaged: "),
    "WEBP cut": (encoded("WEBP")[:-300], "cut off or damaged: "),
    "bomb": (bomb(), "implausibly large: (3600000000 pixels)"),
}


@pytest.mark.parametrize(("content", "expected"), BAD.values(), ids=BAD)
def test_a_bad_file_has_a_reason(content: bytes, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jpg", content)
    assert reason(path).startswith(expected)
    verdict = read(path, SIZE)
    assert isinstance(verdict, Rejected)
    assert verdict.bytes == len(content)


def test_a_vanished_file_has_a_reason(tmp_path: Path) -> None:
    assert reason(tmp_path / "gone.jpg") == "vanished while it was read"


def test_a_folder_has_a_reason(tmp_path: Path) -> None:
    assert reason(tmp_path) == "cannot be read: Is a directory"


def test_a_file_that_may_not_be_read_has_a_reason(public_path: Path) -> None:
    path = write(public_path / "secret.png", encoded("PNG"))
    path.chmod(0o600 if os.geteuid() == 0 else 0)
    with as_nobody():
        assert reason(path) == "no permission to read it"


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_an_extreme_shape_can_be_used(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (9, 8, 7)).save(tmp_path / "a.png")
    verdict = read(tmp_path / "a.png", SIZE)
    assert isinstance(verdict, Decoded)
    assert_array_equal(verdict.pixels, np.broadcast_to([9, 8, 7], (SIZE, SIZE, 3)))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_a_flipped_byte_ends_in_pixels_or_a_reason(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw, content, path = random.Random(kind), encoded(kind), tmp_path / "a.jpg"
    verdicts = []
    for i in range(40):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content) if i % 2 else min(len(content), 200))] ^= draw.randrange(1, 256)
        write(path, damaged)
        with within(5):
            verdict = read(path, SIZE)
        verdicts.append(type(verdict))
        if isinstance(verdict, Decoded):
            assert verdict.pixels.shape == (SIZE, SIZE, 3)
        else:
            assert len(verdict.reason) > 5
    assert set(verdicts) == {Decoded, Rejected}
    assert capfd.readouterr() == ("", "")


def test_each_odd_file_is_judged_rightly(shared_data: Path) -> None:
    verdicts = {path.name: read(path, SIZE) for path in find(shared_data / "odd")}
    reasons = {name: verdict.reason for name, verdict in verdicts.items() if isinstance(verdict, Rejected)}
    assert reasons == {
        "empty_00001229.jpg": "empty file",
        "lfs_pointer_POM00007429.jpg": "Git-LFS pointer, not the picture itself: run `git lfs pull`",
        "truncated_rare_domains_commoner_kaokore.png": "cut off or damaged: image file is truncated",
    }
    assert sorted(verdicts.keys() - reasons.keys()) == [
        "LA_Vol10_CésarBirotteau_IC.png",
        "L_grey_Vol10_CésarBirotteau.jpg",
        "P_palette_artic_24645.png",
        "RGBA_sharaku1.png",
        "animated_recording.gif",
        "huge_espinasse.jpg",
        "icc_gm_00848101.jpg",
        "narrow_Belated.jpg",
        "png_named_jpg_Figur2@A Gentleman of France.jpg",
        "quote_a' plum park in Kameido Utagawa Hiroshige.jpeg",
        "tiny_palette_transparent_fullscreen.png",
        "webp_grey_met-436965.webp",
    ]


SILENT = """
import sys
from pathlib import Path
from PIL import Image
from artart.data.files import find, read_all
Image.MAX_IMAGE_PIXELS = 1500  # Pillow warns above this and refuses twice of it
for verdict in read_all(find(Path(sys.argv[1])), 16):
    print(verdict.path.name, type(verdict).__name__)
"""


def test_nothing_is_said_of_large_pictures_and_odd_metadata(tmp_path: Path) -> None:
    """In a process of its own, because pytest changes how warnings are shown."""
    picture().save(tmp_path / "large.png")
    picture().save(tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12")
    picture(size=60).save(tmp_path / "too_large.png")
    command = [sys.executable, "-W", "always::UserWarning", "-W", "always::RuntimeWarning", "-c", SILENT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["large.png Decoded", "odd.jpg Decoded", "too_large.png Rejected"]
    assert done.stderr == ""


# --- read_all


def test_verdicts_come_in_the_order_of_the_files(art_folder: Path) -> None:
    paths = find(art_folder)
    paths.insert(3, write(art_folder / "bad.jpg", b""))
    for num_threads in (None, 1, 3):
        verdicts = list(read_all(paths, SIZE, num_threads))
        assert [verdict.path for verdict in verdicts] == paths
        assert [type(verdict) for verdict in verdicts] == [Rejected if i == 3 else Decoded for i in range(13)]


def test_no_files_give_no_verdicts() -> None:
    assert list(read_all([], SIZE)) == []


def slowly(calls: list[Path], ctrl_c_at: int | None = None) -> Callable[[Path, int], Rejected]:
    def read_slowly(path: Path, size: int) -> Rejected:
        calls.append(path)
        if len(calls) == ctrl_c_at:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
        return Rejected(path, "slow", 0)

    return read_slowly


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """What a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_waits_for_the_files_in_hand_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(files, "read", slowly(calls, ctrl_c_at=10))
    with within(5), pytest.raises(KeyboardInterrupt):
        for _ in read_all([Path(str(i)) for i in range(2000)], SIZE, num_threads=2):
            pass
    assert 10 <= len(calls) < 200


def test_whoever_stops_listening_stops_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    monkeypatch.setattr(files, "read", slowly(calls))
    verdicts = read_all([Path(str(i)) for i in range(2000)], SIZE, num_threads=2)
    with within(5):
        next(verdicts)
        verdicts.close()  # type: ignore[attr-defined]
    assert len(calls) < 200


# --- write_rejected


def test_the_table_of_rejected_files_survives_any_name(tmp_path: Path) -> None:
    names = [
        "plain.jpg",
        "a, b.jpg",
        'a "b".jpg',
        "a\nb.jpg",
        "a\r\nb.jpg",
        "Cé sar 北斎.jpg",
        os.fsdecode(b"caf\xe9.jpg"),
    ]
    rejected = [Rejected(tmp_path / name, 'cut off, or "damaged"', i) for i, name in enumerate(names)]
    table = tmp_path / "run" / "rejected.csv"
    write_rejected(rejected, table)
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert rows == [["path", "reason", "bytes"], *([str(p), why, str(num)] for p, why, num in rejected)]
    assert os.fsencode(rejected[-1].path) in table.read_bytes()


def test_the_table_is_there_when_nothing_was_rejected(tmp_path: Path) -> None:
    write_rejected([], tmp_path / "rejected.csv")
    assert (tmp_path / "rejected.csv").read_text() == "path,reason,bytes\n"
