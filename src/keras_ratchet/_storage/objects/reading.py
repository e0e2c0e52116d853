"""Checkpoints on a store, read by anybody: listed, verified, fetched through the cache."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from keras_ratchet._storage import disk
from keras_ratchet._storage.atomic import AtomicFile
from keras_ratchet._storage.listing import SUFFIXES, in_order
from keras_ratchet._storage.objects import commit, journals
from keras_ratchet._storage.objects.catalog import PINS, Catalog, bare_files, loaded
from keras_ratchet._storage.objects.failures import describe, passes
from keras_ratchet._storage.objects.fetch import FETCHED, fetch, verify_entry
from keras_ratchet._storage.objects.lease import Lease
from keras_ratchet._storage.objects.location import cache_directory, checked_url, split
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.record import DATA, Entry, Record, mismatch
from keras_ratchet._storage.objects.store_calls import Stat
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet._storage.verify import Verification
from keras_ratchet._warn import warn
from keras_ratchet.errors import CorruptError, LoadError, RatchetError
from keras_ratchet.types import CheckpointInfo

_MAXFETCHED = 4  # of one directory

Options = Mapping[str, Any] | None


@contextlib.contextmanager
def said(url: str, what: str = "read") -> Iterator[None]:
    """Turn what a store raises into a LoadError that says what to do.

    Args:
        url: Where.
        what: What was tried there.
    """
    try:
        yield
    except (RatchetError, KeyboardInterrupt):
        raise
    except Exception as error:
        is_of_library = type(error).__module__.split(".")[0] not in ("builtins", "keras_ratchet")
        is_said = isinstance(error, OSError) or passes(error) or is_of_library
        is_option = "unexpected keyword argument" in str(error)  # in storage_options
        is_bug = isinstance(error, AttributeError | TypeError | AssertionError) and not is_option
        if is_bug or not (is_said or is_option):
            raise
        raise LoadError(
            f"could not {what} {url!r}: {describe(error, url)}", see="store-failed"
        ) from error


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
    return in_order([*known, *bare])


def is_directory(url: str, options: Options = None) -> bool:
    """Return whether a URL is that of a directory rather than of one checkpoint in it.

    A name with the suffix of a Keras file is a file's; else the directory above is asked, unless
    it cannot be listed: the right to do so may end here.
    """
    directory, name = split(checked_url(url, "path"))
    if not name or name.endswith(SUFFIXES):
        return not name
    try:
        return not open_catalog(directory, options).named(name)
    except (LoadError, NotImplementedError):
        return True


def is_known(url: str, options: Options = None) -> bool:
    """Return whether checkpoints were ever saved in a directory on a store."""
    url = checked_url(url, "directory")
    with said(url):
        return bool(ObjectStore(url, options).find(METADATA))


def exists(url: str, options: Options = None) -> bool:
    """Return whether there is a checkpoint or a file at a URL."""
    catalog, entries = find(url, options)
    with said(url):
        return bool(entries) or split(checked_url(url, "path"))[1] in catalog.store.find_here()


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


def verify_all(
    url: str,
    options: Options = None,
    *,
    names: Collection[str] | None = None,
    read: bool = False,
    done: Callable[[int], object] = lambda size_bytes: None,
) -> dict[str, Verification]:
    """Compare the checkpoints of a directory on a store with their records.

    Without `read`, one listing tells what the store knows of all objects, and the records are read
    several at a time.

    Args:
        url: The directory.
        options: `storage_options`.
        names: Which ones; None for all.
        read: Whether every byte is read; else the store's own checksums are compared.
        done: Called after each with its length.

    Returns:
        The outcomes by URL. A checkpoint that was deleted meanwhile has none.
    """
    catalog = open_catalog(checked_url(url, "directory"), options)
    wanted = {e.info.name: e for e in catalog.entries() if names is None or e.info.name in names}
    found: dict[str, Verification] = {}
    with said(url):
        here = {info.name: info for info in bare_files(catalog.store)}
        stats = {} if read else {**catalog.store.find(DATA), **catalog.store.find_here()}
        records = catalog.store.read_all([entry.key for entry in wanted.values()])
        for entry in wanted.values():
            raw, path = records.get(entry.key), entry.info.path
            if raw is not None:
                found[path] = _compared(catalog, entry, raw, None if read else stats)
            if not found.get(path, True) and is_gone(catalog, entry):
                del found[path]
            done(entry.info.size_bytes)
    for name, info in here.items():
        if name not in wanted and (names is None or name in names):
            found[info.path] = Verification(info.path, "unverified", "it has no manifest")
    return found


def _compared(
    catalog: Catalog, entry: Entry, raw: bytes, stats: Mapping[str, Stat] | None
) -> Verification:
    """Compare a checkpoint with its record, by what a listing told or by reading it."""
    if stats is None:
        return verify_entry(catalog, entry, read=True)
    try:
        problem = difference(catalog.parsed(entry, raw), stats)
    except LoadError as error:
        problem = str(error)
    return Verification(entry.info.path, "corrupt" if problem else "ok", problem)


def difference(record: Record, stats: Mapping[str, Stat]) -> str:
    """Return how a checkpoint's objects are not those that were put; "" if they are."""
    for name, stored in record.objects.items():
        problem = mismatch(stats.get(stored.key), stored, record.manifest.files[name])
        if problem:
            return f"{name}: {problem}"
    return ""


