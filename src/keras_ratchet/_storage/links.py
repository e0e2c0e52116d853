"""A second name of a file, in the place of a second copy of its bytes."""

from __future__ import annotations

import errno

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


def copy_into(source: str, file: HashingFile) -> None:
    """Write the bytes of a file into another one."""
    with open(source, "rb", buffering=0) as original:
        while data := original.read(_CHUNK_BYTES):
            file.write(data)
