"""The journal of a directory: what happened and why, one line of JSON for each event.

Nothing is restored from `.ratchet/journal.jsonl`, so lines are appended without a sync, and the
reader skips lines that a crash has torn.
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
from keras_ratchet._storage.single_file import METADATA

NAME = "journal.jsonl"
_MAX_LINE_BYTES = 1 << 22  # with the values of some ten thousand metrics


def append(directory: str, event: str, **fields: Any) -> None:
    """Add a line; if the journal cannot be written, do nothing."""
    line = {"time": round(time.time(), 3), "event": event, **fields}
    data = (json.dumps(plain(line), allow_nan=False, default=str) + "\n").encode()
    metadata = os.path.join(directory, METADATA)
    with contextlib.suppress(OSError):
        disk.make_directories(metadata)
        fd = disk.current.open(os.path.join(metadata, NAME), os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            if _is_torn(fd):
                data = b"\n" + data
            disk.current.write(fd, memoryview(data))
        finally:
            os.close(fd)


def _is_torn(fd: int) -> bool:
    """Return whether a crash or a full disk left the last line unfinished."""
    if os.lseek(fd, 0, os.SEEK_END) == 0:
        return False
    os.lseek(fd, -1, os.SEEK_END)
    return os.read(fd, 1) != b"\n"


def read(directory: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a directory's journal, oldest first; skip broken lines."""
    try:
        file = open(os.path.join(directory, METADATA, NAME), "rb")  # noqa: SIM115  closed below
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        while line := file.readline(_MAX_LINE_BYTES):
            if (event := event_of(line)) is not None:
                yield event


def event_of(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line, or None if the line is torn or not ours."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def time_of(event: dict[str, Any]) -> float:
    """Return when an event was, in seconds since 1970; 0 if it does not say."""
    value = event.get("time")
    return float(value) if isinstance(value, int | float) else 0.0
