"""Where the snapshots of a run are: in its directory, and on the store to which they go."""

from __future__ import annotations

import json
import os
from typing import Any

from keras_ratchet._engine.resume import slice_files
from keras_ratchet._engine.resume.train_state import UNCHANGED, TrainState
from keras_ratchet._engine.resume.unchanged_arrays import read_unchanged
from keras_ratchet._engine.saving.no_mirror import NoMirror
from keras_ratchet._formats.safetensors import read_arrays
from keras_ratchet._storage.snapshot_directory import list_snapshots, snapshot_manifest
from keras_ratchet._warn import warn
from keras_ratchet.errors import LoadError

ARRAYS = "state.safetensors"
DATA = "state.json"
_MAX_DATA_BYTES = 1 << 30


def newest_first(directory: str, mirror: NoMirror, by_file_time: bool = False) -> list[str]:
    """Return the paths of the snapshots, newest first; some may be on the store only.

    Args:
        directory: The local directory.
        mirror: The store.
        by_file_time: Whether the time of a snapshot whose manifest is damaged is that of its
            directory, rather than counting as oldest: it may be the newest one, and then the
            damage must be reported.
    """
    local = dict(list_snapshots(directory))
    found = [
        (info.saved_at, info.position.epoch, info.position.batch, info.path)
        for info in mirror.remote_only(local)
    ]
    for path in local.values():
        try:
            manifest = snapshot_manifest(path)
        except LoadError:
            found.append((os.path.getmtime(path) if by_file_time else 0.0, 0, 0, path))
            continue
        position = manifest.position
        found.append((manifest.saved_at, position.epoch, position.batch, path))
    return [path for *_, path in sorted(found, reverse=True)]


def candidates(directory: str, mirror: NoMirror) -> list[str]:
    """Return the paths of the snapshots to resume from, newest first.

    If the store has a copy of the directory, it is asked only where the directory has none.
    """
    paths = newest_first(directory, mirror, by_file_time=True)
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
