"""Checkpoints of a store, brought to the local disk and compared with what was saved."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping

from keras_ratchet._storage import disk, snapshot_directory
from keras_ratchet._storage.atomic import AtomicFile
from keras_ratchet._storage.manifest import entry_of
from keras_ratchet._storage.objects.catalog import Catalog
from keras_ratchet._storage.objects.record import DATA, Entry, Record, mismatch
from keras_ratchet._storage.objects.store_calls import Stat
from keras_ratchet._storage.single_file import commit_draft
from keras_ratchet._storage.snapshot_directory import SnapshotDraft
from keras_ratchet._storage.verify import Verification, difference, verify
from keras_ratchet.errors import CorruptError, LoadError

FETCHED = "fetched"  # below a cache directory: what was loaded from the store
_log = logging.getLogger("keras_ratchet")


def fetch(catalog: Catalog, entry: Entry, directory: str) -> str:
    """Bring a checkpoint to a local directory, in the form in which it was saved.

    Args:
        catalog: The directory on the store.
        entry: The checkpoint.
        directory: The local directory; nobody else writes checkpoints of this name there.

    Returns:
        The local path. A checkpoint that is there already and verifies is not brought again.

    Raises:
        CorruptError: If the store's bytes are not those that were saved.
        LoadError: If its record is damaged or gone.
        OSError: If the local disk refuses.
    """
    record = catalog.record(entry)
    if record.name.startswith(".") or record.name == FETCHED:
        raise CorruptError(
            f"{entry.info.path!r} has a name that the cache uses itself.", see="manifest"
        )
    path = os.path.join(directory, record.name)
    if _is_here(path, record):
        return path
    disk.make_directories(directory)
    try:
        if record.is_directory:
            _fetch_snapshot(catalog, record, directory)
        else:
            _fetch_file(catalog, record, path)
    except FileNotFoundError as error:
        raise CorruptError(
            f"{entry.info.path!r} is damaged: an object is gone ({error})."
        ) from error
    _log.info("fetched %s", entry.info.path)
    return path


def _is_here(path: str, record: Record) -> bool:
    """Return whether the local disk has this content."""
    if not os.path.exists(path):
        return False
    if record.is_directory:
        try:
            own = snapshot_directory.snapshot_manifest(path)
        except LoadError:
            return False
        same = own.to_bytes() == record.manifest.to_bytes()  # NaN is not equal to itself
        return same and bool(verify(path))
    return os.path.isfile(path) and entry_of(path) == record.manifest.files[record.name]


def _fetch_file(catalog: Catalog, record: Record, path: str) -> None:
    with AtomicFile(path) as draft:
        catalog.store.get_file(record.objects[record.name].key, draft.path)
        _compare(catalog, record, record.name, draft.path)
        draft.sync()
        commit_draft(draft, record.manifest)


def _fetch_snapshot(catalog: Catalog, record: Record, directory: str) -> None:
    path = os.path.join(directory, record.name)
    with SnapshotDraft(directory, record.name) as draft:
        for name, stored in record.objects.items():
            file = os.path.join(draft.path, name)
            catalog.store.get_file(stored.key, file)
            _compare(catalog, record, name, file)
            disk.sync_path(file)
            draft.add(name, record.manifest.files[name])
        try:
            if os.path.isdir(path):
                snapshot_directory.delete_snapshot(path)
            draft.commit(record.manifest)
        except OSError:
            if not _is_here(path, record):  # another process has fetched it meanwhile
                raise


def _compare(catalog: Catalog, record: Record, name: str, path: str) -> None:
    expected, found = record.manifest.files[name], entry_of(path)
    if found != expected:
        raise CorruptError(
            f"{catalog.store.url}/{record.name} is damaged: {difference(name, expected, found)}."
        )


def verify_entry(catalog: Catalog, entry: Entry, read: bool) -> Verification:
    """Compare a checkpoint on a store with its record.

    Args:
        catalog: The directory.
        entry: The checkpoint.
        read: Whether every byte is read; else the store is asked for lengths and checksums, which
            are compared with what it said when they were put.
    """
    path = entry.info.path
    try:
        record = catalog.record(entry)
    except LoadError as error:
        return Verification(path, "corrupt", str(error))
    stats: Mapping[str, Stat] = {} if read else _stats(catalog, entry, record)
    total = 0
    for name, expected in record.manifest.files.items():
        stored = record.objects[name]
        if not read:
            problem = mismatch(stats.get(stored.key), stored, expected)
            if problem:
                return Verification(path, "corrupt", f"{name}: {problem}")
            continue
        try:
            found = catalog.store.digest(stored.key)
        except FileNotFoundError:
            return Verification(path, "corrupt", f"{name}: it is not there", total)
        total += found.size_bytes
        if found != expected:
            return Verification(path, "corrupt", difference(name, expected, found), total)
    return Verification(path, "ok", size_bytes=total)


def _stats(catalog: Catalog, entry: Entry, record: Record) -> Mapping[str, Stat]:
    if not entry.data_id:
        return catalog.store.find_here()
    found = catalog.store.find(f"{DATA}/{entry.data_id}")
    for key in record.borrowed(entry.data_id):
        with contextlib.suppress(FileNotFoundError):
            found[key] = catalog.store.stat(key)
    return found
