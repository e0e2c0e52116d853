"""Deleting a checkpoint that is still the one we wrote."""

from __future__ import annotations

from keras_ratchet._storage.single_file import delete_file
from keras_ratchet._storage.snapshot_directory import delete_snapshot
from keras_ratchet._storage.verify import verify
from keras_ratchet.types import CheckpointInfo


def delete_unless_changed(snapshot: CheckpointInfo) -> bool:
    """Delete a checkpoint durably, unless somebody has changed it since it was saved.

    Args:
        snapshot: The checkpoint; the caller holds the lock of its series.

    Returns:
        Whether it was deleted.

    Raises:
        OSError: If the disk refuses.
    """
    if not verify(snapshot.path):
        return False
    if snapshot.directory:
        delete_snapshot(snapshot.path)
    else:
        delete_file(snapshot.path)
    return True
