"""ModelCheckpoint: save the model while it trains, into files that cannot be torn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MethodType
from typing import Any

import keras

from keras_ratchet._distributed import Coordinator
from keras_ratchet._engine.saving.checkpoint_store import CheckpointStore
from keras_ratchet._engine.saving.checkpointer import Checkpointer
from keras_ratchet._engine.saving.events import Events, Listener, Metadata
from keras_ratchet._engine.saving.place import place_of
from keras_ratchet._engine.saving.provenance import run_of
from keras_ratchet._formats.trainable_h5 import changed_weights, note_changed_weights
from keras_ratchet._keras.callbacks import print_message
from keras_ratchet._keras.fit import initial_epoch
from keras_ratchet._keras.metrics import metrics_are_known
from keras_ratchet._storage.anywhere import path_or_url
from keras_ratchet.callbacks._abandoned_locks import watch_lock
from keras_ratchet.callbacks._arguments import (
    OnSaveError,
    batch_rule,
    check_choices,
    check_filepath,
    check_monitors,
    check_place,
    check_placeholders,
    one_rule,
)
from keras_ratchet.callbacks._drop_in import stand_in
from keras_ratchet.callbacks._journal import note_stops
from keras_ratchet.callbacks._load_check import LoadCheck
from keras_ratchet.callbacks._logs import batches_ended, moment_of
from keras_ratchet.callbacks._ranks import agree_on_logs
from keras_ratchet.callbacks._schedule import Schedule
from keras_ratchet.callbacks.monitor_callback import MonitorCallback
from keras_ratchet.errors import UnknownDirectionError
from keras_ratchet.policy.retention import Ranking, Retention, Ties, combined
from keras_ratchet.policy.schedule import IfBusy, interval_of
from keras_ratchet.types import Moment


@stand_in
class ModelCheckpoint(MonitorCallback, keras.callbacks.ModelCheckpoint):
    """Save the model or its weights at the end of epochs or every so many batches.

    Takes every argument of `keras.callbacks.ModelCheckpoint`, in the same position and with the
    same meaning; files are plain Keras files. Every save is atomic and durable: after a crash, a
    full disk or a power cut the older file is whole. Each file has a manifest in `.ratchet/` next
    to it, with its digest, its metrics and the reason why it was saved. docs/differences.md lists
    where the two classes differ on purpose.

    Args:
        filepath: The file; `.keras` or `.h5` for the whole model, `.weights.h5` for weights.
            Placeholders are `{epoch}` and `{batch}` (from 1) and every metric in the logs; a
            metric that is missing prints as `nan`. It may be the URL of a file on an object store,
            such as `s3://bucket/run/best.keras` (docs/stores.md): files are then made on the local
            disk, and uploaded while training goes on.
        monitor: The metric that decides what is best; or several, the later ones of which break
            ties: `("val_accuracy", "val_loss")`.
        verbose: 1 prints a line for each decision.
        save_best_only: Whether to save only when the metric is better than ever before in this
            run; see `fresh` for what a run is.
        save_weights_only: Whether to save weights only; `filepath` then ends in `.weights.h5`.
        mode: "min", "max" or "auto"; or one for each metric of `monitor`.
        save_freq: "epoch", or a number of batches. The metrics of a batch are running means.
        initial_value_threshold: A value that the metric must beat before the first save.
        trainable_only: With `save_weights_only`: whether to leave out what is frozen at the moment
            of the save (docs/saving.md). `keras_ratchet.load_weights` lays such a file over the
            base that it was trained on.
        keep_best: Keep this many best files.
        keep_last: Keep this many newest files.
        keep_every: Keep the file of every so many epochs, forever.
        keep_for_s: Keep files for this many seconds.
        retention: A rule made of `KeepBest`, `KeepLast`, `KeepEvery` and `KeepNewer`, combined
            with `|`, or one of your own, instead of the `keep_*` arguments.
        save_at_end: Whether to save once more when training ends, unless its last state is saved
            already; also after Ctrl-C, and after any exception inside `keras_ratchet.guard`.
        ties: Which of two equally good moments is better, the "earlier" or the "later".
        fresh: Whether this is a new run, for which earlier best values do not count. By default
            the run continues an earlier one if it was resumed, if its first epoch is not epoch 0,
            or if the model has the weights of a file that was saved here; else it is a new run.
            The first best of a new run takes the path, and the file that was there gets another
            name, once (`best.before-01.keras`). Files of an earlier run neither compete with those
            of a new one nor are deleted by it.
        on_save_error: "raise" a SaveError when a save fails (after the best weights were
            restored), or "warn" once for each kind of failure and try again at the next save.
        every_s: Consider a save after a batch, too, when this many seconds have passed since the
            last one.
        overhead: The same, as often as it costs at most this share of the training time (0.035
            is a good value), as measured during training.
        mtbf_s: The same, at the interval that costs least in total on a machine with this mean
            time between failures, in seconds. Of several intervals the longest counts.
        background: Whether files are written in the background, on a thread of their own. This
            takes one copy of the state in memory, and training waits only for that copy. By
            default it is done for states of more than 4 MB. A save that is running when training
            ends is finished; `flush` waits for it.
        if_busy: What to do when a save is due and the one before is still being written: "wait"
            for it, or "skip" the new one.
        coordinator: How the processes of this training agree, where that cannot be found out: a
            `keras_ratchet.Coordinator`. To give it to one callback of a list is enough.
        mirror: For a local `filepath`: the URL of a directory on a store that gets a copy of
            every file.
        storage_options: For URLs: arguments of their fsspec file system.
        on_saved: A function that is called with the `CheckpointInfo` of each checkpoint once it is
            durable, in the training thread and on rank 0 (docs/events.md).
        on_deleted: The same for each checkpoint that retention has deleted.
        metadata: A dict of plain JSON data that goes into every manifest, or a function that
            returns one and is called at each save.
        check_load: Whether the first file is loaded, once, in a new process beside training; a
            warning says if that fails, and what it needs (docs/following.md).

    Attributes:
        best: The metric of the best save, or None.

    Raises:
        ConfigError: If an argument cannot work.
        SaveError: From `on_train_begin` if nothing can be written; later if a save fails.
        LockedError: From `on_train_begin` if another process saves under the same path.
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
        trainable_only: bool = False,
        keep_best: int | None = None,
        keep_last: int | None = None,
        keep_every: int | None = None,
        keep_for_s: float | None = None,
        retention: Retention | None = None,
        save_at_end: bool = False,
        ties: Ties = "earlier",
        fresh: bool | None = None,
        on_save_error: OnSaveError = "raise",
        every_s: float | None = None,
        overhead: float | None = None,
        mtbf_s: float | None = None,
        background: bool | None = None,
        if_busy: IfBusy = "wait",
        coordinator: Coordinator | None = None,
        mirror: str | os.PathLike[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        on_saved: Listener | None = None,
        on_deleted: Listener | None = None,
        metadata: Metadata | None = None,
        check_load: bool = False,
    ) -> None:
        names, modes = check_monitors(monitor, mode)
        self.filepath = path_or_url(filepath, "filepath")
        where, store = place_of(self.filepath, "filepath", mirror, storage_options, True)
        rule = one_rule(retention, combined(keep_best, keep_last, keep_every, keep_for_s))
        holds = check_filepath(self.filepath, save_weights_only, trainable_only)
        check_placeholders(self.filepath, rule, save_best_only and save_at_end)
        check_choices(on_save_error, if_busy)
        self._load_check = LoadCheck(on_saved, check_load)
        events = Events(self._load_check.listener, on_deleted, metadata)
        self._checkpointer = Checkpointer(
            CheckpointStore(where, rule, Ranking((), ties), holds, background, store, events),
            best_only=save_best_only,
            warn_only=on_save_error == "warn",
            say=self._say,
            skip_if_busy=if_busy == "skip",
        )
        super().__init__(names[0], modes[0], initial_value_threshold, coordinator=coordinator)
        self.verbose = verbose
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self.initial_value_threshold = initial_value_threshold
        self.ties: Ties = ties
        self.save_at_end, self.fresh = save_at_end, fresh
        self._tie_breakers = tuple(zip(names[1:], modes[1:], strict=True))
        self._needs_order = save_best_only or keep_best is not None or retention is not None
        self._order_is_known = self._has_epoch = False
        self._last_batch: int | None = None
        self._unsaved: Moment | None = None
        self._current_epoch, self._reason = 0, "a batch ended"
        self._rules = batch_rule(save_freq), interval_of(every_s, overhead, mtbf_s)
        self._schedule = Schedule(*self._rules)
        self._disarm()

    @property
    def best(self) -> float | None:
        """The metric of the best save, or None."""
        return self._checkpointer.best

    @best.setter
    def best(self, value: float | None) -> None:
        self._checkpointer.best = value

    @property
    def _run_journal(self) -> CheckpointStore:
        return self._checkpointer.store

    def _disarm(self) -> None:
        """Replace the batch hook by Keras's empty one if it has nothing to do."""
        if not self._needs_batch_hooks:
            idle = MethodType(keras.callbacks.Callback.on_train_batch_end, self)
            self.on_train_batch_end = idle  # type: ignore[method-assign]

    @property
    def _needs_batch_hooks(self) -> bool:
        """Whether batches matter, here or in a subclass; if not, the list is asynchronous."""
        own = ("on_train_batch_end", "_should_save_on_batch")
        is_own = any(getattr(type(self), n) is not getattr(ModelCheckpoint, n) for n in own)
        return self._schedule.per_batch or is_own

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, without what belongs to a run."""
        state = super().__getstate__()
        state.pop("on_train_batch_end", None)
        if self._ranks.world_size > 1:
            state["_schedule"] = Schedule(*self._rules)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set what `__getstate__` returned."""
        self.__dict__.update(state)
        self._disarm()

    def flush(self) -> None:
        """Wait until all saves are on the disk.

        Raises:
            SaveError: If one has failed.
        """
        self._or_abandon(self._checkpointer.flush)

    def on_train_begin(self, logs: Any = None) -> None:
        """Find out at once, not after the first epoch, whether saving can work."""
        super().on_train_begin(logs)
        self._checkpointer.flush()
        check_place(self, getattr(self._list, "callbacks", ()), self._model)
        self._checkpointer.store.join(self._ranks)
        watch_lock(self, self._list)
        self._checkpointer.store.start(self._model)
        self._schedule = Schedule(*self._rules, ranks=self._ranks)
        self._last_batch = None
        self._unsaved, self._order_is_known, self._has_epoch = None, False, False
        if self.fresh:
            self._checkpointer.reset_best(self.initial_value_threshold)
        self._checkpointer.start_run(
            self._model, run_of(self._list), self.fresh, initial_epoch(self._model)
        )
        names = [self.monitor, *(name for name, _ in self._tie_breakers)]
        if self.mode != "auto" or metrics_are_known(self._model, names):
            self._set_order()
        self._checkpointer.store.note("begin", epochs=(self.params or {}).get("epochs"))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Remember the epoch; raise the error of a save that has failed in the background."""
        super().on_epoch_begin(epoch, logs)
        self._or_abandon(self._checkpointer.collect)
        self._current_epoch, self._last_batch = epoch, None
        self._schedule.start_epoch()
        self._start_first_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save, if `save_freq` is "epoch"."""
        super().on_epoch_end(epoch, logs)
        self._unsaved = self._moment(epoch, None, logs)
        metrics = dict(self._unsaved.metrics)
        self._checkpointer.store.note("epoch", epoch=epoch + 1, metrics=metrics)
        if self.save_freq == "epoch":
            self._save_model(epoch=epoch, batch=None, logs=logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save, if enough batches are done; `batch` is the index of the last one that ended."""
        if self._should_save_on_batch(batch):
            self._save_model(epoch=self._current_epoch, batch=batch, logs=logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Save once more if asked to, and release the lock."""
        self._finish("training ended")
        super().on_train_end(logs)

    def _wind_down(self, error: BaseException) -> None:
        if self._all_end or self._ranks.rank == 0:  # alone: the others wait for nothing any more
            self._finish(f"training ended with {type(error).__name__}")
        else:
            self._checkpointer.store.end()

    def _finish(self, reason: str) -> None:
        store = self._checkpointer.store
        note_stops(store, self._list)
        try:
            self.flush()
            unsaved = self._checkpointer.left_unsaved(self._unsaved)
            if self.save_at_end and unsaved is not None:
                self._consider(replace(unsaved, metrics={}), reason, last=True)
                self.flush()
        finally:
            store.note("end", reason=reason)
            store.end()
        self._load_check.finish(self._list, waits=reason == "training ended")

    def _release_lock(self) -> bool:
        """Release the lock after a `fit` that an exception has ended; return whether it could."""
        super()._release_lock()
        store = self._checkpointer.store
        if not store.writer.busy:
            store.end()
        return not store.writer.busy

    # The next three are what subclasses of Keras's class override and call.

    def _should_save_on_batch(self, batch: int) -> bool:
        """Return, once after each step, whether to save; `batch` is the index of its last one."""
        if not self._schedule.per_batch:
            return False
        if self._ranks.world_size == 1:
            self._or_abandon(self._checkpointer.collect)
        self._schedule.step(self._checkpointer.store.writer)
        self._schedule.persisted(self._checkpointer.save_s)
        ended, self._last_batch = batches_ended(self._last_batch, batch), batch
        verdict = self._schedule.check(ended)
        if self._schedule.talked:  # by the clock, at the same batch on all ranks
            self._or_abandon(self._checkpointer.collect)
        self._unsaved = self._moment(self._current_epoch, batch, None)
        self._reason = verdict.reason
        return bool(verdict)

    def _save_model(self, epoch: int, batch: int | None, logs: Any) -> None:
        """Save the end of an epoch (index from 0), or of a batch, if the moment deserves it."""
        reason = f"epoch {epoch + 1} ended" if batch is None else self._reason
        self._consider(self._moment(epoch, batch, logs), reason)

    def _get_file_path(self, epoch: int, batch: int | None, logs: Any) -> str:
        """Return the file that a moment is saved to."""
        return self._checkpointer.store.path_of(self._moment(epoch, batch, logs))

    def _moment(self, epoch: int, batch: int | None, logs: Any) -> Moment:
        return moment_of(epoch, batch, logs, (self.params or {}).get("steps"))

    def _consider(self, moment: Moment, reason: str, last: bool = False) -> None:
        is_of_batch = not moment.end_of_epoch and not last  # of an epoch they are agreed on already
        if self._ranks.world_size > 1 and is_of_batch:
            metrics = dict(moment.metrics)
            agree_on_logs(self._ranks, self._current_epoch, metrics, {})
            moment = replace(moment, metrics=metrics)
        self._start_first_epoch(self._current_epoch)
        if not self._order_is_known:
            self._set_order()
        started = self._schedule.start_save()
        saved = self._or_abandon(
            lambda: self._checkpointer.consider(self.model, moment, self._swap(), reason, last)
        )
        if saved:
            self._schedule.saved(started, self._checkpointer.store.writer)
            self._unsaved = None

    def _start_first_epoch(self, epoch: int) -> None:
        if not self._has_epoch:
            self._has_epoch = True
            self._checkpointer.start_first_epoch(self._model, epoch, self.fresh)

    def _set_order(self) -> None:
        """Determine the order of the metrics; if it is not needed, an unknown one is no error."""
        self._order_is_known = True
        try:
            self._settle_direction()
        except UnknownDirectionError:
            if self._needs_order:
                raise
            return
        pairs = [(self.monitor, self._rule.mode)]
        pairs += [(name, self._direction(name, mode)) for name, mode in self._tie_breakers]
        self._checkpointer.set_ranking(Ranking(tuple(pairs), self.ties))

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        counted = {"pending": self._schedule.pending, "batch": self._last_batch}
        constants = {"constants": self._checkpointer.store.watch.state_dict(self._model)}
        changed = {"changed": changed_weights(self._model)}
        return {**self._checkpointer.state_dict(), **counted, **constants, **changed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        self._checkpointer.load_state_dict(state)
        self._checkpointer.store.watch.load_state_dict(state["constants"], self._model)
        self._schedule.pending, self._last_batch = state["pending"], state.get("batch")
        note_changed_weights(self._model, state.get("changed", ()))

    def _say(self, message: str) -> None:
        if self.verbose > 0:
            print_message(f"\nEpoch {self._current_epoch + 1}: {message}")
