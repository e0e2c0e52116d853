"""Who holds a lock: looked at without taking it, for those who only watch."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from typing import Any

from keras_ratchet._storage import lock
from keras_ratchet._storage.single_file import METADATA

_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LockState:
    """One lock, at the moment at which it was looked at.

    Attributes:
        path: The lock file.
        held: Whether a process holds it; None where that cannot be found out.
        pid: Number of the process that holds it, or that had it when it was killed; 0 if unknown.
        host: Its machine.
        command: Its program.
        since: When it took the lock.
    """

    path: str
    held: bool | None
    pid: int = 0
    host: str = ""
    command: str = ""
    since: str = ""

    @property
    def is_of_a_killed_process(self) -> bool:
        """Whether the holder has ended without a chance to give the lock back."""
        return self.held is False and bool(self.pid)

    @property
    def who(self) -> str:
        """The holder, for people."""
        return f"process {self.pid} on {self.host} ({self.command}, since {self.since})"


def lock_states(directory: str) -> list[LockState]:
    """Return the states of all locks of a directory, by name; none if it has none."""
    metadata = os.path.join(os.path.abspath(directory), METADATA)
    with contextlib.suppress(OSError):
        names = sorted(name for name in os.listdir(metadata) if name.endswith(".lock"))
        return [lock_state(os.path.join(metadata, name)) for name in names]
    return []


def lock_state(path: str) -> LockState:
    """Return the state of a lock; one whose file is gone is free."""
    path = os.path.realpath(path)
    with lock._table:
        # closing any descriptor of the file would release a lock that this process holds
        if (os.getpid(), path) in lock._held:
            return _described(path, True, lock._identity())
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            return LockState(path, False)
        try:
            held, text = _is_held(fd), os.read(fd, _MOST_BYTES)
        finally:
            os.close(fd)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = {}
    return _described(path, held, data if isinstance(data, dict) else {})


def _described(path: str, held: bool | None, data: dict[str, Any]) -> LockState:
    pid = data.get("pid")
    words = [str(data.get(name, "?"))[:200] for name in ("host", "command", "since")]
    return LockState(path, held, pid if isinstance(pid, int) else 0, *words)


def _is_held(fd: int) -> bool | None:
    """Return whether another process holds the lock of an open file; None if that is unknown."""
    if not hasattr(os, "lockf"):  # Windows
        return None
    try:
        os.lockf(fd, os.F_TEST, 0)
    except OSError as error:
        return True if error.errno in lock._BUSY else None
    return False
