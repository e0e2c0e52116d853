"""The saves of one training: how they are made, and what making room is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras_ratchet._engine.resume.resumer import BeforeValidation, Resumer
from keras_ratchet._engine.saving.file_save import Saved
from keras_ratchet.callbacks._schedule import Pace
from keras_ratchet.errors import SaveError
from keras_ratchet.policy.deadline import Deadline
from keras_ratchet.types import Position, StopReason

if TYPE_CHECKING:
    from keras_ratchet.callbacks.backup_and_restore import BackupAndRestore

_log = logging.getLogger("keras_ratchet")


class Saves:
    """Saves a training, regularly and when it is asked to make room.

    Args:
        head: The callback that the user made.
        model: The model in training.
        resumer: Which captures the state.

    Attributes:
        pace: When saves are due, and how long they take.
        stopping: Whether training was stopped after the epoch that ended last.
    """

    def __init__(self, head: BackupAndRestore, model: Any, resumer: Resumer) -> None:
        self._head = head
        self._model = model
        self._resumer = resumer
        self.pace = Pace(head.batch_trigger, head.interval)
        self.stopping = False

    @property
    def epochs(self) -> int | None:
        """How many epochs are planned, if that is known."""
        epochs = (self._head.params or {}).get("epochs")
        return None if epochs is None else int(epochs)

    def asked(self, step_s: float = 0.0) -> Deadline | None:
        """Return what training has to make room for now, or None; hear of saves that failed."""
        self.collect()
        saves = 2 if self.writing else 1  # the one under way comes first
        return self._head.preemption.due(saves * self.pace.longest_save_s, step_s)

    def make_room(
        self,
        asked: Deadline,
        position: Position,
        logs: Mapping[str, float],
        before: BeforeValidation | None,
    ) -> None:
        """Save if it fits into the time that is left, and ask the loop to end."""
        self.flush()  # where there is no time for another one it is the one that stands
        verdict = asked.check(time.monotonic(), self.pace.longest_save_s)
        if verdict:
            self.save(position, logs, verdict.reason, before=before)
            self.flush()
        kind = "deadline" if asked.cause == "the deadline" else "signal"
        self._head.stop_reason = StopReason(kind, verdict.reason, {}, position.epoch)
        self._head.backups.note("preempted", reason=verdict.reason, epoch=position.epoch)
        _log.warning("%s", verdict.reason)
        self._model.stop_training = True

    def save(
        self,
        position: Position,
        logs: Mapping[str, float],
        reason: str,
        finished: str = "",
        before: BeforeValidation | None = None,
    ) -> None:
        """Save the state of this moment.

        Args:
            position: What is done.
            logs: Of the last step.
            reason: Why, for people.
            finished: How training ended, if it has.
            before: What a running validation has changed.
        """
        backups = self._head.backups
        began = self.pace.begin()
        self.flush()
        # on jax asking the callback for the model brings its variables up to date
        model = self._head.model
        state = self._resumer.capture(model, position, logs, backups.aside(model))
        state.finished = finished
        if before is not None:
            before.put_into(state)
        state.facts |= {
            "epochs": self.epochs,
            "pending": self.pace.pending,
            "stopping": self.stopping,
        }
        blocked_s = self.pace.since(began)
        self._safely(lambda: backups.save(model, state, reason, blocked_s, self._done))
        self.pace.saved(began)
        if finished:
            self.flush()

    def is_due(self, ended: int) -> bool:
        """Say whether to save after a step in which so many batches ended."""
        verdict = self.pace.check(ended)
        if verdict and self._head.skip_if_busy and self.writing:
            self._head.backups.note("skip", reason="the save before is still being written")
            return False
        return bool(verdict)

    @property
    def writing(self) -> bool:
        """Whether a save is being written beside training."""
        return self._head.backups.writer.busy

    def collect(self) -> None:
        """Take note of a save that has ended beside training.

        Raises:
            SaveError: If it has failed.
        """
        self._safely(self._head.backups.writer.collect)

    def flush(self) -> None:
        """Wait for the save that is under way, and take note of it."""
        self._safely(self._head.backups.writer.wait)

    def _done(self, saved: Saved) -> None:
        if saved.error is not None:
            raise saved.error
        if saved:
            self.pace.persisted(saved.seconds)

    def _safely(self, action: Callable[[], None]) -> None:
        """Do something; if it finds that a save has failed, let all do their last work."""
        try:
            action()
        except SaveError as error:
            self._head.fail(error)
