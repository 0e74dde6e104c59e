"""Atomic writes, and names that no other process takes.

Functions that write raise OSError if they cannot.
"""

import csv
import hashlib
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO
from uuid import uuid4

from artart import ArtError
from artart.io.terminal import relative_to_cwd

MAX_NAME = 255  # bytes of a file name
KEPT = 8  # characters at the end of a stem that is shortened

log = logging.getLogger(__name__)

_warned = set[Path]()  # folders of texts in Windows-1252: captions may be thousands of files


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` once it is complete and on the disk; on an error it is removed."""
    with _part(path) as (part, file):
        yield file
        _close(file)
        patiently(lambda: part.replace(path))


def patiently(call: Callable[[], object]) -> None:
    """Rename or remove a file: on Windows again and again for 6 s, while another program has that file open."""
    for pause in (0.1, 0.2, 0.4, 0.8, 1.5, 3) if sys.platform == "win32" else ():
        with suppress(PermissionError):
            call()
            return
        time.sleep(pause)
    call()


def create(path: Path, content: bytes) -> bool:
    """Write a file unless the name is taken, even if another process takes it meanwhile; False if it is."""
    return _write(path, content, [path]) is not None


def write_new(path: Path, content: bytes) -> Path:
    """Write a file under the first name of `numbered` that is free, and return that name.

    Processes that write at the same time get different names.
    """
    place = _write(path, content, numbered(path))
    assert place is not None
    return place


def _write(path: Path, content: bytes, places: Iterable[Path]) -> Path | None:
    with _part(path) as (part, file):
        file.write(content)
        _close(file)
        return next((place for place in places if _take(part, place)), None)


def new_folder(path: Path) -> Path:
    """Make a folder under the first name of `numbered` that is free, and return it; no other process gets the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for place in numbered(path):
        with suppress(FileExistsError):
            place.mkdir()
            break
    return place


def numbered(path: Path) -> Iterator[Path]:
    """Yield the path, then the path with -2, -3 ... before its suffix.

    A name that is too long for a file system is shortened within its stem. The end of the stem is kept: it
    distinguishes the images of one input.
    """
    for number in count(1):
        stem, ending = path.stem, (f"-{number}" if number > 1 else "") + path.suffix
        while len(os.fsencode(stem + ending)) > MAX_NAME:
            stem = stem[: -KEPT - 1] + stem[-KEPT:]  # by whole characters
        yield path.with_name(stem + ending)


@contextmanager
def _part(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Name and file of a new temporary file beside `path`; it is removed unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp, which ignores the umask. The name may have the maximum length, so only its start is used.
    part = path.with_name(f".{path.name[:40]}.{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            yield part, file
    except OSError as error:
        if str(error.filename or part) == str(part):  # a failed write names none
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def _close(file: BinaryIO) -> None:
    """Put the content on the disk before the file gets its name."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _take(part: Path, place: Path) -> bool:
    """Rename a temporary file to a free name; False if it is taken."""
    try:
        os.link(part, place)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            place.touch(exist_ok=False)  # reserves the name: for a moment the file is empty
        except FileExistsError:
            return False
        part.replace(place)
    return True


def write_json(path: Path, content: object) -> None:
    """Write indented JSON, atomically."""
    with atomic(path) as file:
        file.write(as_json(content))


def as_json(content: object) -> bytes:
    """Plain data as indented JSON."""
    return (json.dumps(content, indent=2) + "\n").encode()


def as_csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """A table; any file name in it can be read back with errors="surrogateescape"."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def sha256(path: Path) -> str:
    """The hexadecimal hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_writable(folder: Path) -> bool:
    """Whether files can be written into a folder, or a folder of that name can be made. Nothing is left in it."""
    try:
        for path in (folder, *folder.parents):
            with suppress(FileNotFoundError):
                path.lstat()
                break
        if sys.platform != "win32":
            with TemporaryFile(dir=path, prefix="."):  # without a name, where the system can do that
                return True
        probe = path / f".{uuid4().hex}.part"  # tempfile would try other names where one is refused, for hours
        probe.touch(exist_ok=False)
        patiently(probe.unlink)
        return True
    except OSError:
        return False


def dated(kind: str) -> Path:
    """The folder of what a command writes now, if none is named."""
    return Path("outputs", kind, f"{datetime.now():%Y-%m-%d/%H-%M-%S}")


@contextmanager
def output_folder(out: str | None, kind: str) -> Iterator[Path]:
    """The folder `out`; if that is None, a new one `dated(kind)`, which is removed at the end if it is empty.

    Raises ArtError if `out` is a file or cannot be written.
    """
    folder = dated(kind) if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise ArtError(f"out={folder}: is a file; name a folder")
    if not is_writable(folder):
        raise ArtError(f"out={folder}: cannot be written; name another folder")
    if out is not None:
        yield folder
        return
    missing = [path for path in folder.parents if not path.exists()]
    folder = new_folder(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):  # up to one that is not empty
            for path in (folder, *missing):
                path.rmdir()


def read_text(file: Path) -> str:
    """The content of a text file in UTF-8, UTF-16 with its mark, or else Windows-1252, of which a warning tells.

    Raises ArtError with the line that is none of these.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ArtError(f"{relative_to_cwd(file)}: {error.strerror}; name a file that can be read") from None
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        try:
            text = content.decode("cp1252") if encoding != "utf-16" else "\0"
        except UnicodeDecodeError:
            text = "\0"
        if any(sign < " " and not sign.isspace() for sign in text):
            raise ArtError(f"{relative_to_cwd(file)}: line {line} is not valid UTF-8; save the file as UTF-8") from None
        if file.parent not in _warned:
            _warned.add(file.parent)
            log.warning("%s: read as Windows-1252; if names look wrong, save it as UTF-8", relative_to_cwd(file))
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ArtError(f"{relative_to_cwd(file)}: line {line} holds NUL bytes, so it is no UTF-8; save it as UTF-8")
    return text
