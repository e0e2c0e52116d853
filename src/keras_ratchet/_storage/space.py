"""Is there room for one more checkpoint?"""

from __future__ import annotations

import errno
import os
import shutil


def free_bytes(directory: str) -> int | None:
    """Return the space that is left for us on a directory's file system, None if unknown.

    Mounts of object stores, FUSE and quotas say 0 though there is room, so 0 is unknown, too: the
    write is tried then, and on a disk that is full indeed it fails without harm.
    """
    try:
        return shutil.disk_usage(directory).free or None
    except OSError:
        return None


def told(directory: str) -> str:
    """Return what a file system says of its room, for the message of a write that has failed."""
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return ""
    return f"the file system says that {readable(usage.free)} of {readable(usage.total)} are free"


def require(directory: str, needed_bytes: int) -> None:
    """Raise an OSError (ENOSPC) if a file of this size cannot fit.

    It is raised before the first byte is written, so no draft fills up what is left.
    """
    free = free_bytes(directory)
    if free is not None and free < needed_bytes:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: {readable(needed_bytes)} are needed in {directory!r}, "
            f"but {readable(free)} are free",
        )


def warning(directory: str, needed_bytes: int) -> str | None:
    """Return a sentence if the next saves may not fit, else None.

    A save writes the new file before the old one goes, so twice the size is wanted.
    """
    free = free_bytes(directory)
    if free is None or free >= 2 * needed_bytes:
        return None
    return (
        f"{os.path.abspath(directory)!r} has {readable(free)} free, but one checkpoint takes "
        f"about {readable(needed_bytes)}, and a new one is written before an old one is "
        "deleted."
    )


def readable(size_bytes: float) -> str:
    """Return a size for people.

    Example:
        >>> readable(123), readable(40_960_000)
        ('123 B', '41.0 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
