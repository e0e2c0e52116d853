"""Training that was interrupted goes on where it stopped, bit by bit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, get_args

import keras

from keras_ratchet._engine.resume.snapshot_store import ARRAYS, DATA, SnapshotStore
from keras_ratchet._keras.fit import set_initial_epoch
from keras_ratchet._storage.paths import local_path
from keras_ratchet.callbacks._abandoned_locks import watch_lock
from keras_ratchet.callbacks._backup_options import WhichRate, batch_trigger, checked_keep
from keras_ratchet.callbacks._drop_in import stand_in
from keras_ratchet.callbacks._list_ends import Tail
from keras_ratchet.callbacks._loop import Loop
from keras_ratchet.callbacks._session import Session
from keras_ratchet.callbacks._signals import DeadlineArgument, Preemption
from keras_ratchet.callbacks.base import RatchetCallback
from keras_ratchet.errors import ConfigError, SaveError
from keras_ratchet.policy.monitor import one_of
from keras_ratchet.policy.schedule import IfBusy, interval_of
from keras_ratchet.types import Position, StopReason


class _KerasPaths:
    """The files that Keras's class has under these names, for those who look at them."""

    backups: SnapshotStore

    @property
    def _weights_path(self) -> str:
        return self.backups.file(0, ARRAYS)

    @property
    def _training_metadata_path(self) -> str:
        return self.backups.file(0, DATA)

    @property
    def _prev_weights_path(self) -> str:
        return self.backups.file(1, ARRAYS)

    @property
    def _prev_training_metadata_path(self) -> str:
        return self.backups.file(1, DATA)


