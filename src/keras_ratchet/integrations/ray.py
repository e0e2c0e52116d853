"""Ray Train and Ray Tune: what they are told of a run, and where it is saved.

Ray starts the processes, watches them, and starts them again; snapshots and resume are ours. So
what Ray needs is little: a directory that stays the same when a trial is started again
(`run_directory`), and the metrics of each epoch once its snapshot is on the disk
(`RayReportCallback`).

Checked with ray 2.60: Train V2 and Tune.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import ray.train
import ray.train.collective
import ray.tune

from keras_ratchet._storage import single_file
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.callbacks.backup_and_restore import BackupAndRestore
from keras_ratchet.callbacks.base import RatchetCallback
from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint
from keras_ratchet.errors import ConfigError
from keras_ratchet.integrations._notes import read_note, write_note

_KEY = "keras_ratchet"  # in the metadata of a checkpoint of Ray's
_log = logging.getLogger("keras_ratchet")
_sessions: set[str] = set()  # the runs of Ray, by directory, that this process has reported to


class RayReportCallback(RatchetCallback):
    """Report each epoch to Ray Train or Ray Tune, after its snapshot is on the disk.

    All workers report the same epochs. With a `BackupAndRestore` in the same list, an epoch that
    was reported before the workers were started again is not reported again.

    Args:
        metrics: Which metrics: all (None), the names of some, or a dict from the name in the
            report to the name in the logs. A report also has "epoch", the number of completed
            epochs; for Ray Tune "training_iteration" is the same number.
        checkpoint: A `ModelCheckpoint` of the same list: the file that it has saved since the last
            report goes to Ray with the report, as a checkpoint.

    Raises:
        ConfigError: From `on_train_begin` outside Ray, or if an argument cannot work.

    Example:
        ```python
        best = ModelCheckpoint(f"{run_directory()}/best.keras", save_best_only=True)
        backup = BackupAndRestore(f"{run_directory()}/backup", delete_checkpoint=False)
        model.fit(x, y, callbacks=[backup, best, RayReportCallback(checkpoint=best)])
        ```
    """

    def __init__(
        self,
        metrics: str | list[str] | Mapping[str, str] | None = None,
        checkpoint: ModelCheckpoint | None = None,
    ) -> None:
        super().__init__()
        if checkpoint is not None and not isinstance(checkpoint, ModelCheckpoint):
            raise ConfigError(
                "checkpoint must be a ModelCheckpoint, whose file Ray then has a copy of. "
                f"Got: {checkpoint!r}. A snapshot of BackupAndRestore needs no copy: its "
                "directory is on storage that all workers share.",
                see="ray",
            )
        self.metrics = metrics
        self.checkpoint = checkpoint
        self._session: Any = None
        self._directory = ""
        self._run = ""
        self._reported = 0
        self._attached_at = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Find out who is to be told."""
        super().on_train_begin(logs)
        self._session = _session()
        self._directory = _place(self._session)[1]
        self._run, self._reported, self._attached_at = secrets.token_hex(8), 0, 0.0
        callbacks = getattr(self._list, "callbacks", ())
        if self.checkpoint is not None and self.checkpoint not in callbacks:
            raise ConfigError(
                "checkpoint= must be one of the callbacks that fit was given.", see="ray"
            )
        if self._backup is None and self.checkpoint in callbacks[callbacks.index(self) :]:
            raise ConfigError(
                "RayReportCallback must stand after the callback of checkpoint=.", see="ray"
            )
        self._refuse_other_trial()

    def _refuse_other_trial(self) -> None:
        """Raise if Ray wants this trial to go on from another one's checkpoint."""
        given = self._session.get_checkpoint()
        source = None if given is None else given.get_metadata().get(_KEY, {}).get("directory")
        if source is not None and source != self._directory:
            raise ConfigError(
                f"Ray has given this trial the checkpoint of another one ({source}), as "
                "Population Based Training does. A run goes on from its own snapshots, so it "
                "cannot: load that checkpoint's weights in your script, without "
                "BackupAndRestore and RayReportCallback, or use another scheduler.",
                see="ray",
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start an epoch; the run has been resumed if it could be."""
        super().on_epoch_begin(epoch, logs)
        starts = epoch == 0 and not self._reported and self._directory not in _sessions
        if starts and self._session.get_checkpoint() is not None:
            _log.warning(
                "Ray has started this run again after a report, and there is nothing to resume "
                "it from: training starts over. Put BackupAndRestore's directory on storage that "
                "all nodes share, such as keras_ratchet.integrations.ray.run_directory()."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Report, if nobody saves the epoch after this."""
        super().on_epoch_end(epoch, logs)
        if self._backup is None:
            self._report(epoch, logs)

    def on_epoch_saved(self, epoch: int, logs: Any = None) -> None:
        """Report: BackupAndRestore has done what it does after an epoch."""
        assert self._backup is not None
        self._backup.flush()
        self._report(epoch, logs)

    @property
    def _backup(self) -> BackupAndRestore | None:
        callbacks = getattr(self._list, "callbacks", ())
        return next((c for c in callbacks if isinstance(c, BackupAndRestore)), None)

    def _report(self, epoch: int, logs: Any) -> None:
        done = epoch + 1
        if self._ranks.broadcast(self._last_reported(), "reported epochs") >= done:
            return
        metrics = self._chosen(metrics_of(logs)) | {"epoch": done}
        if self._session is ray.tune:
            metrics["training_iteration"] = done  # Tune's own count starts over with the trial
        try:
            with self._copy() as checkpoint:
                self._tell(metrics, checkpoint)
        except BaseException as error:  # Tune ends a trial that is stopped with SystemExit
            self._leave(error)
        self._reported = done
        _sessions.add(self._directory)
        if self._backup is not None and self._ranks.rank == 0:
            try:
                write_note(self._backup._store.directory, "ray", {"run": self._run, "epoch": done})
            except OSError as error:
                _log.warning(
                    "it cannot be noted that epoch %d was reported: %s. After a restart it may be "
                    "reported once more.",
                    done,
                    error,
                )

    def _tell(self, metrics: dict[str, Any], checkpoint: Any) -> None:
        self._session.report(metrics, checkpoint=checkpoint)

    def _chosen(self, metrics: dict[str, float]) -> dict[str, Any]:
        wanted = self.metrics
        if wanted is None:
            return dict(metrics)
        if not isinstance(wanted, Mapping):
            wanted = {name: name for name in ([wanted] if isinstance(wanted, str) else wanted)}
        missing = [name for name in wanted.values() if name not in metrics]
        if missing:
            raise ConfigError(
                f"metrics= names {', '.join(missing)}, which the logs do not have. They have: "
                f"{', '.join(metrics)}.",
                see="ray",
            )
        return {name: metrics[source] for name, source in wanted.items()}

    @contextlib.contextmanager
    def _copy(self) -> Iterator[Any]:
        """Give a checkpoint of Ray's with the file saved since the last report, on rank 0."""
        if self.checkpoint is None:
            yield None
            return
        self.checkpoint.flush()
        saved = self.checkpoint._checkpointer.store.list_own()
        newest = max(saved, key=lambda info: info.saved_at, default=None)
        if newest is None or newest.saved_at <= self._attached_at or self._ranks.rank:
            yield None
            return
        self._attached_at = newest.saved_at
        with tempfile.TemporaryDirectory(prefix="ratchet-") as directory:
            _copy_file(newest.path, directory)
            checkpoint = self._session.Checkpoint.from_directory(directory)
            checkpoint.set_metadata({_KEY: {"directory": self._directory, "file": newest.name}})
            yield checkpoint

    def _last_reported(self) -> int:
        """Return the last epoch that was reported, before an interruption too; on rank 0."""
        if self._backup is None or self._ranks.rank:
            return self._reported
        note = read_note(self._backup._store.directory).get("ray", {})
        return max(self._reported, note["epoch"] if note.get("run") == self._run else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        return {"run": self._run, "epoch": self._reported, "attached_at": self._attached_at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        self._run, self._reported = state["run"], state["epoch"]
        self._attached_at = state["attached_at"]


def run_directory() -> str:
    """Return the directory of this run of Ray Train, or of this trial of Ray Tune.

    It is `storage_path/name` of the `RunConfig`, and for Tune the trial's directory below. It is
    the same one when Ray starts workers or a trial again, and when the script is run again with the
    same `name`.

    Raises:
        ConfigError: Outside Ray, or if `storage_path` is no directory of a file system.
    """
    kind, path = _place(_session())
    if kind != "local" or not os.path.isabs(path):
        raise ConfigError(
            f"Ray's storage_path is on {kind!r} ({path}), which is no file system that this "
            "machine has mounted. Give RunConfig a storage_path on one that all workers share, or "
            "the callbacks a directory there.",
            see="ray",
        )
    return path


def _place(session: Any) -> tuple[str, str]:
    """Return the kind of the file system that Ray stores a run on, and the path there."""
    storage = session.get_context().get_storage()
    path = storage.trial_fs_path if session is ray.tune else storage.experiment_fs_path
    return str(storage.storage_filesystem.type_name), str(path)


def initialize_distribution() -> None:
    """Connect the workers of a `JaxTrainer` on CPUs, where Ray leaves each of them alone.

    Call it first in the training function, before anything uses JAX; set a distribution, such as
    `keras.distribution.DataParallel(auto_shard_dataset=False)`, after it. Where Ray has connected
    the workers (TPUs and GPUs; a `TorchTrainer`), and with one worker, it does nothing.
    """
    context = ray.train.get_context()
    size, rank = context.get_world_size(), context.get_world_rank()
    if size == 1 or keras.backend.backend() != "jax":
        return
    from keras_ratchet._distributed.jax import is_connected  # noqa: PLC0415  JAX is optional

    if is_connected():
        return
    address = ray.train.collective.broadcast_from_rank_zero(_free_address() if rank == 0 else None)
    keras.distribution.initialize(address, size, rank)


def _free_address() -> str:
    host = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def _session() -> Any:
    """Return `ray.train` in a worker of Ray Train, `ray.tune` in a trial that trains by itself."""
    with contextlib.suppress(RuntimeError, DeprecationWarning), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ray.train.get_context().get_world_rank() is not None:
            return ray.train
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ray.tune.get_context().get_trial_id() is not None:
            return ray.tune
    raise ConfigError(
        "This process is no worker of Ray Train and no trial of Ray Tune: there is nobody to "
        "report to. Leave RayReportCallback and run_directory out, or start the training function "
        "with a Trainer or a Tuner.",
        see="ray",
    )


def _copy_file(path: str, directory: str) -> None:
    """Copy a file with its manifest, by which the copy can be verified, too."""
    name = os.path.basename(path)
    shutil.copyfile(path, os.path.join(directory, name))
    manifest = single_file.manifest_of(path)
    if manifest is not None:
        single_file.write_manifest(os.path.join(directory, name), manifest)
