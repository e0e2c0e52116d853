"""What saves a model at the moments that a ModelCheckpoint hands on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from keras_ratchet._engine.saving.checkpointer import Checkpointer
from keras_ratchet._engine.saving.lineage import run_of
from keras_ratchet._keras.callbacks import print_message
from keras_ratchet._keras.fit import initial_epoch
from keras_ratchet.callbacks._logs import batches_ended, moment_of
from keras_ratchet.callbacks._schedule import Schedule
from keras_ratchet.callbacks.base import abandon
from keras_ratchet.callbacks.monitor_callback import MonitorCallback
from keras_ratchet.errors import SaveError, UnknownDirectionError
from keras_ratchet.policy.retention import Ranking, Ties
from keras_ratchet.types import Moment

T = TypeVar("T")


class SavingCallback(MonitorCallback):
    """Considers saves, and finishes them when training ends."""

    _saves: Checkpointer
    _pace: Schedule
    _tie_breakers: tuple[tuple[str, str], ...]
    _needs_order: bool
    _settled: bool
    _begun: bool
    initial_value_threshold: float | None
    _unsaved: Moment | None
    _current_epoch: int
    _last_batch_seen: int | None
    _reason: str = "a batch ended"
    save_at_end: bool
    fresh: bool | None
    ties: Ties
    verbose: int

    @property
    def best(self) -> float | None:
        """The metric of the best save, or None."""
        return self._saves.best

    @best.setter
    def best(self, value: float | None) -> None:
        self._saves.best = value

    def flush(self) -> None:
        """Wait until all saves are on the disk.

        Raises:
            SaveError: If one has failed.
        """
        self._safely(self._saves.flush)

    def _begin_run(self) -> None:
        """Find out whether this is a new run or goes on from an earlier one."""
        if self.fresh:
            self._saves.forget(self.initial_value_threshold)
        first = initial_epoch(self._model)
        self._saves.begin(self._model, run_of(self._list), self.fresh, first)
        self._begun = False

    def _first_epoch(self, epoch: int) -> None:
        """Take note of the first epoch of this run, once."""
        if not self._begun:
            self._begun = True
            self._saves.first_epoch(self._model, epoch, self.fresh)

    def _release_lock(self) -> bool:
        """Let others write here after a `fit` that has ended by an exception; say if they may."""
        series = self._saves.series
        if not series.writer.busy:
            series.end()
        return not series.writer.busy

    def _wind_down(self, error: BaseException) -> None:
        self._finish(f"training ended with {type(error).__name__}")

    def _finish(self, reason: str) -> None:
        self._saves.series.note_stops(getattr(self._list, "callbacks", ()))
        try:
            self.flush()
            unsaved = self._unsaved or self._saves.lost
            if self.save_at_end and unsaved is not None:
                self._consider(replace(unsaved, metrics={}), reason, last=True)
                self.flush()
        finally:
            self._saves.series.note("end", reason=reason)
            self._saves.series.end()

    # These three are what subclasses of Keras's class override and call.

    def _should_save_on_batch(self, batch: int) -> bool:
        """Say, once after each step, whether to save; `batch` is the index of its last one."""
        if not self._pace.per_batch:
            return False
        self._safely(self._saves.collect)
        self._pace.step(self._saves.series.writer.busy)
        self._pace.persisted(self._saves.seconds)
        ended, self._last_batch_seen = batches_ended(self._last_batch_seen, batch), batch
        verdict = self._pace.check(ended)
        self._unsaved = moment_of(self._current_epoch, batch, None)
        self._reason = verdict.reason
        return bool(verdict)

    def _save_model(self, epoch: int, batch: int | None, logs: Any) -> None:
        """Save, if the moment is worth it: the end of an epoch (index from 0), or of a batch."""
        reason = f"epoch {epoch + 1} ended" if batch is None else self._reason
        self._consider(moment_of(epoch, batch, logs), reason)

    def _get_file_path(self, epoch: int, batch: int | None, logs: Any) -> str:
        """Return the file that a moment is saved to."""
        return self._saves.path_of(moment_of(epoch, batch, logs))

    def _consider(self, moment: Moment, reason: str, last: bool = False) -> None:
        self._first_epoch(self._current_epoch)
        if not self._settled:
            self._settle()
        began = self._pace.begin()
        saved = self._safely(
            lambda: self._saves.consider(self.model, moment, self._swap(), reason, last)
        )
        if saved:
            self._pace.saved(began)
            self._unsaved = None

    def _safely(self, action: Callable[[], T]) -> T:
        """Do something; if it finds that a save has failed, let all do their last work."""
        try:
            return action()
        except SaveError as error:
            abandon(getattr(self._list, "callbacks", []), error)
            raise

    def _settle(self) -> None:
        """Settle the order of the metrics; unless it is needed, an unknown one is no error."""
        self._settled = True
        try:
            self._settle_direction()
        except UnknownDirectionError:
            if self._needs_order:
                raise
            return
        pairs = [(self.monitor, self._rule.mode)]
        pairs += [(name, self._direction(name, mode)) for name, mode in self._tie_breakers]
        self._saves.settle(Ranking(tuple(pairs), self.ties))

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart must not forget."""
        counted = {"pending": self._pace.pending, "batch": self._last_batch_seen}
        constants = {"constants": self._saves.series.saver.watch.state_dict(self._model)}
        return {**self._saves.state_dict(), **counted, **constants}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; training has begun."""
        self._saves.resume(state)
        self._saves.series.saver.watch.load_state_dict(state["constants"], self._model)
        self._pace.pending, self._last_batch_seen = state["pending"], state.get("batch")

    def _say(self, message: str) -> None:
        if self.verbose > 0:
            print_message(f"\nEpoch {self._current_epoch + 1}: {message}")
