"""Checkpoints wherever they are: a path is a local one, or the URL of a place on a store.

Nothing of fsspec is imported before a URL is given: it is optional.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from keras_ratchet._storage import journal, listing, single_file
from keras_ratchet._storage import verify as local_verify
from keras_ratchet._storage.checkpoint_list import CheckpointList
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.manifest import FileEntry, Manifest
from keras_ratchet._storage.objects import changing, reading
from keras_ratchet._storage.objects.location import checked_url, is_url, split
from keras_ratchet._storage.snapshot_directory import MANIFEST, snapshot_manifest
from keras_ratchet._storage.verify import Verification
from keras_ratchet.errors import CorruptError
from keras_ratchet.types import CheckpointInfo

Path = str | os.PathLike[str]
Options = Mapping[str, Any] | None


def path_or_url(path: Path, what: str) -> str:
    """Return a local path as a string, or a checked URL.

    Args:
        path: What a user gave.
        what: Name of the argument, for messages.

    Raises:
        ConfigError: If it is a URL that cannot be a place for checkpoints.
    """
    return checked_url(path, what) if is_url(path) else os.fsdecode(path)


def checkpoints(directory: Path, *, storage_options: Options = None) -> list[CheckpointInfo]:
    """Return the checkpoints in a directory, oldest first. They are not verified.

    Args:
        directory: A directory that holds single-file checkpoints, snapshots or both, or the URL
            of one. Plain Keras files without a manifest are listed too, with `has_manifest` False.
            On a store, one listing tells all.
        storage_options: For a URL: arguments of its fsspec file system.

    Returns:
        A list, which a notebook shows as a table.

    Raises:
        LoadError: If there is no such directory, or the store cannot be read.
    """
    if is_url(directory):
        return CheckpointList(reading.checkpoints(os.fsdecode(directory), storage_options))
    return CheckpointList(listing.checkpoints(directory))


def checkpoint_at(path: Path, options: Options = None) -> CheckpointInfo:
    """Return what is known about one checkpoint, a file or a snapshot directory.

    Raises:
        LoadError: If there is none at this path.
    """
    if is_url(path):
        return reading.checkpoint_at(os.fsdecode(path), options)
    return listing.checkpoint_at(path)


def verify(path: Path, *, storage_options: Options = None, read: bool = True) -> Verification:
    """Compare a checkpoint with its manifest, byte for byte.

    Args:
        path: A single-file checkpoint or a snapshot directory, or the URL of one.
        storage_options: For a URL: arguments of its fsspec file system.
        read: For a URL: whether every byte is read. If not, the store is asked for lengths and
            checksums, which are compared with what it said when the checkpoint was put.

    Returns:
        The outcome, which is true if and only if the content is what was saved.

    Raises:
        LoadError: If there is nothing at this path, or the store cannot be read.
    """
    if is_url(path):
        return reading.verify(os.fsdecode(path), storage_options, read)
    return local_verify.verify(path)


def verify_all(
    directory: str, names: Collection[str], read: bool, done: Callable[[int], object]
) -> dict[str, Verification]:
    """Compare checkpoints of one directory with their manifests; return the outcomes by path.

    Args:
        directory: Where they are.
        names: Their names.
        read: For a URL: whether every byte is read. If not, a few calls tell of all of them.
        done: Called after each with its length.
    """
    if is_url(directory):
        return reading.verify_all(directory, names=names, read=read, done=done)
    found = {}
    for name in names:
        path = joined(directory, name)
        found[path] = local_verify.verify(path)
        done(found[path].size_bytes)
    return found


def files_of(checkpoint: CheckpointInfo) -> Mapping[str, FileEntry]:
    """Return the sizes and digests of a checkpoint's files; none if it has no manifest."""
    if not checkpoint.has_manifest:
        return {}
    if is_url(checkpoint.path):
        record = reading.record_at(checkpoint.path)
        manifest = None if record is None else record.manifest
    elif checkpoint.is_directory:
        manifest = snapshot_manifest(checkpoint.path)
    else:
        manifest = single_file.manifest_of(checkpoint.path)
    return {} if manifest is None else manifest.files


