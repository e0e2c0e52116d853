"""Callbacks that BackupAndRestore adds to a list: one stands last, two stand alone for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_ratchet._engine.resume.resumer import Resumer
from keras_ratchet._keras import fit
from keras_ratchet._keras.callbacks import without_callbacks
from keras_ratchet._keras.fit import step_result
from keras_ratchet.callbacks._agreement import leave_list
from keras_ratchet.callbacks._journal import note_resume
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.callbacks._nothing_left import warn_of_error, warn_of_metrics
from keras_ratchet.callbacks._session import Session
from keras_ratchet.errors import ResumeError
from keras_ratchet.types import CallbackList, Model


class LastInList(keras.callbacks.Callback):
    """Stands last, for the whole run: tells the session what all other callbacks are done with.

    Args:
        open_session: Returns the session of a run that starts.
        per_batch: Whether the ends of batches matter.
        in_validation: Whether validation matters too.
        has_closed: Called when the session is over.

    Attributes:
        callback_list: The list that it stands in.
        session: The session of the run, if one is running.
        place: Where it stands in the list, for `_agreement`.
    """

    place = "last"

    def __init__(
        self,
        open_session: Callable[[], Session],
        per_batch: bool,
        in_validation: bool,
        has_closed: Callable[[], None],
    ) -> None:
        super().__init__()
        self.callback_list: Any = None
        self.session: Session | None = None
        self._open_session = open_session
        self.has_closed = has_closed
        if per_batch:
            self.on_train_batch_end = self._end_batch
        if in_validation:
            self.on_test_begin = self._start_validation
            self.on_test_batch_end = self._end_validation_batch

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, without what belongs to a run."""
        return {**vars(self), "callback_list": None, "session": None}

    def start(self) -> None:
        """Open a session and resume; all other callbacks have started."""
        self.session = self._open_session()
        self.session.resume()
        self._tell_of_resume(self.session)

    def _tell_of_resume(self, session: Session) -> None:
        resumer, state = session.resumer, session.resumer.state
        if state is None:
            return
        at = {"epoch": state.position.epoch, "batch": state.position.batch}
        note_resume(self.callback_list, resumer.store, name=resumer.name, **at)
        if session.is_over:
            warn_of_error(resumer.store, state.position.epoch, session.epochs)
            warn_of_metrics(resumer, self.model)

    def close(self) -> None:
        """Close the session, if there is one; it holds the model and the data."""
        session, self.session = self.session, None
        if session is not None:
            session.close()

    def on_train_begin(self, logs: Any = None) -> None:
        """Resume: all other callbacks have reset themselves."""
        self.start()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Restore a state of mid-epoch, now that Keras has reset the metrics."""
        session = self._running()
        if session.start_epoch():
            SkipBatches(self.model, self.callback_list, session.resumer)

    def _end_batch(self, batch: int, logs: Any = None) -> None:
        self._end_if(self._running().end_batch(batch, metrics_of(logs)))

    def _start_validation(self, logs: Any = None) -> None:
        self._running().start_validation()

    def _end_validation_batch(self, batch: int, logs: Any = None) -> None:
        self._end_if(self._running().end_validation_batch())

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save: all other callbacks have seen the epoch."""
        others = list(self.callback_list.callbacks) if self.callback_list else []
        self._end_if(self._running().end_epoch(epoch, metrics_of(logs)))
        for callback in others:
            if hook := getattr(callback, "on_epoch_saved", None):
                hook(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """End the session: all other callbacks have ended."""
        try:
            self._running().end(metrics_of(logs))
        finally:
            self.close()
        self.has_closed()

    def _end_if(self, is_due: bool) -> None:
        if is_due:
            EndFit(self.model, self)

    def _running(self) -> Session:
        assert self.session is not None
        return self.session


class EndFit(keras.callbacks.Callback):
    """Stands alone in the list after a signal or at a deadline, until `fit` has returned.

    It keeps the epoch that was cut short out of History and out of the other callbacks' decisions.
    If `fit` starts a validation all the same, it ends that after one batch. Then the other
    callbacks end.

    Args:
        model: The model in training.
        last: What was last in the list.
    """

    def __init__(self, model: Model, last: LastInList) -> None:
        super().__init__()
        self.set_model(model)
        self._last = last
        leave_list(last.callback_list)
        head, *others = (c for c in last.callback_list.callbacks if c is not last)
        self._others = [*others, head]  # ours gives its lock and signals back after all others
        self._undo = without_callbacks(last.callback_list, [self])
        model.stop_evaluating = True

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """End the validation."""
        self.model.stop_evaluating = True

    def on_train_end(self, logs: Any = None) -> None:
        """End the others, close the session, and exit if the user asked for it."""
        self._undo()
        exit_code = None if self._last.session is None else self._last.session.exit_code
        try:
            for callback in self._others:
                callback.on_train_end(logs)
        finally:
            self._last.close()
        self._last.has_closed()
        if exit_code is not None:
            raise SystemExit(exit_code)


class SkipBatches(keras.callbacks.Callback):
    """Stands alone in the list while a resumed epoch's first batches are skipped.

    Args:
        model: The model in training.
        callback_list: The list.
        resumer: Whose state says how many batches to skip.
    """

    def __init__(self, model: Model, callback_list: CallbackList, resumer: Resumer) -> None:
        super().__init__()
        self._is_done = False
        self._resumer = resumer
        self._others = list(callback_list.callbacks)
        self._undo = without_callbacks(callback_list, [self])
        state = resumer.state
        assert state is not None
        skip_steps(model, state.position.batch, state.logs, self._last_was_drawn)

    def _last_was_drawn(self) -> None:
        self._is_done = not self._resumer.in_validation
        if self._is_done:
            self._resumer.restore_streams()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Restore the other callbacks after the last skipped batch."""
        if self._is_done:
            self._undo()

    def on_test_begin(self, logs: Any = None) -> None:
        """Restore the other callbacks if the validation was interrupted."""
        self._undo()
        self._resumer.restore_streams()
        for callback in self._others:
            callback.on_test_begin(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Raise: the epoch is over, and the place of the snapshot was not reached.

        Raises:
            ResumeError: The data has become shorter, or the validation is gone.
        """
        state = self._resumer.state
        assert state is not None
        self._undo()
        place = f"{state.position.batch} batches"
        if self._resumer.in_validation:
            place += " and the start of the validation"
        raise ResumeError(
            f"Epoch {epoch + 1} ended before the position of the snapshot was reached: "
            f"{place}. Nothing was trained. Pass `fit` the same data and validation data as "
            f"before, or delete {self._resumer.store.shown_directory!r}.",
            see="data-position",
        )


def skip_steps(
    model: Model, batches: int, logs: Mapping[str, float], at_end: Callable[[], None]
) -> None:
    """Make `fit` draw the first batches of an epoch without training on them.

    Args:
        model: The model, whose `train_function` is replaced meanwhile.
        batches: How many.
        logs: What each of these steps returns.
        at_end: Called when the last one has been drawn.
    """
    original = model.train_function
    done = 0

    def skip(*arguments: Any) -> Any:
        nonlocal done
        done += fit.draw(model, arguments)
        if done >= batches:
            model.train_function = original
            at_end()
        return step_result(arguments, dict(logs))

    model.train_function = skip
