"""A lock between processes that is released when its holder ends, in whatever way.

It is a POSIX record lock (on Windows a byte-range lock) on a small file that names the holder. The
kernel releases it when the process ends, so there are no stale locks. Children made by `fork`
(data loading workers) do not inherit it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import sys
import threading
import time
import weakref
from typing import Any

from keras_ratchet._storage import disk
from keras_ratchet.errors import LockedError

_log = logging.getLogger("keras_ratchet")
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)

# A process loses a record lock when it closes *any* descriptor of the file, so each lock file is
# opened once per process and shared. The process is part of the key, since a child made by `fork`
# inherits the table but not the locks.
_held: dict[tuple[int, str], list[int]] = {}  # descriptor, number of holders
_table = threading.RLock()  # re-entrant: the garbage collector may release a lock at any time


class FileLock:
    """A lock between processes, re-entrant within one process; also a context manager.

    Args:
        path: The lock file; its directory exists.
        what: What is locked, for messages.
    """

    def __init__(self, path: str, what: str) -> None:
        self._path = os.path.realpath(path)
        self._what = what
        self._finalizers: list[weakref.finalize[Any, FileLock]] = []

    def __reduce__(self) -> tuple[type[FileLock], tuple[str, str]]:
        """Return how to make a copy, which does not hold the lock."""
        return FileLock, (self._path, self._what)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockedError: If another live process holds it; the message names it.
        """
        key = self._key()
        with _table:
            entry = _held.get(key)
            if entry is None:
                fd = disk.current.open(self._path, os.O_RDWR | os.O_CREAT)
                self._lock(fd)
                entry = _held[key] = [fd, 0]
            entry[1] += 1
        self._finalizers.append(weakref.finalize(self, _release, key))

    def release(self) -> None:
        """Release the lock; do nothing if this object does not hold it.

        Other processes can take it when the last holder in this one has released it. The garbage
        collector releases the lock, too.
        """
        if self._finalizers:
            self._finalizers.pop()()

    def renew(self) -> bool:
        """Take the lock again if its file is gone, since it then keeps nobody out.

        Returns:
            Whether the file was gone.

        Raises:
            LockedError: If another process has taken the lock meanwhile.
        """
        with _table:
            entry = _held.get(self._key())
            if entry is None or _is_at(entry[0], self._path):
                return False
            disk.make_directories(os.path.dirname(self._path))
            another = disk.current.open(self._path, os.O_RDWR | os.O_CREAT)
            self._lock(another)
            os.close(entry[0])
            entry[0] = another
            return True

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _key(self) -> tuple[int, str]:
        return os.getpid(), self._path

    def _lock(self, fd: int) -> None:
        try:
            _take(fd)
        except OSError as error:
            holder = os.read(fd, 4096)
            os.close(fd)
            if error.errno in _BUSY:
                raise LockedError(self._message(holder)) from None
            raise
        with contextlib.suppress(OSError):
            disk.current.truncate(fd, 0)
            disk.current.write(fd, memoryview(json.dumps(_identity()).encode()))

    def _message(self, holder: bytes) -> str:
        try:
            data: dict[str, Any] = json.loads(holder)
            who = (
                f"process {data['pid']} on {data['host']} ({data['command']}, "
                f"since {data['since']})"
            )
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return (
            f"{self._what} is being written by {who}. Two writers would overwrite each other's "
            "checkpoints: wait for it to end, or give this run its own path."
        )


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _release(key: tuple[int, str]) -> None:
    if key[0] != os.getpid():
        return
    with _table:
        entry = _held.get(key)
        if entry is None:
            return
        entry[1] -= 1
        if entry[1] == 0:
            del _held[key]
            with contextlib.suppress(OSError):
                disk.current.truncate(entry[0], 0)
            os.close(entry[0])


def _identity() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": os.path.basename(sys.argv[0] if sys.argv else "python") or "python",
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


if sys.platform == "win32":  # pragma: no cover

    def _take(fd: int) -> None:
        import msvcrt  # noqa: PLC0415  Windows only

        os.lseek(fd, 1 << 30, os.SEEK_SET)  # beyond the text, which other processes read
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        os.lseek(fd, 0, os.SEEK_SET)

else:
    import fcntl

    def _take(fd: int) -> None:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            _log.warning(
                "this file system has no locks: two runs that write here will not notice each other"
            )
