"""Callbacks of ours that stand in the list beside the one that the user made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from keras_ratchet._engine.resume.resumer import Resumer, skipping
from keras_ratchet._keras.callback_list import without_callbacks
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.errors import ResumeError

if TYPE_CHECKING:
    from keras_ratchet.callbacks.backup_and_restore import BackupAndRestore


class Tail(keras.callbacks.Callback):
    """The last of the list: hands on the moments when all other callbacks are done with them.

    Args:
        head: The callback that the user made, which stands first in the list.
        per_batch: Whether the ends of batches matter.
        in_validation: Whether validation matters too.
    """

    def __init__(self, head: BackupAndRestore, per_batch: bool, in_validation: bool) -> None:
        super().__init__()
        self._head = head
        if per_batch:
            self.on_train_batch_end = self._batch_has_ended
        if in_validation:
            self.on_test_begin = self._validation_begins
            self.on_test_batch_end = self._validation_batch_has_ended

    def on_train_begin(self, logs: Any = None) -> None:
        """All other callbacks have reset themselves: resume."""
        self._head.begin_session()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Keras has reset the metrics: in mid-epoch, put them back and skip."""
        self._head.session.epoch_has_begun()

    def _batch_has_ended(self, batch: int, logs: Any = None) -> None:
        self._head.session.batch_has_ended(batch, metrics_of(logs))

    def _validation_begins(self, logs: Any = None) -> None:
        self._head.session.validation_begins()

    def _validation_batch_has_ended(self, batch: int, logs: Any = None) -> None:
        self._head.session.validation_batch_has_ended()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """All other callbacks have judged the epoch: save."""
        self._head.session.epoch_has_ended(epoch, metrics_of(logs))

    def on_train_end(self, logs: Any = None) -> None:
        """All other callbacks have done their last work."""
        self._head.end_session(metrics_of(logs))


class Gate(keras.callbacks.Callback):
    """Stands alone in the list while batches are skipped, then lets the others in again.

    Args:
        model: The model in training.
        callback_list: The list.
        resumer: Whose state says how many batches to skip.
    """

    def __init__(self, model: Any, callback_list: Any, resumer: Resumer) -> None:
        super().__init__()
        self._open = False
        self._resumer = resumer
        self._others = list(callback_list.callbacks)
        self._undo = without_callbacks(callback_list, [self])
        state = resumer.state
        assert state is not None
        skipping(model, state.position.batch, state.logs, self._last_was_drawn)

    def _last_was_drawn(self) -> None:
        self._open = not self._resumer.in_validation
        if self._open:
            self._resumer.go_on_in_epoch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Let the others in after the last skipped batch."""
        if self._open:
            self._undo()

    def on_test_begin(self, logs: Any = None) -> None:
        """Let the others in if it was the validation that was cut."""
        self._undo()
        self._resumer.go_on_in_epoch()
        for callback in self._others:
            callback.on_test_begin(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Refuse: the epoch is over, and the place of the snapshot was not reached.

        Raises:
            ResumeError: The data has become shorter, or the validation is gone.
        """
        state = self._resumer.state
        assert state is not None
        self._undo()
        place = f"{state.position.batch} batches"
        if self._resumer.in_validation:
            place += " and the begin of the validation"
        raise ResumeError(
            f"Epoch {epoch + 1} has ended before the place of the snapshot was reached: {place}. "
            f"Nothing was trained on. Give `fit` the data and the validation that it had, or "
            f"delete {self._resumer.backups.directory!r}."
        )


class Closer(keras.callbacks.Callback):
    """Stands alone in the list from a preemption on: `fit` is to end, and quickly.

    The epoch that was cut is kept out of History and of the other callbacks' decisions, and the
    validation that `fit` starts all the same ends after one batch. Then the others do their last
    work.

    Args:
        model: The model in training.
        callback_list: The list.
        others: The callbacks that still have to end.
        head: The callback that the user made.
    """

    def __init__(
        self, model: Any, callback_list: Any, others: list[Any], head: BackupAndRestore
    ) -> None:
        super().__init__()
        self.set_model(model)
        self._others = others
        self._head = head
        self._undo = without_callbacks(callback_list, [self])
        model.stop_evaluating = True

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """End the validation."""
        self._model.stop_evaluating = True

    def on_train_end(self, logs: Any = None) -> None:
        """Let the others end, then leave as the user asked for."""
        self._undo()
        for callback in self._others:
            callback.on_train_end(logs)
        self._head.leave()
