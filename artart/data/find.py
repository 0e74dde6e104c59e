"""Finds the image files below a folder, names those of kinds that are not read, and counts everything else."""

import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from artart.data.decode import FORMATS, TooLarge, open_image
from artart.data.opt_out import SUFFIX, place_of

log = logging.getLogger(__name__)

CONVERT = "convert it to PNG"


class Kind(NamedTuple):
    """A kind of image file that is not read."""

    suffixes: str
    signature: bytes | None = None  # how its files begin, if these often have the suffix of another kind, or none
    remedy: str = CONVERT
    name: str = ""  # of Pillow, which reads it if it has the plugin


FORMAT_SUFFIXES = {
    suffix: "JPEG" if name == "MPO" else name  # MPO is a JPEG followed by further images; Pillow opens it as JPEG
    for suffix, name in Image.registered_extensions().items()
}
IMAGE_SUFFIXES = {suffix for suffix, name in FORMAT_SUFFIXES.items() if name in FORMATS}
RAW = "camera raw"  # holds a small JPEG or TIFF, which is not the image
INSTALL = "pip install 'artart[formats]'"
KINDS = {
    "HEIC": Kind(".heic .heics .heif .heifs .hif", rb"....ftyp(he|mif1|msf1)", INSTALL, "HEIF"),
    "JPEG XL": Kind(".jxl", rb"\xff\x0a|\0\0\0\x0cJXL ", INSTALL, "JXL"),
    "AVIF": Kind(".avif .avifs", rb"....ftypav", "pip install --upgrade pillow", "AVIF"),
    RAW: Kind(
        ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw"
        " .rw2 .rwl .sr2 .srf .srw .x3f",
        rb"....ftypcrx|FUJIFILMCCD-RAW|II\*\0\x10\0\0\0CR|FOVb",
        "develop it to TIFF or JPEG",
    ),
    "Photoshop": Kind(".psd .psb", rb"8BPS"),
    "vector or page": Kind(
        ".ai .cdr .djv .djvu .emf .eps .pdf .ps .svg .svgz .wmf",
        rb"%PDF-|%!PS|\xc5\xd0\xd3\xc6|AT&TFORM|\s*(<\?xml[^>]*>\s*)?<svg",
    ),
    "of a paint program": Kind(
        ".afphoto .clip .kra .mdp .ora .pdn .procreate .psp .pspimage .sai .sai2 .xcf",
        rb"gimp xcf|PK.{36}image/openraster|PK.{36}application/x-krita",
    ),
    "OpenEXR, Radiance or texture": Kind(".dds .exr .hdr .ktx .ktx2", rb"v/1\x01|#\?RADIANCE|DDS "),
    "icon": Kind(".cur .icns .ico"),
}
NO_IMAGES = {"BUFR", "GRIB", "HDF5", "MPEG"}  # which Pillow knows
OTHER_SUFFIXES = {suffix: name for suffix, name in FORMAT_SUFFIXES.items() if name not in NO_IMAGES} | {
    suffix: name for name, kind in KINDS.items() for suffix in kind.suffixes.split()
}
SIGNATURES = {
    name: re.compile(kind.signature, re.DOTALL)
    for name, kind in KINDS.items()
    if kind.signature and kind.name not in FORMATS
}
READ = "read"
# Folders and files of thumbnails, indexes and deleted files. Those with a dot at the front are passed over anyway.
FOREIGN = re.compile(
    r"@(eadir|tmp|recycle|recently-snapshot|__thumb|transcode|synoresource)|#(recycle|snapshot)|__macosx|lost\+found"
    r"|\$recycle\.bin|recycler|system volume information|network trash folder|temporary items|thumbs\.db"
    r"|ehthumbs(_vista)?\.db|desktop\.ini|icon\r|.*@syno(eastream|resource)|.*\.(lrdata|photoslibrary|cocatalog)",
    re.IGNORECASE,
)
OUTPUTS, OF_OUTPUTS = "outputs", {"runs", "registry.jsonl"}  # the folder that commands write into, and what it holds
HIDDEN, FOREIGN_NAME = "hidden", "of other programs"


