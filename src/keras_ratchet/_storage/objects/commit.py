"""The write order on an object store: what is put, in which order, and what a crash leaves.

A checkpoint is whole on the local disk before this begins. To save it:

1. each file is put under a key that was never used, `checkpoints/<id>/<file>`, in parts; a file
   of a snapshot that the newest snapshot on the store has, too, is not put again;
2. the store is asked for its length and checksum, which are compared with the file;
3. the record, which holds the manifest, is put under `.ratchet/commits/`, create-only: this is the
   commit point;
4. older checkpoints of the same name are deleted, their records first.

A crash in 1 or 2 leaves objects that no record names, which nobody lists. A later run deletes them
when they are a day old: until then another machine might still be about to commit them. A put that
is repeated because its answer was lost finds its own bytes under the key, and has succeeded. After
3 the checkpoint is there, for everybody and at once; a crash in 4 leaves the older ones, too, and
the newest of a name counts.

"Latest" and "best" are computed from the listed records. There is no pointer that could be stale.

To delete one:

1. its record is deleted: this is the commit point;
2. its pin and its objects are deleted, those in directories of others included, unless another
   record names them.

A crash leaves objects without a record, as above.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from keras_ratchet._storage.manifest import FileEntry, Manifest
from keras_ratchet._storage.objects.catalog import PINS, Catalog
from keras_ratchet._storage.objects.record import (
    DATA,
    Entry,
    Record,
    StoredObject,
    data_key,
    entry_of_record,
    is_data_key,
    new_id,
    record_key,
)

LEFTOVER_S = 24 * 3600.0
_log = logging.getLogger("keras_ratchet")


def put_checkpoint(catalog: Catalog, path: str, manifest: Manifest) -> Entry:
    """Put a local checkpoint and commit it.

    Args:
        catalog: The directory on the store; the caller holds its lease.
        path: The file or snapshot directory, which verifies.
        manifest: Its manifest.

    Raises:
        Exception: What the store raises; the checkpoint is then not there.
    """
    name, is_directory = os.path.basename(path), os.path.isdir(path)
    own = new_id(manifest.saved_at)
    objects = {}
    for file, known in manifest.files.items():
        if is_directory and (stored := catalog.find_object(file, known)):
            objects[file] = stored
            continue
        key = data_key(own, file)
        stat = catalog.store.put_file(os.path.join(path, file) if is_directory else path, key)
        objects[file] = StoredObject(key, stat.size_bytes, stat.checksums)
    record = Record(name, is_directory, manifest, objects)
    entry = _commit(catalog, own, own, record)
    if is_directory:
        catalog.note_objects(record)
    return entry


def _commit(catalog: Catalog, own: str, data_id: str, record: Record) -> Entry:
    key = record_key(own, data_id, record, len(catalog.store.url.encode()))
    catalog.check()
    if not catalog.store.put_new(key, record.to_bytes()):
        raise OSError(f"{catalog.store.url}/{key} is there already, with other content")
    entry = entry_of_record(own, key, data_id, record, catalog.store.url)
    catalog.add(entry)
    return entry


def put_renamed(catalog: Catalog, entry: Entry, name: str) -> Entry:
    """Give a single-file checkpoint a second name, without putting its bytes again.

    Raises:
        LoadError: If its record is damaged.
    """
    record = catalog.record(entry)
    manifest = record.manifest
    files = {name: manifest.files[record.name]}
    renamed = Record(
        name, False, replace(manifest, files=files), {name: record.objects[record.name]}
    )
    return _commit(catalog, new_id(manifest.saved_at), entry.data_id, renamed)


def put_adopted(catalog: Catalog, name: str, found: FileEntry, manifest: Manifest) -> Entry:
    """Put a record about a plain file that lies in the directory already.

    Args:
        catalog: The directory.
        name: The file's name, which is its key.
        found: Its size and digest.
        manifest: The manifest without its files.
    """
    stat = catalog.store.stat(name)
    record = Record(
        name,
        False,
        replace(manifest, files={name: found}),
        {name: StoredObject(name, stat.size_bytes, stat.checksums)},
    )
    return _commit(catalog, new_id(manifest.saved_at), "", record)


def delete_checkpoint(catalog: Catalog, entry: Entry) -> None:
    """Delete a checkpoint: its record, then its pin and its objects."""
    catalog.check()
    catalog.store.delete(entry.key)
    catalog.remove(entry)
    if entry.info.pinned:
        catalog.store.delete(f"{PINS}/{entry.id}")
    if not entry.data_id:
        if not catalog.named(entry.info.name):
            catalog.store.delete(entry.info.name)
        return
    keys = {*catalog.store.find(f"{DATA}/{entry.data_id}"), *(entry.borrowed or ())}
    for key in sorted(keys):
        if not catalog.is_used(key):
            catalog.store.delete(key)


def sweep(catalog: Catalog, now_s: float | None = None) -> list[str]:
    """Delete objects without a record that are a day old; return their keys.

    Args:
        catalog: The directory, just listed; the caller holds its lease.
        now_s: The time; None for when the lease was put, by the store's own clock.
    """
    now_s = catalog.newest_put_s if now_s is None else now_s
    if now_s is None:  # the store tells no times
        return []
    limit = now_s - LEFTOVER_S
    stale = [
        key
        for key, stat in catalog.store.find(DATA).items()
        if is_data_key(key) and stat.modified_s is not None and stat.modified_s < limit
    ]
    catalog.load()  # after the objects: what was committed meanwhile is in it
    if catalog.has_unknown:  # a newer version has saved here: whose objects these are is not known
        return []
    removed = [key for key in stale if not catalog.is_used(key)]
    for key in removed:
        catalog.store.delete(key)
        _log.info("removed a leftover of a crash: %s/%s", catalog.store.url, key)
    return removed
