"""One run under BackupAndRestore: resumed at its start, saved on its way, closed at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from keras_ratchet._engine.capture import building
from keras_ratchet._engine.resume import keras_backup
from keras_ratchet._engine.resume.attributes import AttributeStates
from keras_ratchet._engine.resume.callback_states import CallbackStates
from keras_ratchet._engine.resume.data_cursor import DataCursor, warn_of_unnamed_state
from keras_ratchet._engine.resume.loop_optimizer import LoopOptimizers
from keras_ratchet._engine.resume.resumer import Resumer
from keras_ratchet._engine.resume.snapshot_store import SnapshotStore
from keras_ratchet._engine.resume.train_state import BeforeValidation, TrainState
from keras_ratchet._engine.saving.background import Saved
from keras_ratchet._keras import fit
from keras_ratchet.callbacks._backup_options import BackupOptions, RunInfo
from keras_ratchet.callbacks._best_by import best_by
from keras_ratchet.callbacks._divergence import has_diverged
from keras_ratchet.callbacks._ranks import Pace
from keras_ratchet.callbacks._schedule import Schedule
from keras_ratchet.callbacks._signals import CtrlC, Signals
from keras_ratchet.policy.deadline import Deadline
from keras_ratchet.types import Position, StopReason

_log = logging.getLogger("keras_ratchet")


class Session:
    """What BackupAndRestore does while one run lasts.

    Args:
        options: How the run is saved and resumed.
        store: Where; its lock is held.
        signals: What may ask the run to end.
        model: The model in training.
        callbacks: The other callbacks, which have all started.
        epochs: How many epochs are planned, if that is known.
        steps: How many batches an epoch has, if that is known.
        info: Gets what the run tells about itself.
        leave: Makes all callbacks clean up, then raises the error that it is given.
        ctrl_c: Whether Ctrl-C was pressed.

    Attributes:
        resumer: Captures and restores the state.
        epochs: How many epochs are planned, if that is known.
        schedule: Says when a save is due.
        exit_code: With which code the process exits once `fit` has ended early, if it does.
    """

    def __init__(
        self,
        options: BackupOptions,
        store: SnapshotStore,
        signals: Signals,
        model: Any,
        callbacks: list[Any],
        *,
        epochs: int | None,
        steps: int | None,
        info: RunInfo,
        leave: Callable[[BaseException], NoReturn],
        ctrl_c: CtrlC,
    ) -> None:
        self._options = options
        self._store = store
        self._signals = signals
        self._model = model
        self._callbacks = callbacks
        self.epochs = epochs
        self._steps = steps
        self._info = info
        self._leave = leave
        self._ctrl_c = ctrl_c
        self.exit_code = options.exit_code
        building.build(model)
        iterator = fit.epoch_iterator()
        self._in_fit, self._to_skip = iterator is not None, 0
        self._cursor = DataCursor(iterator, options.data, model)
        self._states = CallbackStates(callbacks)
        self.resumer = Resumer(
            store,
            self._states,
            self._cursor,
            AttributeStates(model),
            LoopOptimizers(options.optimizer, model),
            options.script_sets_rate,
        )
        self._pace = Pace(store.ranks)
        self.schedule = Schedule(options.every_batches, options.interval, ranks=store.ranks)
        self._first = False  # whether this is the first epoch after a resume
        self._looks_for_lost = True
        self._knows_data = options.data is not None
        self._stopping = False  # whether training was stopped after the epoch that ended last
        self._epoch = self._done = 0
        self._logs: Mapping[str, float] = {}
        self._validation: BeforeValidation | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.resumer.elapsed_s

    def resume(self) -> None:
        """Restore the newest snapshot, if there is one, and tell `fit` the first epoch."""
        self._cursor.warn()
        branch = self._options.branch
        taken = branch.take(self._store, self._model, lambda: best_by(self._callbacks))
        self._info.set_branch(taken, self._callbacks)
        state = self.resumer.find(self._model, self.epochs)
        branch.require(state or self.resumer.stage.is_done, taken)
        self._first = state is not None and not state.finished
        if self.resumer.stage.is_done:
            self._skip_all_epochs()
            self._info.initial_epoch = self.epochs or 0
            return
        if state is None:
            self._epoch = keras_backup.adopt(self._model, self._store.directory)
            fit.set_initial_epoch(self._model, self._epoch or None)
            self._save(self.here(), {}, "training started")
        else:
            self._resume_from(state)
        self._info.initial_epoch = self._epoch

    def _resume_from(self, state: TrainState) -> None:
        self.resumer.require(self._in_fit, self._in_fit or self._options.is_loop, self.is_over)
        self.resumer.restore(self._model)
        self._epoch, self._info.resumed_from = state.position.epoch, state.position
        self.schedule.pending = int(state.extra.get("pending", 0))
        if (ranks := self._store.ranks).world_size > 1:
            ranks.holds_stop = bool(state.extra.get("holds_stop"))
        fit.set_initial_epoch(self._model, self._epoch)
        if self.is_over:
            self._stopping = bool(state.extra.get("stopping"))
            self._skip_all_epochs()
            self.resumer.start_first_epoch()  # no epoch will do it

    def _skip_all_epochs(self) -> None:
        """Make `fit` run no epoch, with the callbacks ending as they would have."""
        fit.set_initial_epoch(self._model, self.epochs)
        self._model.stop_training = self._stopping

    def look_at(self, source: Any) -> None:
        """Look at the data of a loop; warn, once, of a state that `data=` does not name."""
        self._cursor.loader = source
        if not self._knows_data:
            self._knows_data = warn_of_unnamed_state(source)

    @property
    def is_over(self) -> bool:
        """Whether all epochs of this run were done before it was started again."""
        if (state := self.resumer.state) is None:
            return self.resumer.stage.is_done
        if self.epochs is not None and state.position.epoch >= self.epochs:
            return True
        return bool(state.finished or state.extra.get("stopping"))

    def before_epoch(self, epoch: int) -> None:
        """Before any other callback: bring data and random streams into place."""
        self._collect()
        fit.set_initial_epoch(self._model, None)
        self._epoch, self._done, self._logs = epoch, 0, {}
        self.schedule.start_epoch()
        if self._first:
            self.resumer.start_first_epoch()
        self._cursor.start_epoch()
        if self._saves_in_mid_epoch and not self._skips():
            self.resumer.start_epoch()

    @property
    def _saves_in_mid_epoch(self) -> bool:
        return self._options.are_periodic or self._signals.are_watched

    def start_epoch(self) -> bool:
        """After all other callbacks: restore a state of mid-epoch; return whether `fit` skips."""
        if skips := self._skips():
            self.resumer.restore(self._model)
            self._done = self._to_skip = self._state().position.batch
            self._cursor.start_skip()
        self.resumer.before_step(self._model, self._first and self._in_fit)
        self._first = False
        return skips and self._in_fit

    def end_batch(self, batch: int, logs: Mapping[str, float]) -> bool:
        """Save, if it is time; return whether `fit` has to end.

        Args:
            batch: Index of the last batch that ended.
            logs: Its logs.
        """
        done = self._cursor.completed(batch)
        ended, self._done, self._logs = done - self._done, done, logs
        step_s = self.schedule.step(self._store.writer)
        due = self._collect_and_ask(step_s) if self._pace.is_due() else None
        if due:
            self._make_room(due)
        elif self._count_batches(ended):
            self._announce_save()
            if not self._is_stopping():
                self._warn_of_lost()
                self._save(self.here(), logs, "in mid-epoch")
        return due is not None

    def start_validation(self) -> None:
        """Capture what validation is about to change."""
        self._validation = self.resumer.before_validation(self._model)

    def end_validation_batch(self) -> bool:
        """Return whether `fit` has to end; in several processes, which may differ here, not yet."""
        due = self._collect_and_ask() if self._store.ranks.world_size == 1 else None
        if due:
            self._make_room(due, self._validation)
        return due is not None

    def end_epoch(self, epoch: int, logs: Mapping[str, float]) -> bool:
        """Save after all other callbacks; return whether `fit` has to end."""
        self._epoch, self._done, self._logs = epoch + 1, 0, {}
        self._cursor.end_epoch(epoch)
        self._stopping = self._is_stopping() and not self._ctrl_c.requested
        self._states.warn_of_lost()
        self._looks_for_lost = False
        if self._has_diverged(logs):
            return False
        due = self._collect_and_ask()
        if due:
            self._make_room(due)
        elif self._options.every_epoch:
            self._save(self.here(), logs, f"epoch {epoch + 1} ended")
        return due is not None

    def end(self, logs: Mapping[str, float]) -> None:
        """Delete our files, or leave the mark of a finished run."""
        self._flush()
        state, stage = self.resumer.state, self.resumer.stage
        if stage.is_done:
            stage.end(self._callbacks)
            return
        if state is not None and state.finished:
            self.resumer.restore(self._model)
            self.resumer.restore_streams()
        elif self._has_diverged(logs):
            self._store.note("gone_bad", reason="not saved; the snapshots before it stay")
            return
        elif not self._options.deletes_at_end:
            mark = "stopped" if self._is_stopping() else "all epochs"
            position = Position.counted(self._epoch, 0, self._steps)
            self._save(position, logs, "training ended", finished=mark)
        stage.end(self._callbacks)
        if self._options.deletes_at_end:
            self._settle(self._store.clear)

    def wait(self) -> None:
        """Wait for the save that is being written.

        Raises:
            SaveError: If it has failed.
        """
        self._record(self._store.writer.wait())

    def close(self) -> None:
        """Release the lock, memory and signals; the snapshots stay."""
        self._info.elapsed_s = self.elapsed_s
        self.resumer.optimizer.close()
        fit.set_initial_epoch(self._model, None)
        self._signals.stop()
        self._store.end()

    def take_skip(self) -> tuple[int, Mapping[str, float]]:
        """Return, once, how many batches a hand-written loop has to draw, and the logs then."""
        skip, self._to_skip = self._to_skip, 0
        if skip and self.resumer.change is not None:
            skip = self._done = self.resumer.change.skip_in_loop(self._cursor.loader, skip)
        return skip, self._state().logs if skip else {}

    def _make_room(self, due: Deadline, validation: BeforeValidation | None = None) -> None:
        """Save if there is time for it, and ask the loop to end."""
        self._announce_save()
        # if there is no time for another save, the one being written is what is resumed from
        self._settle(self._store.writer.wait_on_disk)
        verdict = self._store.ranks.broadcast(
            due.check(time.monotonic(), self.schedule.longest_save_s), "whether a save fits"
        )
        if verdict:
            self._save(self.here(), self._logs, verdict.reason, validation, waits=False)
            self._settle(self._store.writer.wait_on_disk)
        reason = verdict.reason + self._store.wait_for_upload(due.at_s - time.monotonic())
        epoch_index = self._epoch - (not self._done)  # at its end the epoch is completed
        self._info.stop_reason = StopReason(due.kind, reason, {}, epoch_index)
        self._store.note("preempted", reason=reason, epoch=self._epoch)
        _log.warning("%s", reason)
        self._model.stop_training = True

    def _save(
        self,
        position: Position,
        logs: Mapping[str, float],
        reason: str,
        validation: BeforeValidation | None = None,
        *,
        finished: str = "",
        waits: bool = True,
    ) -> None:
        started = self.schedule.start_save()
        self._flush() if waits else None
        model, ranks = fit.synced(self._model), self._store.ranks
        progress = {
            "epochs": self.epochs,
            "pending": self.schedule.pending,
            "stopping": self._stopping,
            "holds_stop": ranks.any(ranks.holds_stop, "whether to stop"),
        }
        state = self.resumer.capture(
            model,
            position,
            logs,
            progress,
            finished=finished,
            validation=validation,
            background=self._store.runs_in_background(model),
        )
        blocked_s = self.schedule.since(started)
        self._settle(lambda: self._store.save(model, state, reason, blocked_s))
        self.schedule.saved(started, self._store.writer)
        if finished:
            self._flush()

    def _announce_save(self) -> None:
        """Ask callbacks that watch the weights to check them; Rollback may restore older ones."""
        hooks = [getattr(callback, "on_snapshot_begin", None) for callback in self._callbacks]
        for hook in filter(None, hooks):
            hook()

    def _count_batches(self, ended: int) -> bool:
        """Count batches that have ended; return whether to save."""
        verdict = self.schedule.check(ended)
        ranks = self._store.ranks
        if verdict and self._options.skips_if_busy and ranks.any(self._store.writer.busy, "busy"):
            self._store.note("skip", reason="the previous save is still being written")
            return False
        return bool(verdict)

    def _collect_and_ask(self, step_s: float = 0.0) -> Deadline | None:
        """Settle a save that has ended; return the deadline for which to end now, or None."""
        self._collect()
        saves = 2 if self._store.writer.busy else 1  # the one being written comes first
        need_s = saves * self.schedule.longest_save_s + self._store.mirror.last_upload_s
        due = self._signals.due(need_s, step_s)
        return self._pace.agree_on_end(due)

    def _collect(self) -> None:
        """Process a background save that has ended."""
        if self._store.writer.pending:
            self._settle(self._store.writer.collect)

    def _flush(self) -> None:
        """Wait for the save that is being written or uploaded, and process its outcome."""
        self._settle(self._store.writer.wait)

    def _settle(self, action: Callable[[], Saved | None]) -> None:
        """Act on the outcome of a save, if there is one; if that fails, all callbacks clean up."""
        try:
            self._record(action())
        except Exception as error:  # the user's functions may raise any
            self._leave(error)

    def _record(self, saved: Saved | None) -> None:
        self._store.events.deliver(saved, self._store.ranks)
        if saved is not None and saved.error is not None:
            raise saved.error
        if saved and saved.duration_s:  # an upload has none
            self.schedule.persisted(saved.duration_s)

    def _warn_of_lost(self) -> None:
        if self._looks_for_lost:  # in the first epoch
            self._states.warn_of_lost()

    def _has_diverged(self, logs: Mapping[str, float]) -> bool:
        if not self._is_stopping():  # which is the same on all ranks
            return False
        own = has_diverged(self._callbacks, logs)
        return bool(self._store.ranks.any(own, "whether it has diverged"))

    def _is_stopping(self) -> bool:
        return bool(getattr(self._model, "stop_training", False))

    def here(self) -> Position:
        """Return how much of this run is done."""
        return Position.counted(self._epoch, self._done, self._steps)

    def _skips(self) -> bool:
        return self._first and self._state().position.batch > 0

    def _state(self) -> TrainState:
        assert self.resumer.state is not None
        return self.resumer.state
