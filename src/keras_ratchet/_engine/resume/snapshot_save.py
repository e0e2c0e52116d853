"""One save of a snapshot, from the moment at which the state was captured until it is committed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from keras_ratchet._engine.resume import slice_files
from keras_ratchet._engine.resume.snapshot_paths import ARRAYS, DATA
from keras_ratchet._engine.resume.train_state import UNCHANGED, TrainState
from keras_ratchet._engine.resume.unchanged_arrays import UnchangedArrays
from keras_ratchet._engine.saving.background import Job
from keras_ratchet._formats.safetensors import write_arrays
from keras_ratchet._storage import space
from keras_ratchet._storage.atomic import HashingFile
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet._storage.snapshot_directory import SnapshotDraft


@dataclass(frozen=True, slots=True)
class SnapshotSave:
    """A save.

    Attributes:
        state: The state; it does not change any more.
        manifest: The manifest without its files.
        earlier: Saves that have to succeed, since the state refers to them.
        started_s: When the save began, by `time.perf_counter`.
        blocked_s: How long training has waited for it.
        draft: Into which the ranks have written slices already, if they have.
    """

    state: TrainState
    manifest: Manifest
    earlier: list[Job]
    started_s: float
    blocked_s: float
    draft: SnapshotDraft | None = None

    def write(
        self, directory: str, name: str, unchanged: UnchangedArrays, ranks: Any
    ) -> tuple[Manifest, int]:
        """Write and commit the snapshot.

        Args:
            directory: Where snapshots are.
            name: Its name.
            unchanged: What the snapshots share.
            ranks: The coordinator.

        Returns:
            Its manifest, and how many of its bytes an older snapshot has had.

        Raises:
            OSError: If the disk refuses; then there is no such snapshot.
        """
        try:
            return self._write(directory, name, unchanged, ranks)
        finally:
            unchanged.release()

    def _write(
        self, directory: str, name: str, unchanged: UnchangedArrays, ranks: Any
    ) -> tuple[Manifest, int]:
        state = self.state
        with self.draft or SnapshotDraft(directory, name) as draft:
            data, arrays = state.pack()
            plan = unchanged.plan(arrays, state.candidates, state.unchanged)
            space.require(directory, plan.size_bytes)
            if plan.unchanged:
                data = {**data, UNCHANGED: dict(plan.unchanged)}
            text = json.dumps(data, allow_nan=False).encode()
            plan.write(draft)
            draft.write(ARRAYS, lambda file: write_arrays(plan.written, file))
            draft.write(DATA, lambda file: _put(file, text))
            if state.slices:
                slice_files.complete(draft, state.slices, ranks)
            manifest = draft.commit(self.manifest)
        unchanged.committed(plan, draft.target, manifest.files)
        return manifest, plan.reused_bytes


def _put(file: HashingFile, text: bytes) -> None:
    file.write(text)
