"""The cache of a folder of images: a folder that one process at a time writes."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL
from filelock import FileLock, Timeout
from rich.filesize import decimal

from artart import ArtError
from artart.data import store
from artart.data.decode import FORMATS
from artart.io.locks import unless_missing
from artart.io.terminal import relative_to_cwd

log = logging.getLogger(__name__)

MADE_BY = f"artart 7, Pillow {PIL.__version__}, {' '.join(FORMATS)}"  # another number for other facts, pixels, groups


@contextmanager
def locked(cache: Path, root: Path) -> Iterator[None]:
    """Keep other processes from writing the cache of the images in root; with a warning if files cannot be locked.

    Raises ArtError if the cache cannot be written.
    """
    lock = FileLock(cache / "lock", fallback_to_soft=False)  # a soft lock outlives a process that is killed
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with unless_missing(cache):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                log.info("another process is reading %s; waiting for it", relative_to_cwd(root))
                lock.acquire()
    except OSError as error:
        raise ArtError(
            f"data.cache_dir: {error.filename or cache}: {error.strerror}; name a folder that can be written: "
            "data.cache_dir=DIR"
        ) from None
    try:
        yield
    finally:
        lock.release()


def clear_if_made_by_another_version(cache: Path) -> None:
    """Another decoder might give other pixels and other reasons."""
    note = cache / "made_by"
    if not note.is_file() or note.read_bytes() != MADE_BY.encode():
        store.clean(cache, "*", keep=cache / "lock")
        note.write_bytes(MADE_BY.encode())


def check_disk_space(cache: Path, what: str, num_images: int, num_bytes: int) -> None:
    """Log how much the pixels or latents of images take in the cache. Raises ArtError if the disk has too little."""
    free = shutil.disk_usage(cache).free
    log.info("the %s of %d images take at most %s in %s", what, num_images, decimal(num_bytes), relative_to_cwd(cache))
    if num_bytes > free:
        raise ArtError(
            f"data.cache_dir: the {what} of {num_images} images need {decimal(num_bytes)} and {cache} "
            f"has {decimal(free)} left; free some space, set data.cache_dir=DIR, or lower image_size"
        )
