import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from artart.data import demo
from artart.data.find import FOREIGN_NAME, HIDDEN, find_all
from artart.data.scan import examine

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
OTHERS = {  # name: content, kind
    "phone.HEIC": (HEIC, "HEIC"),
    "phone.hif": (b"", "HEIC"),
    "phone": (HEIC, "HEIC"),
    "a.jxl": (b"\xff\x0a" + bytes(9), "JPEG XL"),
    "boxed.bin": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "a.psd": (b"8BPS\0\1" + bytes(30), "Photoshop"),
    "large.psb": (b"8BPS\0\2" + bytes(30), "Photoshop"),
    "draft.xcf": (b"gimp xcf v011", "of a paint program"),
    "draft.kra": (b"PK\3\4", "of a paint program"),
    "shot.NEF": (b"MM\0*" + bytes(99), "camera raw"),
    "shot.dng": (b"II*\0" + bytes(99), "camera raw"),
    "shot.cr3": (b"\0\0\0\x18ftypcrx ", "camera raw"),
    "logo.svg": (b"<?xml version='1.0'?>\n<svg/>", "vector or page"),
    "logo": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "vector or page"),
    "scan.pdf": (b"%PDF-1.4", "vector or page"),
    "old.eps": (b"%!PS-Adobe", "vector or page"),
    "light.exr": (b"v/1\1", "OpenEXR, Radiance or texture"),
    "favicon.ico": (b"\0\0\1\0", "icon"),
    "old.pcx": (b"\x0a\5\1\1", "PCX"),
    "star.fits": (b"SIMPLE  =", "FITS"),
}


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(demo.paint("painting", seed, 32)).save(path)


@pytest.mark.parametrize("name", OTHERS)
def test_find_names_image_files_of_other_kinds(name: str, tmp_path: Path) -> None:
    content, kind = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    found = find_all(tmp_path)
    assert found.images == []
    assert found.others[tmp_path / name].startswith(f"{kind} (")
    assert not found.ignored


def test_find_counts_everything(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for name in ("photo", "named_wrongly.psd"):  # by content
        shutil.copy(tmp_path / "a.png", tmp_path / name)
    for name in ("a.txt", "b.txt", "table.csv", "README", ".hidden.png", "art.zip"):
        (tmp_path / name).write_bytes(b"text")
    found = find_all(tmp_path)
    assert [path.name for path in found.images] == ["a.png", "named_wrongly.psd", "photo"]
    assert found.ignored == {".txt": 2, ".csv": 1, "without a suffix": 1, HIDDEN: 1, ".zip": 1}
    assert found.others == {}


def test_find_names_links_to_nothing_and_devices(tmp_path: Path) -> None:
    for name, target in {"gone.png": "nowhere", "gone": "nowhere", "circle.png": "circle.png"}.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jpg")
    kinds = {path.name: kind.split(" (")[0] for path, kind in find_all(tmp_path).others.items()}
    link, device = "link to nothing", "device, pipe or socket"
    assert kinds == {"gone.png": link, "gone": link, "circle.png": link, "zero.png": device, "pipe.jpg": device}


FOREIGN = ("@eaDir", "@Recycle", "#recycle", "__MACOSX", "lost+found", "$RECYCLE.BIN", "My.photoslibrary", "C.lrdata")


@pytest.mark.parametrize("name", [*FOREIGN, ".thumbnails", ".AppleDouble", ".@__thumb", ".Trash-1000"])
def test_find_passes_over_what_other_programs_keep(name: str, tmp_path: Path) -> None:
    save(tmp_path / "art" / "a.png")
    save(tmp_path / "art" / name / "a.png" / "SYNOPHOTO_THUMB_M.jpg")
    save(tmp_path / name / "b.jpg")
    (tmp_path / "Thumbs.db").write_bytes(b"db")
    save(tmp_path / "._a.png")
    found = find_all(tmp_path)
    assert found.images == [tmp_path / "art" / "a.png"]
    assert found.ignored[FOREIGN_NAME] + found.ignored[HIDDEN] == 4
    assert find_all(tmp_path / name).images  # which was asked for


@pytest.mark.parametrize("sign", ["runs/2026-01-31/12-00-00/samples/a.png", "registry.jsonl"])
def test_find_passes_over_the_outputs_of_commands_that_ran_in_the_folder(sign: str, tmp_path: Path) -> None:
    save(tmp_path / "art" / "a.png")
    save(tmp_path / "outputs" / "samples" / "2026-01-31" / "12-00-00" / "00000_art.png")
    assert len(find_all(tmp_path).images) == 2  # a folder of the user's, as far as anyone can tell
    (tmp_path / "outputs" / sign).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "outputs" / sign).touch()
    assert find_all(tmp_path).images == [tmp_path / "art" / "a.png"]
    assert find_all(tmp_path / "outputs").images  # which was asked for


def test_examine_says_which_kind_has_the_suffix_of_another(tmp_path: Path) -> None:
    (tmp_path / "phone.jpg").write_bytes(HEIC)
    assert find_all(tmp_path).images == [tmp_path / "phone.jpg"]
    assert examine(tmp_path / "phone.jpg", 16).facts.flaw == "HEIC (pip install 'artart[formats]')"


PLUGIN = """
from PIL import BmpImagePlugin, Image
class File(BmpImagePlugin.BmpImageFile):
    format = {name!r}
    def _open(self):
        self.fp.seek(12)
        super()._open()
Image.register_open({name!r}, File, lambda head: {magic!r} in head[:12])
Image.register_extension({name!r}, {suffix!r})
"""
READ = """
import sys
from pathlib import Path
from artart.data.find import find_all
from artart.data.scan import examine
for path in find_all(Path(sys.argv[1])).images:
    one = examine(path, 16)
    print(path.name, one.facts.format, one.facts.flaw or one.pixels.shape)
"""


def test_plugins_for_heic_and_jpeg_xl_are_used_if_installed(tmp_path: Path) -> None:
    """Stand-ins: a BMP behind the other format's first bytes."""
    (tmp_path / "plugins" / "pillow_heif").mkdir(parents=True)
    plugins = {"pillow_heif/HeifImagePlugin": ("HEIF", b"ftypheic", ".heic"), "pillow_jxl": ("JXL", b"JXL ", ".jxl")}
    for file, (name, magic, suffix) in plugins.items():
        text = PLUGIN.format(name=name, magic=magic, suffix=suffix)
        (tmp_path / "plugins" / f"{file}.py").write_text(text)
    (tmp_path / "plugins" / "pillow_heif" / "__init__.py").touch()
    (tmp_path / "art").mkdir()
    save(tmp_path / "a.bmp")
    bmp = (tmp_path / "a.bmp").read_bytes()
    for name, head in {"a.heic": HEIC[:12], "b.jpg": HEIC[:12], "c.jxl": b"\0\0\0\x0cJXL \r\n\x87\n"}.items():
        (tmp_path / "art" / name).write_bytes(head + bmp)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "plugins"), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "art")], env=environment, capture_output=True, text=True, check=True
    )
    read = [f"{name} (16, 16, 3)" for name in ("a.heic HEIF", "b.jpg HEIF", "c.jxl JXL")]
    assert done.stdout.splitlines() == read