class Found(NamedTuple):
    """What lies below a folder."""

    images: list[Path]  # by content or suffix, sorted
    others: dict[Path, str]  # image files that are not read: their kind, and what to do
    opt_outs: dict[Path, Path]  # files of the suffix .optout, which may be next to images, by `opt_out.place_of`
    ignored: Counter[str]  # number of all other files by suffix, of hidden ones, and of those of other programs


def find_all(root: Path) -> Found:
    """Sort the files below root by whether they are images, by content or suffix.

    Hidden files and folders, those that other programs keep (`FOREIGN`), and artart's folders of runs and of
    outputs are passed over. Links to folders are followed, each real folder once.
    """
    found = Found([], {}, {}, Counter())
    for path in _walk(root, found.ignored):
        kind = _kind(path)
        if kind == READ:
            found.images.append(path)
        elif kind:
            found.others[path] = kind
        elif path.suffix.lower() == SUFFIX:
            found.opt_outs[place_of(path)] = path
        else:
            found.ignored[path.suffix.lower() or "without a suffix"] += 1
    found.images.sort()
    return found


def _kind(path: Path) -> str | None:
    """READ, or which kind of image file it is that is not read, and what to do; None for a file that is no image."""
    suffix = path.suffix.lower()
    is_image = suffix in IMAGE_SUFFIXES
    try:
        status = path.stat()
    except OSError:
        is_link = os.path.islink(path)  # noqa: PTH114 - may raise an error
        return "link to nothing (restore its target or remove it)" if is_link else READ if is_image else None
    if not stat.S_ISREG(status.st_mode):
        return "device, pipe or socket (remove it)" if is_image else None
    if is_image:
        return READ
    name = OTHER_SUFFIXES.get(suffix)
    by_suffix = name and _described(name)
    return by_suffix if name == RAW or not status.st_size else _kind_by_content(path) or by_suffix


def _described(name: str) -> str:
    return f"{name} ({KINDS[name].remedy if name in KINDS else CONVERT})"


def _kind_by_content(path: Path) -> str | None:
    """The same by a file's content. TGA is left out: its header has no magic number."""
    try:
        with path.open("rb") as file:
            if kind := kind_of(file.read(64)):
                return kind
        with open_image(path, formats=tuple(name for name in FORMATS if name != "TGA")):
            return READ
    except (TooLarge, Image.DecompressionBombError):
        return READ
    except Exception:  # noqa: BLE001 - Pillow's decoders raise nearly anything on foreign bytes
        return None


def kind_of(head: bytes) -> str | None:
    """Of an image file that begins so: its kind, if that is not read, and what to do."""
    return next((_described(name) for name, signature in SIGNATURES.items() if signature.match(head)), None)


def _walk(root: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Every file below root, links to nothing too."""

    def warn(error: OSError) -> None:
        log.warning("%s: %s; this folder is ignored", error.filename, error.strerror)

    seen = set[str]()
    for folder, folders, files in os.walk(root, onerror=warn, followlinks=True):
        below, real = {*folders}, os.path.realpath(folder)
        names = {*files, *below}
        folders.clear()  # os.walk goes into those that are put back
        is_run = ".hydra" in names and {"train.log", "prepare.log"} & names
        is_outputs = Path(folder).name == OUTPUTS and OF_OUTPUTS & names
        if ((is_run or is_outputs) and folder != str(root)) or real in seen:
            continue
        seen.add(real)
        for name in sorted(names):
            if name.startswith("."):
                ignored[HIDDEN] += 1
            elif FOREIGN.fullmatch(name):
                ignored[FOREIGN_NAME] += 1
            elif name in below:
                folders.append(name)
            else:
                yield Path(folder, name)
