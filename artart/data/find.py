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
from artart.data.opt_out import SUFFIX

log = logging.getLogger(__name__)

FORMAT_SUFFIXES = {
    suffix: "JPEG" if name == "MPO" else name  # MPO is a JPEG followed by further images; Pillow opens it as JPEG
    for suffix, name in Image.registered_extensions().items()
}
IMAGE_SUFFIXES = {suffix for suffix, name in FORMAT_SUFFIXES.items() if name in FORMATS}
RAW = "camera raw"  # holds a small JPEG or TIFF, which is not the image
_OTHER_SUFFIXES = {
    "HEIC": ".heic .heics .heif .heifs .hif",
    "JPEG XL": ".jxl",
    "AVIF": ".avif .avifs",
    RAW: ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw"
    " .rw2 .rwl .sr2 .srf .srw .x3f",
    "Photoshop": ".psd .psb",
    "vector or page": ".ai .cdr .djv .djvu .emf .eps .pdf .ps .svg .svgz .wmf",
    "of a paint program": ".afphoto .clip .kra .mdp .ora .pdn .procreate .psp .pspimage .sai .sai2 .xcf",
    "OpenEXR, Radiance or texture": ".dds .exr .hdr .ktx .ktx2",
    "icon": ".cur .icns .ico",
}
NO_IMAGES = {"BUFR", "GRIB", "HDF5", "MPEG"}  # which Pillow knows
OTHER_SUFFIXES = {suffix: name for suffix, name in FORMAT_SUFFIXES.items() if name not in NO_IMAGES} | {
    suffix: kind for kind, suffixes in _OTHER_SUFFIXES.items() for suffix in suffixes.split()
}
_SIGNATURES = {  # of the kinds that often have the suffix of another, or none
    "HEIC": rb"....ftyp(he|mif1|msf1)",
    "AVIF": rb"....ftypav",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    RAW: rb"....ftypcrx|FUJIFILMCCD-RAW|II\*\0\x10\0\0\0CR|FOVb",
    "Photoshop": rb"8BPS",
    "vector or page": rb"%PDF-|%!PS|\xc5\xd0\xd3\xc6|AT&TFORM|\s*(<\?xml[^>]*>\s*)?<svg",
    "of a paint program": rb"gimp xcf|PK.{36}image/openraster|PK.{36}application/x-krita",
    "OpenEXR, Radiance or texture": rb"v/1\x01|#\?RADIANCE|DDS ",
}
_READ_AS = {"HEIC": "HEIF", "JPEG XL": "JXL", "AVIF": "AVIF"}  # by Pillow, where it has the plugin
SIGNATURES = {
    kind: re.compile(signature, re.DOTALL)
    for kind, signature in _SIGNATURES.items()
    if _READ_AS.get(kind) not in FORMATS
}
REMEDIES = {
    "HEIC": "pip install 'artart[formats]'",
    "JPEG XL": "pip install 'artart[formats]'",
    "AVIF": "pip install --upgrade pillow",
    "link to nothing": "restore its target or remove it",
    "device, pipe or socket": "remove it",
    RAW: "develop it to TIFF or JPEG",
}
READ, BROKEN_LINK, NO_FILE = "read", "link to nothing", "device, pipe or socket"
# Folders and files of thumbnails, indexes and deleted files. Those with a dot at the front are passed over anyway.
FOREIGN = re.compile(
    r"@(eadir|tmp|recycle|recently-snapshot|__thumb|transcode|synoresource)|#(recycle|snapshot)|__macosx|lost\+found"
    r"|\$recycle\.bin|recycler|system volume information|network trash folder|temporary items|thumbs\.db"
    r"|ehthumbs(_vista)?\.db|desktop\.ini|icon\r|.*@syno(eastream|resource)|.*\.(lrdata|photoslibrary|cocatalog)",
    re.IGNORECASE,
)
HIDDEN, FOREIGN_NAME = "hidden", "of other programs"


class Found(NamedTuple):
    """What lies below a folder."""

    images: list[Path]  # by content or suffix, sorted
    others: dict[Path, str]  # image files that are not read: their kind, and what to do
    opt_outs: set[Path]  # files of the suffix .optout, which may be next to images
    ignored: Counter[str]  # number of all other files by suffix, of hidden ones, and of those of other programs


def find_all(root: Path) -> Found:
    """Sort the files below root by whether they are images, by content or suffix.

    Hidden files and folders, those that other programs keep (`FOREIGN`) and the folders of artart's runs are passed
    over. Links to folders are followed, each real folder once.
    """
    found = Found([], {}, set(), Counter())
    for path in _walk(root, found.ignored):
        kind = _kind(path)
        if kind == READ:
            found.images.append(path)
        elif kind:
            found.others[path] = describe(kind)
        elif path.suffix == SUFFIX:
            found.opt_outs.add(path)
        else:
            found.ignored[path.suffix.lower() or "without a suffix"] += 1
    found.images.sort()
    return found


def describe(kind: str) -> str:
    """A kind of image file that is not read, and what to do."""
    return f"{kind} ({REMEDIES.get(kind, 'convert it to PNG')})"


def _kind(path: Path) -> str | None:
    """READ, or the kind of an image file that is not read; None for a file that is no image."""
    suffix = path.suffix.lower()
    is_image = suffix in IMAGE_SUFFIXES
    try:
        status = path.stat()
    except OSError:
        return BROKEN_LINK if os.path.islink(path) else READ if is_image else None  # noqa: PTH114 - may raise an error
    if not stat.S_ISREG(status.st_mode):
        return NO_FILE if is_image else None
    if is_image:
        return READ
    kind = OTHER_SUFFIXES.get(suffix)
    return kind if kind == RAW or not status.st_size else _kind_by_content(path) or kind


def _kind_by_content(path: Path) -> str | None:
    """The same by a file's first bytes. TGA is left out: its header has no magic number."""
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
    """The kind that is not read of an image file that begins so."""
    return next((kind for kind, signature in SIGNATURES.items() if signature.match(head)), None)


def _walk(root: Path, ignored: Counter[str]) -> Iterator[Path]:
    """Every file below root, links to nothing too. Not os.walk, which before Python 3.12 fails at 1,000 levels."""
    folders, seen = [(str(root), os.path.realpath(root))], set()
    while folders:
        folder, real = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)  # the last is popped first
        except OSError as error:
            log.warning("%s: %s; this folder is ignored", error.filename, error.strerror)
            continue
        names = {entry.name for entry in entries}
        is_run = ".hydra" in names and {"train.log", "prepare.log"} & names and folder != str(root)
        if is_run or real in seen:
            continue
        seen.add(real)
        for entry in entries:
            if entry.name.startswith("."):
                ignored[HIDDEN] += 1
            elif FOREIGN.fullmatch(entry.name):
                ignored[FOREIGN_NAME] += 1
            elif _is_folder(entry):
                own = os.path.realpath(entry.path) if entry.is_symlink() else f"{real}{os.sep}{entry.name}"
                folders.append((entry.path, own))
            else:
                yield Path(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or one that may not be followed
        return False
