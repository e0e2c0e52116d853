"""Checkpoints on a store, read by anybody: listed, verified, fetched through the cache."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from keras_ratchet._storage import disk, listing
from keras_ratchet._storage.objects import commit, journals
from keras_ratchet._storage.objects.catalog import PINS, Catalog, bare_files, loaded
from keras_ratchet._storage.objects.failures import describe, passes
from keras_ratchet._storage.objects.fetch import fetch, verify_entry
from keras_ratchet._storage.objects.lease import Lease
from keras_ratchet._storage.objects.location import cache_directory, checked_url, split
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.record import Entry
from keras_ratchet._storage.verify import Verification
from keras_ratchet._warn import warn
from keras_ratchet.errors import CorruptError, LoadError, RatchetError
from keras_ratchet.types import CheckpointInfo

SUFFIXES = (".keras", ".h5")
_FETCHED = "fetched"
_MAX_FETCHED = 4  # of one directory

Options = Mapping[str, Any] | None


@contextlib.contextmanager
def said(url: str) -> Iterator[None]:
    """Turn what a store raises into a LoadError that says what to do."""
    try:
        yield
    except (RatchetError, KeyboardInterrupt):
        raise
    except Exception as error:
        is_ours = isinstance(error, OSError) or passes(error) or "botocore" in str(type(error))
        if isinstance(error, AttributeError | TypeError | AssertionError) or not is_ours:
            raise
        raise LoadError(f"could not read {url!r}: {describe(error, url)}") from error


def open_catalog(url: str, options: Options = None) -> Catalog:
    """Return what is in a directory on a store, listed now.

    Raises:
        LoadError: If the store cannot be read.
        ConfigError: If its library is not installed.
    """
    with said(url):
        return loaded(ObjectStore(url, options))


def checkpoints(url: str, options: Options = None) -> list[CheckpointInfo]:
    """Return the checkpoints in a directory on a store, oldest first; plain Keras files, too."""
    url = checked_url(url, "directory")
    catalog = open_catalog(url, options)
    with said(url):
        known = catalog.infos()
        names = {info.name for info in known}
        bare = [info for info in bare_files(catalog.store) if info.name not in names]
    return listing.in_order([*known, *bare])


def is_directory(url: str, options: Options = None) -> bool:
    """Return whether a URL is that of a directory rather than of one checkpoint in it.

    A name with the suffix of a Keras file is a file's; else the directory above is asked.
    """
    directory, name = split(checked_url(url, "path"))
    if not name or name.endswith(SUFFIXES):
        return not name
    return not open_catalog(directory, options).named(name)


def find(url: str, options: Options = None) -> tuple[Catalog, list[Entry]]:
    """Return the directory of a checkpoint, and the checkpoint, the newest of its name first.

    Raises:
        LoadError: If there is none.
    """
    directory, name = split(checked_url(url, "path"))
    catalog = open_catalog(directory, options)
    return catalog, catalog.named(name)


def checkpoint_at(url: str, options: Options = None) -> CheckpointInfo:
    """Return what is known about one checkpoint on a store.

    Raises:
        LoadError: If there is none.
    """
    directory, name = split(checked_url(url, "path"))
    for info in checkpoints(directory, options):
        if info.name == name:
            return info
    raise LoadError(f"there is no checkpoint {url!r}.")


def verify(url: str, options: Options = None, read: bool = True) -> Verification:
    """Compare a checkpoint on a store with its record.

    Args:
        url: The checkpoint.
        options: `storage_options`.
        read: Whether every byte is read; else the store's own checksums are compared.
    """
    catalog, entries = find(url, options)
    with said(url):
        if entries:
            return verify_entry(catalog, entries[0], read)
        if any(info.path == checked_url(url, "path") for info in bare_files(catalog.store)):
            return Verification(url, "unverified", "it has no manifest")
    raise LoadError(f"there is no checkpoint {url!r}.")


def local_copy(url: str, options: Options = None) -> str:
    """Return a local path with the content of a checkpoint on a store, fetched if need be.

    Raises:
        CorruptError: If none of that name is what was saved.
        LoadError: If there is none, or the store cannot be read.
    """
    directory, name = split(checked_url(url, "path"))
    catalog, entries = find(url, options)
    with said(url):
        if not entries:
            return _fetch_bare(catalog, name)
        return _first_good(catalog, entries, cache_directory(directory))


def _first_good(catalog: Catalog, entries: list[Entry], cache: str) -> str:
    """Return the newest of a name that is what was saved; one before only after a crash."""
    problems: list[str] = []
    for entry in entries:
        try:
            path = fetch(catalog, entry, fetched_directory(cache, entry.id))
        except CorruptError as error:
            problems.append(str(error))
            continue
        if problems:
            warn(f"{' '.join(problems)} Using the one before instead.")
        _tidy(cache, entry.id)
        return path
    raise CorruptError(" ".join(problems))


def fetched_directory(cache: str, record_id: str) -> str:
    """Return where a checkpoint of this id is fetched to, below a cache directory."""
    return os.path.join(cache, _FETCHED, record_id)


def _fetch_bare(catalog: Catalog, name: str) -> str:
    """Fetch a plain file that has no record; it cannot be verified."""
    url = f"{catalog.store.url}/{name}"
    found = [info for info in bare_files(catalog.store) if info.name == name]
    if not found:
        raise LoadError(f"there is no checkpoint {url!r}.")
    cache = cache_directory(catalog.store.url)
    directory = fetched_directory(cache, "unverified")
    disk.make_directories(directory)
    path = os.path.join(directory, name)
    with listing.AtomicFile(path) as draft:
        catalog.store.get_file(name, draft.path)
        draft.sync()
        draft.commit()
    return path


def _tidy(cache: str, used: str) -> None:
    """Delete the fetched checkpoints that were used longest ago, but for a few."""
    root = os.path.join(cache, _FETCHED)
    with contextlib.suppress(OSError):
        os.utime(os.path.join(root, used))
        found = sorted((e.stat().st_mtime, e.path) for e in os.scandir(root) if e.is_dir())
        for _, path in found[:-_MAX_FETCHED]:
            shutil.rmtree(path, ignore_errors=True)


def set_pin(url: str, pinned: bool, options: Options = None) -> None:
    """Protect a checkpoint on a store from retention and prune, or end that."""
    catalog, entries = find(url, options)
    if not entries:
        raise LoadError(f"{url!r} has no manifest, so it cannot be pinned. `ratchet adopt` it.")
    with said(url):
        key = f"{PINS}/{entries[0].id}"
        catalog.store.put(key, b"") if pinned else catalog.store.delete(key)


def delete_unless_changed(info: CheckpointInfo, options: Options = None) -> bool:
    """Delete a checkpoint from a store, unless its objects have changed since they were put.

    Args:
        info: The checkpoint, as it was listed; the caller holds the lease of its series.
        options: `storage_options`.

    Returns:
        Whether it was deleted.
    """
    catalog, entries = find(info.path, options)
    same = [entry for entry in entries if entry.info.saved_at == info.saved_at]
    with said(info.path):
        if not same or not verify_entry(catalog, same[0], read=False):
            return False
        commit.delete_checkpoint(catalog, same[0])
    return True


def lease(url: str, series: str, options: Options = None) -> Lease:
    """Return the lease of a series in a directory on a store."""
    store = ObjectStore(checked_url(url, "directory"), options)
    return Lease(store, series, f"{series or 'the snapshots'!r} at {url!r}")


def events(url: str, options: Options = None) -> list[dict[str, Any]]:
    """Return the events of the journals of a directory on a store, oldest first."""
    url = checked_url(url, "directory")
    with said(url):
        return list(journals.read(ObjectStore(url, options)))
