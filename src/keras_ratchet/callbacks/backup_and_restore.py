"""BackupAndRestore: a run that is interrupted resumes where it stopped, bit by bit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_ratchet._distributed import Coordinator
from keras_ratchet._engine.resume.snapshot_paths import ARRAYS, DATA
from keras_ratchet._engine.resume.snapshot_store import SnapshotStore
from keras_ratchet._engine.saving.events import Events, Listener, Metadata
from keras_ratchet._engine.saving.place import place_of
from keras_ratchet._storage.anywhere import path_or_url
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet.callbacks._abandoned_locks import watch_lock
from keras_ratchet.callbacks._agreement import is_agreement
from keras_ratchet.callbacks._backup_options import RunInfo, WhichRate, checked_keep, options_of
from keras_ratchet.callbacks._companions import is_companion
from keras_ratchet.callbacks._drop_in import stand_in
from keras_ratchet.callbacks._list_ends import LastInList
from keras_ratchet.callbacks._nothing_left import note_error
from keras_ratchet.callbacks._session import Session
from keras_ratchet.callbacks._signals import DeadlineArgument, Loop, Signals
from keras_ratchet.callbacks.base import RatchetCallback
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.schedule import IfBusy
from keras_ratchet.types import Position, StopReason


@stand_in
class BackupAndRestore(RatchetCallback, keras.callbacks.BackupAndRestore):
    """Save the whole state of a run, and resume from it when the script is run again.

    Takes every argument of `keras.callbacks.BackupAndRestore`, in its place and with its
    meaning. Kill the process anywhere and run the same script again: weights, optimizer,
    History, and what the other callbacks decide are those of a run that was never interrupted,
    bit by bit (same machine, same backend). docs/resume.md says for which data this holds and
    what some need for it.

    Args:
        backup_dir: A directory for this run alone; or the URL of one on an object store, such as
            `s3://bucket/run` (docs/stores.md): snapshots are then made on the local disk, and
            uploaded while training goes on.
        save_freq: "epoch", a number of batches, or False for no regular saves.
        double_checkpoint: Keep at least two snapshots, as `keep=2` does; an argument of Keras's.
        delete_checkpoint: Whether to delete our files from `backup_dir` when training ends.
            With False a finished run is not repeated when its script is run again.
        keep: Number of snapshots to keep; if the newest is damaged the one before is used.
        every_s: Save at the first end of a batch after this many seconds since the last save.
        overhead: Save as often as costs at most this share of the training time (0.035 is a good
            value), as measured while training runs.
        mtbf_s: Mean time between failures of the machine, in seconds: save at the interval that
            costs least in sum. Of several intervals the longest counts.
        background: Whether snapshots are written on a background thread, which costs one copy of
            the state in memory. The default is to do so for states of more than 4 MB.
        if_busy: What to do when a save after a batch is due and the one before is still being
            written: "wait" for it, or "skip" the new one.
        data: The data set given to `fit`, where it cannot be seen (in loops other than `fit`).
        signals: Names of signals, such as ("SIGTERM", "SIGUSR1"), on which training ends after
            the batch, is saved, and `fit` returns. A second one is immediate.
        grace_s: Seconds from a signal until the process may be killed. A save that does not fit
            is not started.
        deadline: When training has to end in the same way: seconds from its start, a time of day
            ("17:30"), a datetime, or "slurm" for the end of the Slurm job.
        exit_code: If given, the process exits with it (SystemExit) after a signal or deadline.
        learning_rate: Which one counts if the script has another one than when it was saved:
            "saved", with a warning, or the "script"'s.
        sync_logs: In several processes, whether metrics that differ by rank are replaced by their
            means in the logs; if not, only the callbacks of this package go by the means.
        coordinator: How the processes of this training agree, where that cannot be found out: a
            `keras_ratchet.Coordinator`. To give it to one callback of a list is enough.
        mirror: For a local `backup_dir`: the URL of a directory on a store that gets a copy of
            every snapshot. A run resumes from it if the local directory has none.
        storage_options: For URLs: arguments of their fsspec file system.
        resume_from: Go on from this snapshot, in a branch of its own (docs/events.md): the path or
            URL of a snapshot of any run, the name of one in `backup_dir`, or "best". A run that
            is started again resumes from the newest snapshot of its branch. The snapshots of
            other branches stay.
        on_saved: A function that is called with the `CheckpointInfo` of each snapshot once it is
            durable, in the training thread and on rank 0.
        on_deleted: The same for each snapshot that was deleted.
        metadata: A dict of plain JSON data that goes into every manifest, or a function that
            returns one and is called at each save.

    Attributes:
        initial_epoch: Index of the epoch that this run started with.
        resumed_from: The `Position` of the snapshot that it resumed from: completed epochs, and
            batches of the next one; None if it started from scratch. Known when the first epoch
            begins.
        branched_from: The snapshot that `resume_from` stands for, "" without one; known when the
            first epoch begins. `History.params` has it, too.
        elapsed_s: Seconds of training, those before an interruption included.
        stop_reason: A `StopReason` after a signal or a deadline, else None.

    Raises:
        ConfigError: If an argument cannot work.
        LockedError: From `on_train_begin` if another process uses this directory.
        CorruptError: From `on_train_begin` if there are snapshots and none can be trusted.
        ResumeError: From `on_train_begin` if the snapshot belongs to another run.
        SaveError: If a save fails; older snapshots are untouched.
    """

    place = "first"  # in the list, for `_agreement`
    log_weights: dict[str, float]

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
        sync_logs: bool = True,
        coordinator: Coordinator | None = None,
        mirror: str | os.PathLike[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
        on_saved: Listener | None = None,
        on_deleted: Listener | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        super().__init__(coordinator=coordinator)
        if not backup_dir:
            raise ConfigError(
                f"Empty `backup_dir` argument passed. Got: {backup_dir!r}.", see="backup-dir"
            )
        self.backup_dir = path_or_url(backup_dir, "backup_dir")
        options = None if mirror is None and _is_url(resume_from) else storage_options
        options = storage_options if is_url(self.backup_dir) else options
        where, store = place_of(self.backup_dir, "backup_dir", mirror, options, False)
        self.save_freq = save_freq
        self.double_checkpoint = double_checkpoint
        self.sync_logs = sync_logs
        self.delete_checkpoint = delete_checkpoint
        self.keep = checked_keep(keep, double_checkpoint)
        self._options = options_of(
            save_freq=save_freq,
            deletes_at_end=delete_checkpoint,
            every_s=every_s,
            overhead=overhead,
            mtbf_s=mtbf_s,
            if_busy=if_busy,
            data=data,
            exit_code=exit_code,
            learning_rate=learning_rate,
            resume_from=resume_from,
            storage_options=storage_options,
        )
        self._signals = Signals(signals, grace_s, deadline)
        events = Events(on_saved, on_deleted, metadata)
        self._store = SnapshotStore(where, self.keep, background, store, events)
        self._last = LastInList(
            self._open_session,
            self._needs_batch_hooks,
            self._signals.are_watched,
            self._end_run,
        )
        self._info = RunInfo()
        self._current_epoch = self._last_batch_seen = 0

    @classmethod
    def _for_loop(cls, optimizer: Any, *args: Any, **kwargs: Any) -> BackupAndRestore:
        """Return the callback for a hand-written loop, which skips batches itself.

        Args:
            optimizer: The loop's optimizer, or None.
            *args: Arguments of the class.
            **kwargs: More of them.
        """
        callback = cls(*args, **kwargs)
        callback._options = replace(callback._options, is_loop=True, optimizer=optimizer)
        callback.log_weights = {}
        return callback

    @property
    def initial_epoch(self) -> int:
        """Index of the epoch that this run started with."""
        return self._info.initial_epoch

    @property
    def resumed_from(self) -> Position | None:
        """The `Position` of the snapshot that this run resumed from, if it did."""
        return self._info.resumed_from

    @property
    def branched_from(self) -> str:
        """The snapshot that `resume_from` stands for, "" without one."""
        return self._info.branched_from

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the run was ended, after a signal or a deadline."""
        return self._info.stop_reason

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those before an interruption included."""
        session = self._last.session
        return self._info.elapsed_s if session is None else session.elapsed_s

    @property
    def _needs_batch_hooks(self) -> bool:
        return self._options.are_periodic or self._signals.are_watched

    @property
    def _compares_ranks(self) -> bool:
        return True

    @property
    def _run_journal(self) -> SnapshotStore:
        return self._store

    def set_model(self, model: Any) -> None:
        """Take the first place in the callback list, and the last one."""
        super().set_model(model)
        self._last.set_model(self._model)
        self._last.callback_list = self._list
        if self._list is not None:
            others = [c for c in self._list.callbacks if not isinstance(c, LastInList)]
            if any(isinstance(c, BackupAndRestore) and c is not self for c in others):
                raise ConfigError(
                    "There are two BackupAndRestore in one list of callbacks, and each would have "
                    "to be the first. Keep one; a second copy of the snapshots is mirror=...",
                    see="callback-list",
                )
            self._list.callbacks = [self, *(c for c in others if c is not self), self._last]

    def on_train_begin(self, logs: Any = None) -> None:
        """Take the lock, and the signals."""
        self._info = RunInfo(self._info.initial_epoch, elapsed_s=self.elapsed_s)
        self._join()
        self._store.join(self._ranks)
        watch_lock(self, self._list)
        self._store.start(self._model)
        self._signals.start(None if self._options.is_loop else Loop(sys._getframe(), self._list))
        super().on_train_begin(logs)
        if self._list is None:  # then no hook comes after those of all other callbacks
            self._last.start()

    def _open_session(self) -> Session:
        epochs, steps = ((self.params or {}).get(name) for name in ("epochs", "steps"))
        inner = getattr(self._list, "callbacks", ())
        return Session(
            replace(
                self._options,
                every_epoch=self.save_freq == "epoch",
                deletes_at_end=self.delete_checkpoint,
            ),
            self._store,
            self._signals,
            self.model,
            [c for c in inner if c not in (self, self._last) and not _is_added(c)],
            epochs=None if epochs is None else int(epochs),
            steps=None if steps is None else int(steps),
            info=self._info,
            leave=self._leave,
            ctrl_c=self._ctrl_c,
        )

    @property
    def _takes_part(self) -> bool:
        return self._running or self._last.session is not None

    @property
    def _session(self) -> Session:
        """The session of the run, which is running."""
        assert self._last.session is not None
        return self._last.session

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Bring data and random streams into place, before any other callback."""
        super().on_epoch_begin(epoch, logs)
        self._current_epoch, self._last_batch_seen = epoch, 0
        self._session.before_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Count the epoch, even if a later callback fails."""
        super().on_epoch_end(epoch, logs)
        self._current_epoch, self._last_batch_seen = epoch + 1, 0

    def flush(self) -> None:
        """Wait until all saves are on the disk.

        Raises:
            SaveError: If one has failed.
        """
        if self._last.session is not None:
            self._last.session.wait()
            return
        saved = self._store.writer.wait()
        self._store.events.deliver(saved, self._store.ranks)
        if saved is not None and saved.error is not None:
            raise saved.error

    def _without_run(self) -> dict[str, Any]:
        info = replace(self._info, elapsed_s=self.elapsed_s)
        return {**super()._without_run(), "_info": info}

    def _release_lock(self) -> bool:
        """Release the lock after a `fit` that has ended by an exception; return whether it is."""
        super()._release_lock()
        if not self._store.writer.busy:
            self._store.end()
        return not self._store.writer.busy

    def on_train_abort(self, error: BaseException) -> None:
        """Clean up; note an error that comes when `fit` is done with all epochs.

        Args:
            error: What ended training.
        """
        if not self._running and self._last.session is not None:
            note_error(self._store, self._session.here().epoch, error)
        super().on_train_abort(error)

    def _wind_down(self, error: BaseException) -> None:
        try:
            self.flush()
        finally:
            self._last.close()
            self._signals.stop()  # where no session was opened yet
            self._store.end()

    # Keras's class has these names, and its tests and some users look at the files.

    @property
    def _weights_path(self) -> str:
        return self._store.file(0, ARRAYS)

    @property
    def _training_metadata_path(self) -> str:
        return self._store.file(0, DATA)

    @property
    def _prev_weights_path(self) -> str:
        return self._store.file(1, ARRAYS)

    @property
    def _prev_training_metadata_path(self) -> str:
        return self._store.file(1, DATA)


def _is_url(given: Any) -> bool:
    return isinstance(given, str | os.PathLike) and is_url(given)


def _is_added(callback: Any) -> bool:
    """Return whether a callback was put into the list by this package, and is no part of a run."""
    return is_agreement(callback) or is_companion(callback)
