"""Disk space: how much is free, and whether a checkpoint fits."""

from __future__ import annotations

import errno
import os
import shutil


def free_bytes(directory: str) -> int | None:
    """Return the free space of a directory's file system, or None if it is unknown.

    Mounted object stores, FUSE and quotas may report 0 although there is space, so 0 counts as
    unknown: the write is tried, and if the disk is full it fails without harm.
    """
    try:
        return shutil.disk_usage(directory).free or None
    except OSError:
        return None


def describe(directory: str) -> str:
    """Return a sentence about the space of a file system; "" if it is unknown."""
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return ""
    return f"the file system says that {readable(usage.free)} of {readable(usage.total)} are free"


def require(directory: str, needed_bytes: int) -> None:
    """Raise an OSError (ENOSPC) if a file of this size does not fit.

    Called before the first byte is written, so that a draft does not fill the disk.
    """
    free = free_bytes(directory)
    if free is not None and free < needed_bytes:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: {readable(needed_bytes)} are needed in {directory!r}, "
            f"but {readable(free)} are free",
        )


def warning(directory: str, needed_bytes: int) -> str | None:
    """Return a sentence if the next saves may not fit, or None.

    A save writes the new file before the old one is removed, so it needs room for two.
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
    """Return a size in readable form.

    Example:
        >>> readable(123), readable(40_960_000)
        ('123 B', '41.0 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
