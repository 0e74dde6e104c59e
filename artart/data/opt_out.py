"""Images whose makers do not want them in training: by a file beside them, or by a list."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from artart.io.files import read_text
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)

REASON = "opted out of data mining"  # begins the reason of every opt-out
SUFFIX = ".optout"


class OptOuts(NamedTuple):
    """A list of opt-outs: each line is the path of an image or a folder, an artist, or the SHA-256 of a file."""

    file: Path
    lines: frozenset[str]  # as `folded`

    def warn_of_unused(self, names: Iterable[set[str]]) -> None:
        """Log how many lines are none of the names of any image."""
        if left := self.lines.difference(*names):
            named = f"{len(left)} of {len(self.lines)} lines name no image, artist or SHA-256 here, such as"
            log.warning("data.opt_out=%s: %s %r", relative_to_cwd(self.file), named, min(left))


def folded(text: str) -> str:
    """A name without upper case, and with accents as single characters: macOS separates them in names of files."""
    return normalize("NFC", text).casefold()


def names_of(path: str, artist: str, sha256: str) -> set[str]:
    """What a line may say to name an image, as `folded`: its path or a folder of it, its artist, or its SHA-256."""
    parts = folded(path).split("/")
    folders = {"/".join(parts[:k]) for k in range(1, len(parts) + 1)}
    return {*folders, folded(artist), sha256} - {""}


def read_list(file: Path) -> OptOuts:
    """Read a list, without empty lines and those that begin with #. Raises ArtError if it cannot be read."""
    lines = map(str.strip, read_text(file).splitlines())
    texts = (line.replace("\\", "/").removeprefix("./").rstrip("/") for line in lines if not line.startswith("#"))
    return OptOuts(file, frozenset(folded(text) for text in texts if text))


def place_of(file: Path) -> Path:
    """The path of a file of the suffix .optout with its name as `folded`."""
    return file.with_name(folded(file.name))


def file_beside(path: Path, files: Mapping[Path, Path]) -> str:
    """The name of NAME.optout or NAME.jpg.optout of an image NAME.jpg, if it is among the files by place; else ""."""
    return next((files[place].name for place in _places(path) if place in files), "")


def warn_of_unused_files(files: Mapping[Path, Path], images: Iterable[Path]) -> None:
    """Log how many files by place are beside no image of their name."""
    if files and (left := files.keys() - {place for path in images for place in _places(path)}):
        example = relative_to_cwd(files[min(left)])
        log.warning("%d files %s are beside no image of their name, such as %s", len(left), f"*{SUFFIX}", example)


def _places(path: Path) -> list[Path]:
    return [place_of(path.with_name(f"{name}{SUFFIX}")) for name in (path.stem, path.name)]
