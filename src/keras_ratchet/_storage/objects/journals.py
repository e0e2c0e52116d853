"""The journal of a run on a store: one object for each start of the run, put whole again.

The object grows with the run; when it has reached 256 KB the next one is begun, so that what is
put at a save stays small. Nothing is restored from a journal.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from keras_ratchet._json import plain
from keras_ratchet._storage import journal
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.single_file import METADATA

JOURNALS = ".ratchet/journal"
_ROTATE_BYTES = 1 << 18


class JournalCopy:
    """Copies the lines of a local journal to a store, from one position on.

    Args:
        store: The directory.
        directory: The local directory.
        series: Copy only lines of this series; "" for those without one.
        token: Tells this start of the run from others.
        position: Where in the local journal it begins, in bytes.

    Attributes:
        position: Up to where the lines are on the store.
    """

    def __init__(
        self, store: ObjectStore, directory: str, series: str, token: str, position: int
    ) -> None:
        self._store = store
        self._path = os.path.join(directory, METADATA, journal.NAME)
        self._series = series
        self._name = f"{int(time.time() * 1000):013d}-{token}"
        self._number = 0
        self._lines = b""
        size = os.path.getsize(self._path) if os.path.exists(self._path) else 0
        self.position = position if position <= size else 0

    def put(self) -> None:
        """Put the lines that are new."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self.position)
                new = file.read()
        except FileNotFoundError:
            return
        new = new[: new.rfind(b"\n") + 1]
        lines = b"".join(line for line in new.splitlines(True) if self._is_own(line))
        if lines:
            self._lines += lines
            self._store.put(f"{JOURNALS}/{self._name}-{self._number:04d}.jsonl", self._lines)
            if len(self._lines) > _ROTATE_BYTES:
                self._lines, self._number = b"", self._number + 1
        self.position += len(new)

    def _is_own(self, line: bytes) -> bool:
        event = journal.event_of(line)
        return event is not None and event.get("series", "") == self._series


def append(store: ObjectStore, event: str, **fields: Any) -> None:
    """Put one event, as an object of its own."""
    put(store, [{"time": round(time.time(), 3), "event": event, **fields}])


def put(store: ObjectStore, events: Iterable[Mapping[str, Any]]) -> None:
    """Put events, as one new object."""
    lines = [json.dumps(plain(e), allow_nan=False, default=str) + "\n" for e in events]
    name = f"{int(time.time() * 1000):013d}-{secrets.token_hex(4)}"
    if lines:
        store.put(f"{JOURNALS}/{name}.jsonl", "".join(lines).encode())


def read(store: ObjectStore) -> Iterator[dict[str, Any]]:
    """Yield the events of all journals of a directory on a store, oldest first.

    What `ratchet push` and a run have both put is one event.
    """
    keys = sorted(key for key in store.find(JOURNALS) if key.endswith(".jsonl"))
    texts = store.read_all(keys)
    lines = dict.fromkeys(line for key in keys for line in texts.get(key, b"").splitlines())
    events = (journal.event_of(line) for line in lines)
    known = [event for event in events if event is not None]
    yield from sorted(known, key=journal.time_of)


def delete(store: ObjectStore) -> None:
    """Delete all journals of a directory on a store."""
    for key in store.find(JOURNALS):
        store.delete(key)
