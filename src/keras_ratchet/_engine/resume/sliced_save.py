"""A save of weights that are split: all ranks write into one draft, and rank 0 commits it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_ratchet import _backends
from keras_ratchet._distributed.one import One
from keras_ratchet._engine.capture.best_weights import weights_of
from keras_ratchet._engine.resume.slice_files import write_fragment
from keras_ratchet._engine.resume.train_state import TrainState
from keras_ratchet._engine.saving.background import Job, Saved, start_job
from keras_ratchet._storage.snapshot_directory import SnapshotDraft
from keras_ratchet.types import Model

_log = logging.getLogger("keras_ratchet")


@dataclass(frozen=True, slots=True)
class Opened:
    """What rank 0 tells the others when it has made a draft.

    Attributes:
        path: The draft.
        background: Whether it is written in the background.
    """

    path: str
    background: bool


def has_split(model: Model) -> bool:
    """Return whether a variable of the model is split over processes."""
    is_split = _backends.current().is_split
    return any(is_split(variable) for variable in weights_of(model) or ())


class SlicedSave:
    """This rank's part in such saves, one after the other.

    Attributes:
        ranks: The coordinator.
        draft: On rank 0, the draft of the save that begins.
    """

    def __init__(self) -> None:
        self.ranks: Any = One()
        self.draft: SnapshotDraft | None = None
        self._job: Job | None = None

    def begin(
        self,
        open_draft: Callable[[Model, TrainState], Opened | Saved],
        model: Model,
        state: TrainState,
    ) -> Saved | None:
        """Have rank 0 make a draft, and the others write their slices into it.

        Args:
            open_draft: Makes it on rank 0; returns on all ranks where it is, or why it is not.
            model: The model.
            state: What is saved.

        Returns:
            The outcome of the save, if it has failed already.
        """
        if self._job is not None:
            self._job.wait()
            self._job = None
        opened = open_draft(model, state)
        if isinstance(opened, Saved):
            return opened
        if self.ranks.rank == 0:
            return None
        if opened.background:
            self._job = start_job(lambda: self._write(opened.path, state), model)
        elif not (saved := self._write(opened.path, state)):
            _log.error("rank %d could not write its slices: %s", self.ranks.rank, saved)
        return None

    def _write(self, path: str, state: TrainState) -> Saved:
        try:
            write_fragment(path, self.ranks.rank, state.slices)
        except OSError as error:
            return Saved(path, error=error)
        return Saved(path, committed=True)

    def take_draft(self) -> SnapshotDraft | None:
        """Return the draft, once."""
        draft, self.draft = self.draft, None
        return draft