@stand_in
class BackupAndRestore(_KerasPaths, RatchetCallback, keras.callbacks.BackupAndRestore):
    """Save the whole state of a training, and go on from it when the script is run again.

    Takes every argument of `keras.callbacks.BackupAndRestore`, in its place and with its
    meaning. Kill the process anywhere and run the same script again: weights, optimizer,
    History, and what the other callbacks decide are those of a run that was never interrupted,
    bit by bit (same machine, same backend). docs/resume.md says for which data this holds and
    what some need for it.

    Args:
        backup_dir: A directory for this training alone.
        save_freq: "epoch", a number of batches, or False for no regular saves.
        double_checkpoint: As `keep=2` at the least; kept for Keras's sake.
        delete_checkpoint: Whether to delete our files from `backup_dir` when training ends.
            With False a finished training is not repeated when its script is run again.
        keep: Number of snapshots to keep; if the newest is damaged the one before is used.
        every_s: Save at the first end of a batch after this many seconds since the last save.
        overhead: Save as often as costs at most this share of the training time (0.035 is a good
            value), as measured while training runs.
        mtbf_s: Mean time between failures of the machine, in seconds: save at the interval that
            costs least in sum. Of several intervals the longest counts.
        background: Whether snapshots are written on a thread beside training, which costs one
            copy of the state in memory. The default is to do so for states of more than 4 MB.
        if_busy: What to do when a save after a batch is due and the one before is still being
            written: "wait" for it, or "skip" the new one.
        data: The data set given to `fit`, where it cannot be seen (in loops other than `fit`).
        signals: Names of signals, such as ("SIGTERM", "SIGUSR1"), on which training ends after
            the batch, is saved, and `fit` returns. A second one is immediate.
        grace_s: Seconds from a signal until the process may be killed. A save that does not fit
            is not begun.
        deadline: When training has to end likewise: seconds from its begin, a time of day
            ("17:30"), a datetime, or "slurm" for the end of the Slurm job.
        exit_code: If given, the process is left with it (SystemExit) after a signal or deadline.
        learning_rate: Which one counts where the script has another one than when it was saved:
            "saved", with a warning, or the "script"'s.

    Attributes:
        initial_epoch: Index of the epoch that this training began with.
        resumed_from: The `Position` of the snapshot that it went on from: completed epochs, and
            batches of the next one; None if it began anew. Known when the first epoch begins.
        elapsed_s: Seconds of training, those before an interruption included.
        stop_reason: A `StopReason` after a signal or a deadline, else None.

    Raises:
        ConfigError: If an argument cannot work.
        LockedError: At train begin if another process trains with this directory.
        CorruptError: At train begin if there are snapshots and none can be trusted.
        ResumeError: At train begin if the snapshot belongs to another training.
        SaveError: If a save fails; older snapshots are untouched.
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int | bool = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
        *,
        keep: int = 2,
        every_s: float | None = None,
        overhead: float | None = None,
        mtbf_s: float | None = None,
        background: bool | None = None,
        if_busy: IfBusy = "wait",
        data: Any = None,
        signals: Iterable[str | int] = (),
        grace_s: float = 30.0,
        deadline: DeadlineArgument = None,
        exit_code: int | None = None,
        learning_rate: WhichRate = "saved",
    ) -> None:
        super().__init__()
        if not backup_dir:
            raise ConfigError(f"Empty `backup_dir` argument passed. Got: {backup_dir!r}.")
        self.backup_dir = local_path(backup_dir, "backup_dir")
        self.save_freq = save_freq
        self.double_checkpoint = double_checkpoint
        self.delete_checkpoint = delete_checkpoint
        self.keep = checked_keep(keep, double_checkpoint)
        one_of("if_busy", if_busy, get_args(IfBusy))
        self.skip_if_busy = if_busy == "skip"
        self.data, self.exit_code = data, exit_code
        one_of("learning_rate", learning_rate, get_args(WhichRate))
        self.learning_rate: WhichRate = learning_rate
        self.initial_epoch = 0
        self.resumed_from: Position | None = None
        self.stop_reason: StopReason | None = None
        self.batch_trigger = batch_trigger(save_freq)
        self.interval = interval_of(every_s, overhead, mtbf_s)
        self.preemption = Preemption(signals, grace_s, deadline)
        self.backups = SnapshotStore(self.backup_dir, self.keep, background)
        self.tail = Tail(self, self.in_mid_epoch, self.preemption.active)
        self.loop_optimizer: Any = None  # keras_ratchet.Run sets these two
        self.loop_skips = False
        self._current_epoch = self._last_batch_seen = 0
        self._elapsed_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.session.resumer.elapsed_s if hasattr(self, "session") else self._elapsed_s

    @property
    def in_mid_epoch(self) -> bool:
        """Whether saves in the middle of an epoch may come."""
        periodic = self.batch_trigger is not None or self.interval is not None
        return periodic or self.preemption.active

    @property
    def _needs_batch_hooks(self) -> bool:
        return self.in_mid_epoch

    @property
    def _run_journal(self) -> SnapshotStore:
        return self.backups

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._ctrl_c.requested

    def set_model(self, model: Any) -> None:
        """Take the first and the last place in the callback list."""
        super().set_model(model)
        self.tail.set_model(self._model)
        if self._list is None:
            return
        others = [c for c in self._list.callbacks if c is not self and not isinstance(c, Tail)]
        self._list.callbacks = [self, *others, self.tail]

    def on_train_begin(self, logs: Any = None) -> None:
        """Take the lock, and the signals."""
        self.stop_reason = self.resumed_from = None
        watch_lock(self, self._list)
        self.backups.begin(self._model)
        self.preemption.arm(None if self.loop_skips else Loop(sys._getframe(), self._list))
        super().on_train_begin(logs)
        if self._list is None:
            self.begin_session()

    def begin_session(self) -> None:
        """Resume; all other callbacks have begun."""
        self.session = Session(self, self.model, self._list)
        self.initial_epoch = self._current_epoch = self.session.begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Before any other callback: bring data and random streams into place."""
        super().on_epoch_begin(epoch, logs)
        self._current_epoch, self._last_batch_seen = epoch, 0
        self.session.saves.collect()
        self.session.before_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note that the epoch is done, even if a later callback fails."""
        super().on_epoch_end(epoch, logs)
        self._current_epoch, self._last_batch_seen = epoch + 1, 0

    def end_session(self, logs: Mapping[str, float]) -> None:
        """Close; all other callbacks have ended."""
        try:
            self.session.end(logs)
        finally:
            self._release()

    def flush(self) -> None:
        """Wait until all saves are on the disk.

        Raises:
            SaveError: If one has failed.
        """
        self.backups.writer.wait()

    def fail(self, error: SaveError) -> NoReturn:
        """Let all callbacks do their last work, then raise."""
        self._leave(error)

    def leave(self) -> None:
        """Close after a preemption; the snapshots stay."""
        self._release()
        super().on_train_end()
        if self.exit_code is not None:
            raise SystemExit(self.exit_code)

    def _without_run(self) -> dict[str, Any]:
        return {**super()._without_run(), "_elapsed_s": self.elapsed_s}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out, in copies and pickles, what belongs to a run."""
        state = super().__getstate__()
        state.pop("session", None)
        return state

    def _release(self) -> None:
        self._elapsed_s = self.elapsed_s
        self.__dict__.pop("session", None)  # it holds the model and the data
        set_initial_epoch(self._model, None)
        self.preemption.disarm()
        self.backups.end()

    def _release_lock(self) -> bool:
        """Give the directory free after a `fit` that has ended by an exception; say if it is."""
        if not self.backups.writer.busy:
            self.backups.end()
        return not self.backups.writer.busy

    def _wind_down(self, error: BaseException) -> None:
        try:
            self.flush()
        finally:
            self._release()
