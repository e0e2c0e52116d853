"""A second name of a file, in the place of a second copy of its bytes."""

from __future__ import annotations

import errno
import io
import os

from keras_ratchet._storage import disk
from keras_ratchet._storage.atomic import HashingFile

_NO_LINKS = (
    errno.EPERM,
    errno.EACCES,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EINVAL,
    errno.EMLINK,
    errno.EXDEV,
)
_CHUNK_BYTES = 1 << 20


def link(source: str, target: str) -> bool:
    """Give a file a second name, not synced; return False where there are no hard links.

    Args:
        source: The file.
        target: Its new name.

    Raises:
        OSError: If the disk refuses for another reason.
    """
    try:
        disk.current.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def link_to(opened: io.FileIO, source: str, target: str) -> bool:
    """Do what `link` does; return False as well if `source` is not the file that is open (now)."""
    try:
        if not link(source, target):
            return False
    except FileNotFoundError:
        return False
    if os.path.samestat(os.stat(target), os.fstat(opened.fileno())):
        return True
    disk.current.unlink(target)
    return False


def copy_into(source: str, file: HashingFile) -> None:
    """Write the bytes of a file into another one."""
    with open(source, "rb", buffering=0) as original:
        copy_opened(original, file)


def copy_opened(original: io.FileIO, file: HashingFile) -> None:
    """Write the bytes of a file that is open into another one."""
    original.seek(0)
    while data := original.read(_CHUNK_BYTES):
        file.write(data)
