"""Images whose makers do not want them in training: by a file beside them, or by a list."""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from artart.io.files import read_text
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)

REASON = "opted out of data mining"  # begins the reason of every opt-out
SUFFIX = ".optout"


class Image(NamedTuple):
    """What a line of a list may name."""

    path: str  # below the folder, with slashes
    artist: str
    sha256: str  # of its file

    @property
    def names(self) -> set[str]:
        """In lower case; those of the folders that it lies in too."""
        parts = self.path.casefold().split("/")
        folders = {"/".join(parts[:k]) for k in range(1, len(parts) + 1)}
        return {*folders, self.artist.casefold(), self.sha256} - {""}


class OptOuts(NamedTuple):
    """A list of opt-outs: each line is the path of an image or a folder, an artist, or the SHA-256 of a file."""

    file: Path
    lines: frozenset[str]  # in lower case

    def has(self, image: Image) -> bool:
        return not self.lines.isdisjoint(image.names)

    def warn_of_unused(self, images: Iterable[Image]) -> None:
        """Log how many lines name none of the images."""
        left = set(self.lines)
        for image in images:
            left -= image.names
        if left:
            named = f"{len(left)} of {len(self.lines)} lines name no image, artist or SHA-256 here, such as"
            log.warning("data.opt_out=%s: %s %r", relative_to_cwd(self.file), named, min(left))


def read_list(file: Path) -> OptOuts:
    """Read a list, without empty lines and those that begin with #.

    Raises ArtError if it cannot be read.
    """
    lines = map(str.strip, read_text(file).splitlines())
    texts = (line.replace("\\", "/").removeprefix("./").rstrip("/") for line in lines if not line.startswith("#"))
    return OptOuts(file, frozenset(text.casefold() for text in texts if text))


def file_beside(path: Path, files: Collection[Path]) -> str:
    """The name of NAME.optout or NAME.jpg.optout, if it is among the files, of an image NAME.jpg; else ""."""
    if not files:
        return ""
    names = path.with_suffix(SUFFIX), path.with_name(f"{path.name}{SUFFIX}")
    return next((name.name for name in names if name in files), "")
