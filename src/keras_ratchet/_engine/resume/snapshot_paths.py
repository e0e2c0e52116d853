"""Where the snapshots of a run are: in its directory, and on the store to which they go."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection
from typing import Any

from keras_ratchet._engine.resume import slice_files
from keras_ratchet._engine.resume.train_state import UNCHANGED, TrainState
from keras_ratchet._engine.resume.unchanged_arrays import read_unchanged
from keras_ratchet._engine.saving.no_mirror import NoMirror
from keras_ratchet._formats.safetensors import read_arrays
from keras_ratchet._storage.listing import described
from keras_ratchet._storage.snapshot_directory import list_snapshots, snapshot_manifest
from keras_ratchet._warn import warn
from keras_ratchet.errors import LoadError
from keras_ratchet.policy.retention import age
from keras_ratchet.types import CheckpointInfo

ARRAYS = "state.safetensors"
DATA = "state.json"
_MAX_DATA_BYTES = 1 << 30


def newest_first(
    directory: str, mirror: NoMirror, branch: str | None = None, by_file_time: bool = False
) -> list[str]:
    """Return the paths of the snapshots, newest first; some may be on the store only.

    Args:
        directory: The local directory.
        mirror: The store.
        branch: Of which branch they are; None for all.
        by_file_time: Whether the time of a snapshot whose manifest is damaged is that of its
            directory, rather than counting as oldest: it may be the newest one, and then the
            damage must be reported.
    """
    local = dict(list_snapshots(directory))
    found = [
        (info.saved_at, info.position.epoch, info.position.batch, info.path)
        for info in mirror.remote_only(local)
        if branch in (None, info.run)
    ]
    for path in local.values():
        try:
            manifest = snapshot_manifest(path)
        except LoadError:
            if by_file_time or not branch:  # else it may be of another branch
                found.append((os.path.getmtime(path) if by_file_time else 0.0, 0, 0, path))
            continue
        if branch not in (None, manifest.run):
            continue
        position = manifest.position
        found.append((manifest.saved_at, position.epoch, position.batch, path))
    return [path for *_, path in sorted(found, reverse=True)]


def infos(directory: str, mirror: NoMirror) -> list[CheckpointInfo]:
    """Return what is known about the snapshots of all branches, oldest first.

    Args:
        directory: The local directory.
        mirror: The store.
    """
    local = dict(list_snapshots(directory))
    found = []
    for path in local.values():
        with contextlib.suppress(LoadError):
            found.append(described(path, snapshot_manifest(path)))
    return sorted([*found, *mirror.remote_only(local)], key=age)


def unreadable(directory: str) -> list[str]:
    """Return the paths of the snapshots whose manifests cannot be read."""
    found = []
    for _, path in list_snapshots(directory):
        try:
            snapshot_manifest(path)
        except LoadError:
            found.append(path)
    return found


def others(directory: str, mirror: NoMirror, own: Collection[str]) -> list[str]:
    """Return the names of all snapshots but some, those whose manifests cannot be read included.

    Args:
        directory: The local directory.
        mirror: The store.
        own: The paths of those that are left out.
    """
    paths = [*(info.path for info in infos(directory, mirror)), *unreadable(directory)]
    return [os.path.basename(path) for path in paths if path not in own]


def candidates(directory: str, mirror: NoMirror, branch: str | None) -> list[str]:
    """Return the paths of the snapshots of a branch to resume from, newest first.

    If the store has a copy of the directory, it is asked only where the directory has none.
    """
    paths = newest_first(directory, mirror, branch, by_file_time=True)
    local = [path for path in paths if os.path.exists(path)]
    if mirror.is_cache or not local:
        return paths
    if local[0] != paths[0]:
        warn(
            f"{mirror.url} has a newer snapshot, {os.path.basename(paths[0])}, than {directory}, "
            "which counts. To resume from the store, give its URL as the directory."
        )
    return local


def read_state(path: str, rank: int = 0) -> TrainState:
    """Return the state in a snapshot that verifies, for one of the ranks."""
    with open(os.path.join(path, DATA), "rb") as file:
        text = file.read(_MAX_DATA_BYTES)
    data = json.loads(text)
    arrays: dict[str, Any] = {
        **read_arrays(os.path.join(path, ARRAYS)),
        **slice_files.read_slices(path),
        **read_unchanged(path, data.get(UNCHANGED, {})),
    }
    return TrainState.unpack(data, arrays, rank)
