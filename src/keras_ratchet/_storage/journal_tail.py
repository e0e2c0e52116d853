"""The events that are added to a journal, as they are added."""

from __future__ import annotations

import os
from typing import Any

from keras_ratchet._storage.journal import NAME, event_of
from keras_ratchet._storage.single_file import METADATA

_MOST_BYTES = 1 << 22  # at a time


class Tail:
    """Reads on where it has stopped. A line counts once it has its end.

    Args:
        directory: The directory whose journal it is; it need not exist yet.
        from_start: Whether to begin with the oldest event, not with those to come.

    Attributes:
        directory: The directory.
        at: Up to where it has read, in bytes; may be set.
    """

    def __init__(self, directory: str, from_start: bool = False) -> None:
        self.directory = directory
        self._path = os.path.join(directory, METADATA, NAME)
        self.at = 0 if from_start else self._size()

    def _size(self) -> int:
        try:
            return os.path.getsize(self._path)
        except OSError:
            return 0

    def new(self) -> list[dict[str, Any]]:
        """Return the events since the last call, oldest first; torn lines are left out."""
        events: list[dict[str, Any]] = []
        while lines := self._lines():
            events += [event for event in map(event_of, lines) if event is not None]
        return events

    def _lines(self) -> list[bytes]:
        """Return the next lines that are complete."""
        if self._size() < self.at:  # the directory was emptied, and there is a new journal
            self.at = 0
        try:
            with open(self._path, "rb") as file:
                file.seek(self.at)
                data = file.read(_MOST_BYTES)
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        if not end and len(data) == _MOST_BYTES:  # no line of ours is as long
            end = len(data)
        self.at += end
        return data[:end].splitlines()
