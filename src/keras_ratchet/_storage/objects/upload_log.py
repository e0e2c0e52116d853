"""What was on the store when this machine last looked, beside the cache.

What is gone since was deleted on the store. Without this a cached snapshot that is not on the store
could be one that was never put, as the process was killed before, or one that somebody has deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable

from keras_ratchet._storage import disk
from keras_ratchet._storage.objects.record import Entry
from keras_ratchet._storage.single_file import METADATA, replace_file

_MAX_BYTES = 1 << 24


class UploadLog:
    """The log of one series.

    Args:
        directory: The local directory.
        url: The directory on the store.
        series: Name of the series.

    Attributes:
        keys: Name and time of each checkpoint that was on the store.
        position: Up to where the journal was put, in bytes.
        store_id: What told the store's directory from another one.
    """

    def __init__(self, directory: str, url: str, series: str) -> None:
        digest = hashlib.sha256(f"{url}\0{series}".encode("utf-8", "surrogateescape")).hexdigest()
        self._path = os.path.join(directory, METADATA, f"uploads.{digest[:16]}.json")
        self._empty()

    def _empty(self) -> None:
        self.keys: set[tuple[str, float]] = set()
        self.position = 0
        self.store_id = ""

    def read(self) -> None:
        """Read what was written; a damaged log is an empty one."""
        self._empty()
        try:
            with open(self._path, "rb") as file:
                data = json.loads(file.read(_MAX_BYTES))
            keys = {(str(name), float(saved_at)) for name, saved_at in data["put"]}
            self.position, self.store_id = int(data["journal"]), str(data["store"])
            self.keys = keys
        except (OSError, ValueError, KeyError, TypeError):
            self._empty()

    def write(self, entries: Iterable[Entry]) -> None:
        """Write what is on the store now, durably."""
        self.keys = {(entry.info.name, entry.info.saved_at) for entry in entries}
        data = {"put": sorted(self.keys), "journal": self.position, "store": self.store_id}
        disk.make_directories(os.path.dirname(self._path))
        replace_file(self._path, json.dumps(data).encode())

    def delete(self) -> None:
        """Forget everything."""
        self._empty()
        disk.discard(self._path)
