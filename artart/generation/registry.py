"""A registry of generated images, by which they and near copies of them are found again.

It is a file of JSON lines to which processes append one after the other.
"""

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from filelock import FileLock
from PIL import Image

from artart import ArtError
from artart.data.decode import decode
from artart.data.perceptual_hash import LENGTH, digits_of, distances, perceptual_hash
from artart.io.files import is_writable
from artart.io.locks import unless_missing
from artart.io.provenance import ImageProvenance

log = logging.getLogger(__name__)

SIDE: Final = 128  # pixels at which an image is padded
CROPS: Final = tuple(product((0, 0.025, 0.05), repeat=4))  # top, bottom, left, right that a copy may lack
MAX_DISTANCE: Final = 220  # squared, of the hashes of near copies; measured in docs/results/fingerprints.md
BLOCK: Final = 65536  # images compared at once
FINGERPRINT: Final = re.compile(f"([0-9a-f]{{{LENGTH}}})?")  # or none, of an animation


class Registry:
    """Appends the images of a command."""

    def __init__(self, path: Path) -> None:
        """Raises ArtError if the file cannot be written."""
        if path.is_dir() or not is_writable(path.parent) or not (os.access(path, os.W_OK) or not path.exists()):
            raise ArtError(f"registry={path}: cannot be written; name another file, or set registry=null")
        self.path = path

    def add(self, path: Path, content: bytes, provenance: ImageProvenance) -> None:
        """Append a line for an image file that will be written. Raises OSError if that cannot be done."""
        line = {
            "sha256": sha256(content).hexdigest(),
            "fingerprint": fingerprint(content),
            "file": str(path),
            "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "source": provenance.source,
            "details": {
                name: value if isinstance(value, str | int | float | None) else str(value)
                for name, value in provenance.details.items()
            },
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), fallback_to_soft=False)
        try:
            with unless_missing(self.path.parent):
                lock.acquire()
            _append(self.path, json.dumps(line).encode())
        finally:
            lock.release()


def _append(path: Path, line: bytes) -> None:
    """Add a line in one write. A line that a killed process left unfinished is ended before it."""
    with path.open("ab+", buffering=0) as file:
        if size := file.seek(0, os.SEEK_END):
            file.seek(size - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line + b"\n")


def fingerprint(content: bytes) -> str:
    """The perceptual hash of an image file; "" for an animation."""
    with Image.open(io.BytesIO(content)) as image:
        if getattr(image, "is_animated", False):
            return ""
    return perceptual_hash(decode(io.BytesIO(content)))


def entries_of(path: str | None) -> "Entries | None":
    """The content of a registry; None if there is none. Raises ArtError if it cannot be read."""
    try:
        return Entries(Path(path)) if path else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtError(f"registry={path}: {error.strerror}; name another file, or set registry=null") from None


class Match(NamedTuple):
    """A line of a registry that an image agrees with."""

    is_same: bool  # byte by byte; else it is a near copy
    distance: float  # of a near copy: squared, of the hashes
    entry: dict[str, Any]


class Entries:
    """The content of a registry."""

    def __init__(self, path: Path) -> None:
        """Read it; lines that are damaged are left out, with a warning. Raises OSError if it cannot be read."""
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        self.entries = [entry for entry in map(_parsed, lines) if entry]
        if damaged := len(lines) - len(self.entries):
            log.warning("%s: %d of %d lines are damaged and left out", path, damaged, len(lines))
        self.by_hash = {entry["sha256"]: entry for entry in self.entries}
        self.hashed = [entry for entry in self.entries if entry["fingerprint"]]
        self.digits = digits_of([entry["fingerprint"] for entry in self.hashed])

    def find(self, content: bytes) -> Match | None:
        """The image of a file, or else the most similar one that it is a near copy of.

        Found are copies in another format, JPEGs, scaled from 0.5 to 2, mirrored, and cropped by up to 5 % a side
        (docs/results/fingerprints.md has the rates).
        """
        if entry := self.by_hash.get(sha256(content).hexdigest()):
            return Match(True, 0, entry)
        if not self.hashed or fingerprint(content) == "":
            return None
        wanted = digits_of([*_uncropped(decode(io.BytesIO(content)))])
        blocks = range(0, len(self.hashed), BLOCK)
        nearest = np.concatenate([distances(wanted, self.digits[k : k + BLOCK]).min(axis=0) for k in blocks])
        k = int(nearest.argmin())
        return Match(False, float(nearest[k]), self.hashed[k]) if nearest[k] <= MAX_DISTANCE else None


def _parsed(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        match json.loads(line):
            case {"sha256": str(), "fingerprint": found, "file": _, "details": _} as entry:
                return entry if FINGERPRINT.fullmatch(str(found)) else None
    return None


def _uncropped(image: Image.Image) -> Iterator[str]:
    """The hashes of an image as it is, and with sides repeated where a copy may lack a part of the original."""
    pixels = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2))
    for top, bottom, left, right in CROPS:
        height, width = SIDE / (1 - top - bottom), SIDE / (1 - left - right)  # of the whole, of which SIDE is left
        sides = (round(height * top), round(height * bottom)), (round(width * left), round(width * right))
        yield perceptual_hash(Image.fromarray(np.pad(pixels, sides, mode="edge")))
