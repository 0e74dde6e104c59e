"""Locks of files, where the file system has them."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def unless_missing(folder: Path) -> Iterator[None]:
    """Acquire a lock in a folder within this; a warning takes the place of one that the file system does not have."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s: no locks here (%s); let no other process write there meanwhile", folder, error.strerror)
