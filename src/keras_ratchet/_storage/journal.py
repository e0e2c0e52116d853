"""The run's journal: one line of JSON for each thing that happened and why.

`.ratchet/journal.jsonl` is commentary, not truth: nothing is restored from it, so lines are
appended without a sync, and a torn last line is left out by the reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from keras_ratchet._json import plain
from keras_ratchet._storage import disk
from keras_ratchet._storage.single_file import SIDE

NAME = "journal.jsonl"
_MAX_LINE_BYTES = 1 << 16


def append(directory: str, event: str, **facts: Any) -> None:
    """Add a line; a journal that cannot be written never harms the training."""
    line = {"time": round(time.time(), 3), "event": event, **facts}
    data = (json.dumps(plain(line), allow_nan=False, default=str) + "\n").encode()
    side = os.path.join(directory, SIDE)
    with contextlib.suppress(OSError):
        disk.make_directories(side)
        fd = disk.current.open(os.path.join(side, NAME), os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            if _is_torn(fd):
                data = b"\n" + data
            disk.current.write(fd, memoryview(data))
        finally:
            os.close(fd)


def _is_torn(fd: int) -> bool:
    """Say whether the last line was left unfinished by a crash or a full disk."""
    if os.lseek(fd, 0, os.SEEK_END) == 0:
        return False
    os.lseek(fd, -1, os.SEEK_END)
    return os.read(fd, 1) != b"\n"


def read(directory: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a directory's journal, oldest first; broken lines are left out."""
    try:
        file = open(os.path.join(directory, SIDE, NAME), "rb")  # noqa: SIM115  closed below
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        while line := file.readline(_MAX_LINE_BYTES):
            if (event := _event(line)) is not None:
                yield event


def _event(line: bytes) -> dict[str, Any] | None:
    """Return the event that a line describes, or None if it is torn or none of ours."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