def record_at(url: str, options: Options = None) -> Record | None:
    """Return the record of a checkpoint; None for a plain file, which has none.

    Raises:
        LoadError: If it is damaged.
    """
    catalog, entries = find(url, options)
    with said(url):
        return catalog.record(entries[0]) if entries else None


def is_gone(catalog: Catalog, entry: Entry) -> bool:
    """Return whether a checkpoint was deleted since it was listed."""
    return not catalog.store.read_all([entry.key])


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
    problems: list[LoadError] = []
    for entry in entries:
        try:
            path = fetch(catalog, entry, fetched_directory(cache, entry.id))
        except LoadError as error:  # its bytes, or its record
            problems.append(error)
            continue
        if problems:
            warn(f"{' '.join(map(str, problems))} Using the one before instead.")
        _tidy(cache, entry.id)
        return path
    if len(problems) == 1:
        raise problems[0]
    raise CorruptError(f"Nothing of this name is what was saved: {' '.join(map(str, problems))}")


def fetched_directory(cache: str, record_id: str) -> str:
    """Return where a checkpoint of this id is fetched to, below a cache directory."""
    return os.path.join(cache, FETCHED, record_id)


def fetch_to(url: str, directory: str, options: Options = None) -> str:
    """Fetch a checkpoint to a directory of the caller's; return its path there.

    Raises:
        CorruptError: If it is not what was saved.
        LoadError: If there is none, or the store cannot be read.
    """
    catalog, entries = find(url, options)
    if not entries:
        raise LoadError(f"there is no checkpoint {url!r} with a manifest.")
    with said(url):
        return fetch(catalog, entries[0], directory)


def plain_copy(url: str, options: Options = None) -> str:
    """Return a local path with the bytes of a file on a store, whatever its record says."""
    directory, name = split(checked_url(url, "path"))
    catalog = open_catalog(directory, options)
    with said(url):
        return _fetch_bare(catalog, name)


def scratch(url: str) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary directory on the disk of the cache, which has room for checkpoints."""
    cache = cache_directory(url)
    disk.make_directories(cache)
    return tempfile.TemporaryDirectory(prefix="work-", dir=cache)


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
    with AtomicFile(path) as draft:
        catalog.store.get_file(name, draft.path)
        draft.sync()
        draft.commit()
    return path


def _tidy(cache: str, used: str) -> None:
    """Delete the fetched checkpoints that were used longest ago, but for a few."""
    root = os.path.join(cache, FETCHED)
    with contextlib.suppress(OSError):
        os.utime(os.path.join(root, used))
        found = sorted((e.stat().st_mtime, e.path) for e in os.scandir(root) if e.is_dir())
        for _, path in found[:-_MAXFETCHED]:
            disk.discard_tree(path)


def set_pin(url: str, pinned: bool, options: Options = None) -> None:
    """Protect a checkpoint on a store from retention and prune, or end that."""
    catalog, entries = find(url, options)
    if not entries:
        raise LoadError(
            f"{url!r} has no manifest, so it cannot be pinned. `ratchet adopt` it.", see="manifest"
        )
    with said(url, "write to"):
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
    with said(info.path, "delete"):
        if not same or not verify_entry(catalog, same[0], read=False):
            return False
        older = [entry for entry in entries if entry.info.saved_at < info.saved_at]
        for entry in [*reversed(older), same[0]]:  # those before, which a crash left, do not return
            if not entry.info.pinned or entry is same[0]:
                commit.delete_checkpoint(catalog, entry)
    return True


@contextlib.contextmanager
def lease(url: str, series: str, options: Options = None) -> Iterator[Lease]:
    """Hold the lease of a series in a directory on a store.

    Raises:
        LockedError: If another process writes there.
        LoadError: If the store refuses.
    """
    url = checked_url(url, "directory")
    own = Lease(ObjectStore(url, options), series, f"{series or 'the snapshots'!r} at {url!r}")
    with said(url, "write to"):
        own.acquire()
    try:
        yield own
    finally:
        own.release()


def events(url: str, options: Options = None) -> list[dict[str, Any]]:
    """Return the events of the journals of a directory on a store, oldest first."""
    url = checked_url(url, "directory")
    with said(url):
        return list(journals.read(ObjectStore(url, options)))
