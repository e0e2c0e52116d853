"""The seam between the package and the disk: every call that changes a disk passes `Disk`.

Fault tests put their own `Disk` in the place of `current`. The order that makes a file durable is
in `atomic`, `single_file` and `snapshot_directory`; docs/write-order.md has the whole of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Disk:
    """The system calls that change a disk. Fault tests put their own in its place."""

    def open(self, path: str, flags: int) -> int:
        """Open a file; new ones get the mode that the umask allows."""
        return os.open(
            path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o666
        )

    def write(self, fd: int, data: memoryview) -> int:
        """Write some bytes of `data`; return how many."""
        return os.write(fd, data)

    def bypass_cache(self, fd: int, on: bool) -> bool:
        """Make writes go past the system's page cache, or stop that; return whether it worked."""
        flag = getattr(os, "O_DIRECT", 0)
        if not flag or fcntl is None:
            return False
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | flag if on else flags & ~flag)
        except OSError:
            return False
        return True

    def truncate(self, fd: int, size: int) -> None:
        """Cut or extend a file."""
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Wait until a file's bytes are on the disk."""
        os.fsync(fd)

    def sync_directory(self, path: str) -> None:
        """Wait until a directory's entries are on the disk (where the platform can do that)."""
        if os.name == "nt":
            return
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError as error:  # some network file systems refuse it
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(fd)

    def sync_all(self, fds: Sequence[int], directories: Sequence[str] = ()) -> None:
        """Wait until files and directories are on the disk; their syncs overlap.

        Args:
            fds: Descriptors of the files; the one with the most bytes first.
            directories: Paths of the directories.

        Raises:
            OSError: The error of the first one, in this order, that could not be synced; all
                syncs have ended then.
        """
        files = [partial(self.sync, fd) for fd in fds]
        calls = [*files, *(partial(self.sync_directory, path) for path in directories)]
        if len(calls) > 1:
            _overlap(calls)
        elif calls:
            calls[0]()

    def replace(self, source: str, target: str) -> None:
        """Rename a file over another, atomically."""
        os.replace(source, target)

    def rename(self, source: str, target: str) -> None:
        """Rename a file or directory to a name that is not in use."""
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def mkdir(self, path: str) -> None:
        """Make a directory."""
        os.mkdir(path)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        os.rmdir(path)


def _overlap(calls: Sequence[Callable[[], None]]) -> None:
    """Make the first call on another thread while the others follow one another on this one.

    One more thread is enough: where a sync is slow, the disk does the work of all that wait in one
    go (a journal commit). It ends with the calls, so that no later `fork` finds a thread.
    """
    errors: list[BaseException | None] = [None] * len(calls)

    def call(number: int) -> None:
        try:
            calls[number]()
        except BaseException as error:  # raised below, when all calls have ended
            errors[number] = error

    beside = threading.Thread(target=call, args=(0,), name="keras_ratchet.sync")
    try:
        beside.start()
    except RuntimeError:  # no thread can be started, as when the interpreter ends
        call(0)
    try:
        for number in range(1, len(calls)):
            call(number)
    finally:
        if beside.ident is not None:
            beside.join()  # the caller closes the descriptors
    found = [error for error in errors if error is not None]
    for error in sorted(found, key=lambda error: isinstance(error, Exception)):
        raise error  # of several the first one; but Ctrl-C comes before an error of the disk


current = Disk()


def discard(path: str) -> None:
    """Remove a file of ours if it is there; ignore errors, as another one usually led here."""
    with contextlib.suppress(OSError):
        current.unlink(path)


def sync_path(path: str) -> None:
    """Wait until the bytes of a file that other code wrote and closed are on the disk."""
    fd = current.open(path, os.O_RDWR)
    try:
        current.sync(fd)
    finally:
        os.close(fd)


def make_directories(path: str) -> None:
    """Make a directory and those above it, durably."""
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_directories(parent)
    try:
        current.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    current.sync_directory(parent)


def discard_tree(path: str) -> None:
    """Remove a directory of ours with all that is in it; ignore errors."""
    for directory, _, names in os.walk(path, topdown=False):
        for name in names:
            discard(os.path.join(directory, name))
        remove_empty(directory)


def remove_empty(directory: str) -> None:
    """Remove a directory if it is empty."""
    with contextlib.suppress(OSError):
        current.rmdir(directory)