def local_copy(path: Path, options: Options = None) -> str:
    """Return a local path with the content of a checkpoint; of a store's, what was fetched.

    Raises:
        CorruptError: If what is on the store is not what was saved.
        LoadError: If there is nothing at this URL, or the store cannot be read.
    """
    if is_url(path):
        return reading.local_copy(os.fsdecode(path), options)
    return os.fsdecode(path)


def fetch_to(path: str, directory: str) -> str:
    """Return a local path with the content of a checkpoint; of a store's, in a directory given.

    Raises:
        CorruptError: If it is not what was saved.
        LoadError: If there is nothing at this path, or the store cannot be read.
    """
    if is_url(path):
        return reading.fetch_to(path, directory)
    outcome = local_verify.verify(path)
    if outcome.status == "corrupt":
        raise CorruptError(f"{path!r} is damaged: {outcome.problem}.")
    return path


def plain_copy(path: str) -> str:
    """Return a local path with the bytes of a file, whatever its manifest says."""
    if is_url(path):
        return reading.plain_copy(path)
    return path


@contextlib.contextmanager
def room(path: str) -> Iterator[str]:
    """Yield a directory for what is read from a path, or written to it; of a store's, a new one."""
    if not is_url(path):
        yield os.path.dirname(os.path.abspath(path))
        return
    with reading.scratch(parent(path)) as directory:
        yield directory


@contextlib.contextmanager
def new_file(path: str) -> Iterator[str]:
    """Yield where to write a file that is no checkpoint; it is then put at a URL, if it is one."""
    if not is_url(path):
        yield path
        return
    with room(path) as directory:
        local = os.path.join(directory, split(path)[1])
        yield local
        changing.put_file(local, path)


def exists(path: str) -> bool:
    """Return whether there is something at a path."""
    return reading.exists(path) if is_url(path) else os.path.exists(path)


def is_known(directory: str) -> bool:
    """Return whether checkpoints were ever saved in a directory."""
    if is_url(directory):
        return reading.is_known(directory)
    return os.path.isdir(os.path.join(directory, single_file.METADATA))


def adopt(path: str, manifest: Manifest) -> None:
    """Write a manifest for a plain Keras file; the caller is in a block of `locked`."""
    changing.adopt(path, manifest) if is_url(path) else single_file.adopt(path, manifest)


def is_directory(path: Path, options: Options = None) -> bool:
    """Return whether a path is a directory of checkpoints, rather than one of them."""
    if is_url(path):
        return reading.is_directory(os.fsdecode(path), options)
    return os.path.isdir(path) and not os.path.isfile(os.path.join(path, MANIFEST))


def parent(path: str) -> str:
    """Return the directory of a checkpoint."""
    return split(path)[0] if is_url(path) else os.path.dirname(path)


def joined(directory: str, name: str) -> str:
    """Return the path of a checkpoint in a directory."""
    return f"{directory}/{name}" if is_url(directory) else os.path.join(directory, name)


def set_pin(path: str, pinned: bool) -> None:
    """Protect a checkpoint from retention and prune, or end that."""
    if is_url(path):
        reading.set_pin(path, pinned)
    elif pinned:
        listing.pin(path)
    else:
        listing.unpin(path)


def delete_unless_changed(checkpoint: CheckpointInfo) -> bool:
    """Delete a checkpoint durably, unless its content has changed since it was saved.

    Args:
        checkpoint: The checkpoint; the caller is in a block of `locked`.

    Returns:
        Whether it was deleted.
    """
    if is_url(checkpoint.path):
        return reading.delete_unless_changed(checkpoint)
    return listing.delete_unless_changed(checkpoint)


def locked(directory: str, series: str, what: str) -> contextlib.AbstractContextManager[Any]:
    """Return a block in which nobody else writes checkpoints of a series.

    Raises:
        LockedError: On entering, if somebody does.
    """
    if is_url(directory):
        return reading.lease(directory, series)
    return FileLock(single_file.series_lock_path(directory, series), what)


def events(directory: str, options: Options = None) -> list[dict[str, Any]]:
    """Return the events of a directory's journal, oldest first."""
    if is_url(directory):
        return reading.events(directory, options)
    return list(journal.read(directory))


def note(directory: str, event: str, **fields: Any) -> None:
    """Add an event to a directory's journal; if it cannot be written, do nothing."""
    if is_url(directory):
        changing.note(directory, event, **fields)
    else:
        journal.append(directory, event, **fields)
