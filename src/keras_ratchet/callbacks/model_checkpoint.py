"""Save the model while it trains, into files that cannot be torn."""

from __future__ import annotations

import os
from types import MethodType
from typing import Any

import keras

from keras_ratchet._engine.saving.checkpoint_store import CheckpointStore
from keras_ratchet._keras.metrics import metrics_are_known
from keras_ratchet._storage.paths import local_path
from keras_ratchet.callbacks._abandoned_locks import watch_lock
from keras_ratchet.callbacks._arguments import (
    OnSaveError,
    batch_trigger,
    check_monitors,
    checkpointer_of,
    one_rule,
)
from keras_ratchet.callbacks._drop_in import stand_in
from keras_ratchet.callbacks._logs import end_of_epoch, metrics_of
from keras_ratchet.callbacks._places import check_place
from keras_ratchet.callbacks._saving import SavingCallback
from keras_ratchet.callbacks._schedule import Schedule
from keras_ratchet.policy.retention import Retention, Ties, combined
from keras_ratchet.policy.schedule import IfBusy, interval_of
from keras_ratchet.types import Moment


@stand_in
class ModelCheckpoint(SavingCallback, keras.callbacks.ModelCheckpoint):
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
        save_best_only: Whether to save only when the metric is better than ever before in this
            run; see `fresh` for what a run is.
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
        fresh: Whether this is a new run, of which the best value of before does not count. By
            default it goes on if it was resumed, if its first epoch is not epoch 0, or if the model
            holds the weights of a file that was saved here; else it is a new run. A new run's first
            best takes the path, and the file that was there is kept, once, under a name of its own
            (`best.before-01.keras`). Files of an earlier run do not compete with those of a new
            one, nor are they deleted by it.
        on_save_error: "raise" a failed save as SaveError (after the best weights were restored),
            or "warn" once for each kind of failure and try again at the next save.
        every_s: Save (if the moment is worth it) at the end of a batch, too, when this many
            seconds have passed since the last save.
        overhead: The same, as often as costs at most this share of the training time (0.035 is
            a good value), as measured while training runs.
        mtbf_s: The same, at the interval that costs least in sum on a machine with this mean time
            between failures, in seconds. Of several intervals the longest counts.
        background: Whether files are written on a thread beside training, which costs one copy
            of the state in memory; the hook then takes as long as that copy. The default is to
            do so for states of more than 4 MB, and to write smaller ones in line. Whatever is
            under way is finished when training ends; `flush` waits for it.
        if_busy: What to do when a save is due and the one before is still being written: "wait"
            for it, or "skip" the new one.

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
        fresh: bool | None = None,
        on_save_error: OnSaveError = "raise",
        every_s: float | None = None,
        overhead: float | None = None,
        mtbf_s: float | None = None,
        background: bool | None = None,
        if_busy: IfBusy = "wait",
    ) -> None:
        names, modes = check_monitors(monitor, mode)
        self.filepath = local_path(filepath, "filepath")
        kept = combined(keep_best, keep_last, keep_every, keep_for_s)
        self._saves = checkpointer_of(
            self.filepath,
            retention=one_rule(retention, kept),
            best_only=save_best_only,
            weights_only=save_weights_only,
            at_end=save_at_end,
            ties=ties,
            on_save_error=on_save_error,
            background=background,
            if_busy=if_busy,
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
        self._settled = self._begun = False
        self._current_epoch = 0
        self._last_batch_seen: int | None = None
        self._unsaved: Moment | None = None
        self._triggers = batch_trigger(save_freq), interval_of(every_s, overhead, mtbf_s)
        self._pace = Schedule(*self._triggers)
        self._disarm()

    def _disarm(self) -> None:
        """Have no batch hook where there is nothing to do in it."""
        if not self._needs_batch_hooks:
            idle = MethodType(keras.callbacks.Callback.on_train_batch_end, self)
            self.on_train_batch_end = idle  # type: ignore[method-assign]

    @property
    def _needs_batch_hooks(self) -> bool:
        """Whether ends of batches matter, here or in a subclass; else the list is asynchronous."""
        own = ("on_train_batch_end", "_should_save_on_batch")
        is_own = any(getattr(type(self), n) is not getattr(ModelCheckpoint, n) for n in own)
        return self._pace.per_batch or is_own

    @property
    def _run_journal(self) -> CheckpointStore:
        return self._saves.series

    def __getstate__(self) -> dict[str, Any]:
        """Leave out, in copies and pickles, what belongs to a run."""
        state = super().__getstate__()
        state.pop("on_train_batch_end", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` returned."""
        self.__dict__.update(state)
        self._disarm()

    def on_train_begin(self, logs: Any = None) -> None:
        """Find out now, not after the first epoch, whether saving can work."""
        self._saves.flush()
        super().on_train_begin(logs)
        check_place(self, getattr(self._list, "callbacks", ()), self._model)
        watch_lock(self, self._list)
        self._saves.series.begin(self._model)
        self._pace, self._last_batch_seen = Schedule(*self._triggers), None
        self._unsaved, self._settled = None, False
        self._begin_run()
        names = [self.monitor, *(name for name, _ in self._tie_breakers)]
        if self.mode != "auto" or metrics_are_known(self._model, names):
            self._settle()
        self._saves.series.note("begin", epochs=(self.params or {}).get("epochs"))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch."""
        super().on_epoch_begin(epoch, logs)
        self._safely(self._saves.collect)
        self._current_epoch, self._last_batch_seen = epoch, None
        self._first_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save, if epochs are what it goes by."""
        super().on_epoch_end(epoch, logs)
        moment = end_of_epoch(epoch, metrics_of(logs))
        self._saves.series.note("epoch", epoch=epoch + 1, metrics=dict(moment.metrics))
        self._unsaved = moment
        if self.save_freq == "epoch":
            self._save_model(epoch=epoch, batch=None, logs=logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Save once more if asked for, and let others write here again."""
        self._finish("training ended")
        super().on_train_end(logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save, if enough batches are done; `batch` is the index of the last one that ended."""
        if self._should_save_on_batch(batch):
            self._save_model(epoch=self._current_epoch, batch=batch, logs=logs)
