"""A directory that one run saves to: its lock and its journal, for both kinds of stores."""

from __future__ import annotations

import os
from typing import Any

from keras_ratchet._engine.saving.background import Saved
from keras_ratchet._engine.saving.model_file import save_error
from keras_ratchet._storage import disk, journal, single_file
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._warn import warn


class LockedDirectory:
    """The lock and the journal of a series of checkpoints in a directory.

    Args:
        path: The directory, absolute.
        series: Name of the series; "" for snapshots.
        what: What is locked, for messages.
    """

    def __init__(self, path: str, series: str, what: str) -> None:
        self.path = path
        self._series = series
        self._what = what
        self._lock: FileLock | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, which do not hold the lock."""
        return {**vars(self), "_lock": None}

    @property
    def locked(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock is not None

    def lock(self) -> None:
        """Take the lock, unless this object holds it.

        Raises:
            LockedError: If another process saves there.
        """
        if self._lock is None:
            lock = FileLock(single_file.series_lock_path(self.path, self._series), self._what)
            lock.acquire()
            self._lock = lock

    def unlock(self) -> None:
        """Release the lock, if this object holds it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def remove(self) -> None:
        """Delete journal and lock of a directory of snapshots, and the directory if it is empty."""
        metadata = os.path.join(self.path, single_file.METADATA)
        for name in (journal.NAME, single_file.REPORTED, single_file.BACKUP_LOCK):
            disk.discard(os.path.join(metadata, name))
        disk.remove_empty(metadata)
        disk.remove_empty(self.path)

    def restore(self) -> None:
        """Make the directory again, with a warning, if it was deleted during the run."""
        if self._lock is not None and self._lock.renew():
            warn(
                f"{self.path!r} was deleted during training. It is created again; what was saved "
                "there before is lost."
            )

    def note(self, event: str, **fields: Any) -> None:
        """Add a line to the journal."""
        series = {"series": self._series} if self._series else {}
        journal.append(self.path, event, **series, **fields)

    def note_saved(
        self, name: str, manifest: Manifest, blocked_s: float, written_s: float, **more: Any
    ) -> None:
        """Add a line about a checkpoint to the journal.

        Args:
            name: Name of the checkpoint.
            manifest: Its manifest.
            blocked_s: How long training waited for it.
            written_s: How long it took until it was on the disk.
            **more: Further fields.
        """
        self.note(
            "save",
            name=name,
            reason=manifest.reason,
            epoch=manifest.position.epoch,
            batch=manifest.position.batch,
            **more,
            bytes=sum(entry.size_bytes for entry in manifest.files.values()),
            blocked_s=round(blocked_s, 4),
            written_s=round(written_s, 4),
        )

    def failed(self, path: str, error: OSError) -> Saved:
        """Add a failed save to the journal; return that outcome."""
        self.note("save_error", name=os.path.basename(path), problem=str(error))
        return Saved(path, error=save_error(error, path))
