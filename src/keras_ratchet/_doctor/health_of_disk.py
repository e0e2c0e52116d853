"""The disk under a directory: space, the kind of file system, and whether it keeps its promises."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Literal

from keras_ratchet._storage import disk
from keras_ratchet._storage import space as _space
from keras_ratchet._storage.atomic import PROBE, draft_path

Said = tuple[Literal["ok", "note", "problem"], str, str]  # level, what, cure
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "lustre", "gpfs", "beegfs", "ceph", "afs")
_MEMORY = ("tmpfs", "ramfs")
_SLOW_S = 1.0
_MOUNTS = "/proc/mounts"


def space(directory: str, newest_bytes: int) -> Said:
    """Return whether the next saves fit.

    Args:
        directory: The directory.
        newest_bytes: Size of its newest checkpoint.
    """
    free = _space.free_bytes(directory)
    if free is None:
        return "note", "the file system does not say how much space is free", ""
    size = _space.readable
    if free < 2 * newest_bytes:
        what = f"{size(free)} are free, but the newest checkpoint has {size(newest_bytes)}"
        return (
            "problem",
            f"{what}, and a new one is written before an old one is deleted",
            ("make room: `ratchet prune`, or keep fewer (keep_best=, keep_last=)"),
        )
    return "ok", f"{size(free)} are free", ""


def mount(directory: str) -> Said:
    """Return what the kind of file system means."""
    kind, options = _mounted(os.path.realpath(directory))
    if "ro" in options:
        return "problem", f"the file system ({kind}) is mounted read-only", "mount it with rw"
    if kind in _NETWORK:
        what = f"it is on a network file system ({kind}): saves are durable within its guarantees"
        return "note", what, "a local filepath with mirror= is faster, if there is a store"
    if kind in _MEMORY:
        what = f"it is in memory ({kind}): everything is lost when the machine is restarted"
        return "problem", what, "save to a disk"
    if kind.startswith("fuse"):
        what = f"it is on {kind}, which may keep neither renames nor syncs"
        return "note", what, "for an object store pass its URL"
    return ("ok", f"the file system is {kind}", "") if kind else ("ok", "", "")


def _mounted(path: str) -> tuple[str, list[str]]:
    """Return the kind of file system of a path and its options; "" if that is not known."""
    best = ("", "", "")
    with contextlib.suppress(OSError), open(_MOUNTS, encoding="utf-8", errors="replace") as file:
        for fields in map(str.split, file):
            if len(fields) < 4:
                continue
            where = fields[1].replace("\\040", " ")
            inside = path == where or path.startswith(where.rstrip("/") + "/")
            if inside and len(where) >= len(best[0]):
                best = (where, fields[2], fields[3])
    return best[1], best[2].split(",")


def probe(directory: str) -> Said:
    """Return whether a small file can be written, synced, linked and renamed there, and how fast.

    The names are those of drafts of a probe, which the next start of any run would remove.
    """
    path, other = (draft_path(os.path.join(directory, PROBE)) for _ in range(2))
    started = time.perf_counter()
    try:
        fd = disk.current.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            disk.current.write(fd, memoryview(b"keras-ratchet"))
            disk.current.sync(fd)
        finally:
            os.close(fd)
        has_links = _links(path, other)
        disk.current.replace(path, other)
        disk.current.sync_directory(directory)
    except OSError as error:
        what = f"nothing can be saved here: {error.strerror or error}"
        return "problem", what, "check the rights, the quota and the mount"
    finally:
        disk.discard(path)
        disk.discard(other)
    took_s = time.perf_counter() - started
    if took_s > _SLOW_S:
        return "note", f"a small file takes {took_s:.1f} s to be durable", "is the disk busy?"
    if not has_links:
        what = "there are no hard links: snapshots copy what they could share"
        return "note", what, ""
    took = f"{took_s * 1000:.0f} ms" if took_s >= 0.001 else "less than 1 ms"
    return "ok", f"a small file is written, synced, linked and renamed in {took}", ""


def _links(path: str, other: str) -> bool:
    """Return whether a file can have a second name; the name is free again then."""
    try:
        disk.current.link(path, other)
    except OSError:
        return False
    disk.current.unlink(other)
    return True
