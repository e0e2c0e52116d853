"""The checkpoints of a directory on a store, as one listing tells them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from keras_ratchet._storage.listing import SUFFIXES
from keras_ratchet._storage.manifest import FileEntry
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.record import (
    COMMITS,
    Entry,
    Record,
    StoredObject,
    entry_of_key,
    entry_of_record,
    mismatch,
    record_of_bytes,
)
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet.errors import LoadError
from keras_ratchet.types import CheckpointInfo

_log = logging.getLogger("keras_ratchet")
PINS = ".ratchet/pins"
STORE_IDS = ".ratchet/store"
_MIN_BORROWED_BYTES = 1 << 16  # what is smaller is put again in the time of the question


class Catalog:
    """The checkpoints of a directory on a store.

    Args:
        store: The directory.

    Attributes:
        has_unknown: Whether there are records that this version cannot read.
        store_ids: Random names that were put here, which tell it from another store's.
        check: Called before each change; raises if the lease is lost.
        newest_put_s: When the newest object about checkpoints was put, by the store's clock.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.has_unknown = False
        self.store_ids: set[str] = set()
        self.check: Callable[[], None] = lambda: None
        self.newest_put_s: float | None = None
        self._entries: dict[str, Entry] = {}
        self._objects: dict[tuple[str, FileEntry], StoredObject] | None = None

    def load(self) -> None:
        """Read the listing."""
        entries: dict[str, Entry] = {}
        pins, store_ids = set[str](), set[str]()
        cut: list[Entry] = []
        self.has_unknown = False
        found = self.store.find(METADATA)
        times = [stat.modified_s for stat in found.values() if stat.modified_s is not None]
        self.newest_put_s = max(times, default=None)
        for key in found:
            if key.startswith(f"{PINS}/"):
                pins.add(key.rpartition("/")[2])
            elif entry := entry_of_key(key, self.store.url):
                entries[entry.id] = entry
                cut += [] if entry.is_whole else [entry]
            elif key.startswith(f"{COMMITS}/"):
                self.has_unknown = True
            elif key.startswith(f"{STORE_IDS}/"):
                store_ids.add(key.rpartition("/")[2])
        self._complete(entries, cut)
        for pinned in pins & entries.keys():
            entry = entries[pinned]
            entries[pinned] = replace(entry, info=replace(entry.info, pinned=True))
        self._entries, self.store_ids = entries, store_ids

    def _complete(self, entries: dict[str, Entry], cut: list[Entry]) -> None:
        """Read the records whose keys do not tell everything."""
        found = self.store.read_all([entry.key for entry in cut])
        for entry in cut:
            if entry.key not in found:  # deleted meanwhile
                del entries[entry.id]
                continue
            try:
                record = record_of_bytes(found[entry.key], f"{self.store.url}/{entry.key}")
            except LoadError as error:  # nobody knows which objects it shares
                _log.warning("%s Until it is gone, nothing is deleted there.", error)
                continue
            entries[entry.id] = entry_of_record(
                entry.id, entry.key, entry.data_id, record, self.store.url
            )

    def add(self, entry: Entry) -> None:
        """Add a checkpoint that was just committed."""
        self._entries[entry.id] = entry

    def remove(self, entry: Entry) -> None:
        """Remove one whose record was just deleted."""
        self._entries.pop(entry.id, None)

    def entries(self) -> list[Entry]:
        """Return all, the oldest first."""
        return sorted(self._entries.values(), key=lambda e: (e.info.saved_at, e.id))

    def named(self, name: str) -> list[Entry]:
        """Return those of a name, the newest first."""
        return [entry for entry in reversed(self.entries()) if entry.info.name == name]

    def infos(self) -> list[CheckpointInfo]:
        """Return what is known about each name: of several checkpoints the newest counts."""
        newest = {entry.info.name: entry.info for entry in self.entries()}
        return list(newest.values())

    def record(self, entry: Entry) -> Record:
        """Return the record of a checkpoint.

        Raises:
            LoadError: If it is damaged, or gone.
        """
        try:
            raw = self.store.read(entry.key)
        except FileNotFoundError as error:
            raise LoadError(
                f"the record of {entry.info.path!r} is gone: it was deleted."
            ) from error
        return self.parsed(entry, raw)

    def parsed(self, entry: Entry, raw: bytes) -> Record:
        """Return the record of a checkpoint from its bytes.

        Raises:
            LoadError: If it is damaged.
        """
        where = f"{self.store.url}/{entry.key}"
        record = record_of_bytes(raw, where)
        if record.name != entry.info.name:
            raise LoadError(f"{where!r} is not the record of {entry.info.name!r}.", see="manifest")
        return record

    def is_used(self, key: str) -> bool:
        """Return whether an object may be one of a checkpoint, as far as this version can tell."""
        return self.has_unknown or any(entry.uses(key) for entry in self._entries.values())

    def note_objects(self, record: Record) -> None:
        """Remember the objects of a snapshot, which the next one may have, too."""
        self._objects = {
            (name, record.manifest.files[name]): stored for name, stored in record.objects.items()
        }

    def find_object(self, name: str, file: FileEntry) -> StoredObject | None:
        """Return the object of the newest snapshot that is the same file, if it is still there.

        Args:
            name: The file's name in the snapshot.
            file: Its size and digest.
        """
        if file.size_bytes < _MIN_BORROWED_BYTES:
            return None
        if self._objects is None:
            self._objects = {}
            snapshots = [entry for entry in self.entries() if entry.info.is_directory]
            with contextlib.suppress(LoadError):
                if snapshots:
                    self.note_objects(self.record(snapshots[-1]))
        stored = self._objects.get((name, file))
        if stored is None or not self.is_used(stored.key):
            return None
        with contextlib.suppress(FileNotFoundError):
            if not mismatch(self.store.stat(stored.key), stored, file):
                return stored
        return None


def loaded(store: ObjectStore) -> Catalog:
    """Return the catalog of a directory, just read."""
    catalog = Catalog(store)
    catalog.load()
    return catalog


def bare_files(store: ObjectStore) -> list[CheckpointInfo]:
    """Return the plain Keras files that lie in a directory, without a record."""
    found = []
    for key, stat in store.find_here().items():
        if key.endswith(SUFFIXES) and "/" not in key and not key.startswith("."):
            found.append(
                CheckpointInfo(
                    key,
                    f"{store.url}/{key}",
                    size_bytes=stat.size_bytes,
                    saved_at=stat.modified_s or 0.0,
                )
            )
    return found
