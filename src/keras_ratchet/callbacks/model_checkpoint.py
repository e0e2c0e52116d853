"""Save the model while it trains, into files that cannot be torn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from keras_ratchet import _compat
from keras_ratchet._engine.checkpointer import Checkpointer
from keras_ratchet._engine.series import Series
from keras_ratchet.callbacks._base import abandon
from keras_ratchet.callbacks._checkpoint_args import check_filepath, check_monitors, retention_of
from keras_ratchet.callbacks._moments import batches_ended, end_of_epoch, metrics_of
from keras_ratchet.callbacks.monitor_callback import MonitorCallback
from keras_ratchet.errors import SaveError, UnknownDirectionError
from keras_ratchet.policy.monitor import one_of
from keras_ratchet.policy.retention import Ranking, Retention, Ties, combined
from keras_ratchet.policy.trigger import EveryBatches
from keras_ratchet.types import Moment, Position

OnSaveError = Literal["raise", "warn"]


class ModelCheckpoint(MonitorCallback):
    """Save the model or its weights at the end of epochs or every so many batches.

    Takes every argument of `keras.callbacks.ModelCheckpoint`, in its place and with its
    meaning; files are plain Keras files. Every save is atomic and durable: a crash, a full disk
    or a power cut leaves the older file whole. Each file has a manifest in `.ratchet/` beside
    it, with its digest, its metrics and the reason why it was saved. docs/differences.md lists
    where the two differ on purpose.

    Args:
        filepath: The file; `.keras` or `.h5` for the whole model, `.weights.h5` for weights.
            Placeholders are `{epoch}` and `{batch}` (from 1) and every metric in the logs; one
            that is absent prints as `nan`.
        monitor: Key of the metric that decides what is best; or several, of which the later
            ones decide ties: `("val_accuracy", "val_loss")`.
        verbose: 1 prints a line for each decision.
        save_best_only: Whether to save only when the metric is better than ever before, in this
            run or in those whose files are in place.
        save_weights_only: Whether to save weights only; `filepath` then ends in `.weights.h5`.
        mode: "min", "max" or "auto"; or one for each metric of `monitor`.
        save_freq: "epoch", or a number of batches. The metrics of a batch are running means.
        initial_value_threshold: A value that the metric has to beat before the first save.
        keep_best: Keep the files of this many best moments.
        keep_last: Keep this many newest files.
        keep_every: Keep the files of every so many epochs, for ever.
        keep_for_s: Keep files that are not older than this many seconds.
        retention: A rule made of `KeepBest`, `KeepLast`, `KeepEvery` and `KeepNewer`, combined
            with `|`, or one of your own, in place of the `keep_*` arguments.
        save_at_end: Whether to save once more when training ends, if its last state has not been
            saved; also after Ctrl-C, and after any exception inside `keras_ratchet.guard`.
        ties: Which of two equally good moments is the better one, the "earlier" or the "later".
        fresh: Whether to start anew at each `fit`: a worse model may replace a better file.
        on_save_error: "raise" a failed save as SaveError (after the best weights were restored),
            or "warn" once for each kind of failure and try again at the next save.

    Attributes:
        best: The metric of the best save, or None.

    Raises:
        ConfigError: If an argument cannot work.
        SaveError: At train begin if nothing can be written there; later if a save fails.
        LockedError: At train begin if another process saves under the same path.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str | tuple[str, ...] = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str | tuple[str, ...] = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        keep_best: int | None = None,
        keep_last: int | None = None,
        keep_every: int | None = None,
        keep_for_s: float | None = None,
        retention: Retention | None = None,
        save_at_end: bool = False,
        ties: Ties = "earlier",
        fresh: bool = False,
        on_save_error: OnSaveError = "raise",
    ) -> None:
        names, modes = check_monitors(monitor, mode)
        self.filepath = os.fspath(filepath)
        check_filepath(self.filepath, save_weights_only)
        kept = combined(keep_best, keep_last, keep_every, keep_for_s)
        rule = retention_of(self.filepath, save_best_only, save_at_end, retention, kept)
        one_of("on_save_error", on_save_error, get_args(OnSaveError))
        self._saves = Checkpointer(
            Series(self.filepath, rule, Ranking((), ties), whole=not save_weights_only),
            best_only=save_best_only,
            warn_only=on_save_error == "warn",
            say=self._say,
        )
        super().__init__(names[0], modes[0], initial_value_threshold)
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self.initial_value_threshold = initial_value_threshold
        self.save_at_end = save_at_end
        self.ties: Ties = ties
        self.fresh = fresh
        self._tie_breakers = tuple(zip(names[1:], modes[1:], strict=True))
        self._needs_order = save_best_only or keep_best is not None or retention is not None
        self._settled = False
        self._pending = 0
        self._current_epoch = 0
        self._last_batch_seen: int | None = None
        self._unsaved: Moment | None = None
        if save_freq != "epoch":
            self._every = EveryBatches(save_freq)  # type: ignore[arg-type]  # it checks
        elif type(self).on_train_batch_end is ModelCheckpoint.on_train_batch_end:
            idle = super().on_train_batch_end  # which lets the list stay asynchronous
            self.on_train_batch_end = idle  # type: ignore[method-assign]

    @property
    def best(self) -> float | None:
        """The metric of the best save, or None."""
        return self._saves.best

    @best.setter
    def best(self, value: float | None) -> None:
        self._saves.best = value

    def set_model(self, model: Any) -> None:
        """Note the model, and have batch hooks called on the training thread."""
        super().set_model(model)
        if self.save_freq != "epoch" and self._list is not None:
            _compat.make_synchronous(self._list)

    def on_train_begin(self, logs: Any = None) -> None:
        """Find out now, not after the first epoch, whether saving can work."""
        super().on_train_begin(logs)
        self._saves.series.begin(self._model)
        self._pending, self._last_batch_seen = 0, None
        self._unsaved, self._settled = None, False
        if self.fresh:
            self._saves.forget(self.initial_value_threshold)
        names = [self.monitor, *(name for name, _ in self._tie_breakers)]
        if self.mode != "auto" or _compat.metrics_are_known(self._model, names):
            self._settle()
        self._saves.series.note("begin", epochs=(self.params or {}).get("epochs"))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch."""
        super().on_epoch_begin(epoch, logs)
        self._current_epoch, self._last_batch_seen = epoch, None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save, if epochs are what it goes by."""
        if self._epoch_is_partial():
            self._raise_if_interrupted()
        moment = end_of_epoch(epoch, metrics_of(logs))
        self._saves.series.note("epoch", epoch=epoch + 1, metrics=dict(moment.metrics))
        self._unsaved = moment
        if self.save_freq == "epoch":
            self._consider(moment, f"epoch {epoch + 1} has ended")

    def on_train_end(self, logs: Any = None) -> None:
        """Save once more if asked for, and let others write here again."""
        self._finish("training has ended")
        super().on_train_end(logs)

    def _wind_down(self, error: BaseException) -> None:
        self._finish(f"training was ended by {type(error).__name__}")

    def _finish(self, reason: str) -> None:
        self._saves.series.note_stops(getattr(self._list, "callbacks", ()))
        try:
            if self.save_at_end and self._unsaved is not None:
                self._consider(replace(self._unsaved, metrics={}), reason, last=True)
        finally:
            self._saves.series.note("end", reason=reason)
            self._saves.series.end()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save, if enough batches are done; `batch` is the index of the last one that ended."""
        if self.save_freq == "epoch":
            return
        ended, self._last_batch_seen = batches_ended(self._last_batch_seen, batch), batch
        self._pending, verdict = self._every.check(self._pending, ended)
        position = Position(self._current_epoch, batch + 1)
        self._unsaved = Moment(position, {}, end_of_epoch=False)
        if verdict:
            self._consider(replace(self._unsaved, metrics=metrics_of(logs)), verdict.reason)

    def _consider(self, moment: Moment, reason: str, last: bool = False) -> None:
        if not self._settled:
            self._settle()
        try:
            if self._saves.consider(self.model, moment, self._swap(), reason, last):
                self._unsaved = None
        except SaveError as error:
            abandon(getattr(self._list, "callbacks", []), error)
            raise

    def _settle(self) -> None:
        """Settle the order of the metrics; unless it is needed, an unknown one is no error."""
        self._settled = True
        try:
            self._set_monitor_op()
        except UnknownDirectionError:
            if self._needs_order:
                raise
            return
        pairs = [(self.monitor, self._rule.mode)]
        pairs += [(name, self._direction(name, mode)) for name, mode in self._tie_breakers]
        self._saves.settle(Ranking(tuple(pairs), self.ties), self.fresh)

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart must not forget."""
        return {**self._saves.state_dict(), "pending": self._pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; training has begun."""
        self._saves.load_state_dict(state)
        self._pending = state["pending"]

    def _say(self, message: str) -> None:
        if self.verbose > 0:
            _compat.print_message(f"\nEpoch {self._current_epoch + 1}: {message}")
