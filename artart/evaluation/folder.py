"""The folder that an evaluation writes into, for one process at a time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from artart import ArtError
from artart.io.files import remove_empty

log = logging.getLogger(__name__)

LOCK = ".evaluate.lock"


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Make a folder, if it is missing, and keep other evaluations out; if nothing is written, it is removed again.

    Raises:
        ArtError: if another process is evaluating there.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ArtError(f"out={folder}: another process is evaluating there; name another folder") from None
    except (OSError, NotImplementedError) as error:  # a file system without locks; files are not replaced there either
        log.debug("%s: not locked: %s", folder, error)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows does not remove what is open, but filelock does there
            (folder / LOCK).unlink()
        lock.release()
        remove_empty(missing)


def check_folder(folder: Path, root: str | None) -> None:
    """Raises ArtError if a folder holds an evaluation, or is that of the images."""
    if (folder / "metrics.json").exists():
        raise ArtError(f"out={folder}: holds metrics.json already; name another folder")
    if root is not None and folder.resolve() == Path(root).resolve():
        raise ArtError(f"out={folder}: is the folder of your images, which is only read; name another")
