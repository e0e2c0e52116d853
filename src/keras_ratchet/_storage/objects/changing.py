"""What the commands add to a store: records of adopted files, files, notes in the journal."""

from __future__ import annotations

import contextlib
from typing import Any

from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.objects import commit, journals
from keras_ratchet._storage.objects.catalog import PINS
from keras_ratchet._storage.objects.location import checked_url, split
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.reading import Options, find, said
from keras_ratchet.errors import LoadError


def adopt(url: str, manifest: Manifest, options: Options = None) -> None:
    """Put a record about a plain Keras file that lies on a store, in the place of an earlier one.

    Args:
        url: The file; the caller holds the lease of its series.
        manifest: The manifest without its files.
        options: `storage_options`.

    Raises:
        LoadError: If there is no such file.
    """
    catalog, entries = find(url, options)
    store, name = catalog.store, split(checked_url(url, "path"))[1]
    with said(url, "write to"):
        if name not in store.find_here() or any(entry.data_id for entry in entries):
            raise LoadError(f"{url!r} is not a plain Keras file on the store.")
        new = commit.put_adopted(catalog, name, store.digest(name), manifest)
        for entry in entries:
            if entry.info.pinned:
                store.put(f"{PINS}/{new.id}", b"")
                store.delete(f"{PINS}/{entry.id}")
            store.delete(entry.key)


def put_file(path: str, url: str, options: Options = None) -> None:
    """Put a local file that is no checkpoint at a URL, over what is there."""
    directory, name = split(checked_url(url, "path"))
    with said(url, "write to"):
        ObjectStore(directory, options).put_file(path, name)


def note(url: str, event: str, options: Options = None, **fields: Any) -> None:
    """Add an event to the journals of a directory; if the store refuses, do nothing."""
    with contextlib.suppress(LoadError), said(url):
        journals.append(ObjectStore(checked_url(url, "directory"), options), event, **fields)
