"""Roll back to the last good state when training diverges."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_ratchet._distributed import Coordinator
from keras_ratchet._engine.capture.building import build
from keras_ratchet._engine.capture.ema import mark_not_swapped
from keras_ratchet._engine.rollback.recovery_point import RecoveryPoints
from keras_ratchet._engine.rollback.rollback_engine import RollbackEngine
from keras_ratchet._keras.callbacks import print_message
from keras_ratchet.callbacks import _journal
from keras_ratchet.callbacks._logs import MetricWatch
from keras_ratchet.callbacks._ranks import mean_of_ranks
from keras_ratchet.callbacks._rate_cuts import RateCuts
from keras_ratchet.callbacks.base import RatchetCallback
from keras_ratchet.callbacks.terminate_on_nan import TerminateOnNaN
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.monitor import Mode
from keras_ratchet.policy.rollback import Retries, RollbackRule, RolledBack
from keras_ratchet.policy.spikes import Spikes
from keras_ratchet.types import StopReason

_log = logging.getLogger("keras_ratchet")


class Rollback(RatchetCallback):
    """Roll back to the last good state when the loss or a weight is NaN or infinite, and continue.

    The weights and the optimizer are restored, the learning rate is cut, and training continues
    with the next batch: the updates since the good state are lost, that of the poisoned batch
    included. After too many rollbacks the model keeps the good state and training stops.
    docs/recovering.md explains what a good state is and what it costs.

    Args:
        monitor: Key of the metric in the logs of a batch.
        factor: What the learning rate is multiplied by at each rollback; 1.0 leaves it alone.
        max_rollbacks: Number of rollbacks after which the next incident stops training.
        every: The state is captured after this many batches, or "epoch": at the start of each.
        confirm: Number of batches without an incident that make a state a good one. With 0 it is
            good at once, and host memory holds one copy of weights and optimizer instead of two.
        spike_z: A batch whose loss is this many standard deviations above the mean of the last
            `window` is an incident too. None: only values that are not finite are.
        window: Number of batches for `spike_z`.
        mode: "min" if smaller is better, "max" if larger is.
        restore_rng: Whether the random streams are restored too. Otherwise the next batch is
            trained with other random numbers than the last attempt.
        optimizer: True for the model's; in a custom loop the loop's (Keras or torch).
        verbose: 1 prints a line for each rollback.
        coordinator: How the processes of this training agree, where that cannot be found out: a
            `keras_ratchet.Coordinator`. To give it to one callback of a list is enough.

    Attributes:
        rollbacks: A record of each rollback: `epoch_index` and `batch_index` of the incident,
            `kind`, `why`, the completed epochs and batches that it went back to, `to_epoch` and
            `to_batch`, and `learning_rate`.
        stop_reason: A `StopReason` once this callback has stopped training, else None.

    Raises:
        ConfigError: If an argument cannot work; at the start of training also if TerminateOnNaN
            is in the list, which would stop where this rolls back.
        ScheduleError: At the start of training, if the learning rate belongs to a schedule.
        MissingMetricError: After the first batch, if the metric is not in its logs.

    Example:
        ```python
        rollback = Rollback(factor=0.5, every=100, confirm=10, spike_z=8.0)
        model.fit(x, y, epochs=50, callbacks=[rollback])
        for record in rollback.rollbacks:
            print(record)
        ```
    """

    def __init__(
        self,
        monitor: str = "loss",
        factor: float = 0.5,
        *,
        max_rollbacks: int = 5,
        every: int | str = 100,
        confirm: int = 10,
        spike_z: float | None = None,
        window: int = 50,
        mode: Mode = "min",
        restore_rng: bool = False,
        optimizer: Any = True,
        verbose: int = 0,
        coordinator: Coordinator | None = None,
    ) -> None:
        super().__init__(coordinator=coordinator)
        if monitor.startswith("val_"):
            raise ConfigError(
                f"Rollback checks every batch, but the logs of batches have no {monitor!r}. "
                "Monitor a training metric, such as 'loss'.",
                see="monitor",
            )
        self._rule = RollbackRule(Spikes(monitor, spike_z, window, mode), every, confirm)
        self._retries = Retries(factor, max_rollbacks)
        self.monitor = monitor
        self.restore_rng = restore_rng
        self.optimizer = optimizer
        self.verbose = verbose
        self._reset()

    def _reset(self) -> None:
        self.stop_reason: StopReason | None = None
        self._metric = MetricWatch(self.monitor, type(self).__name__)
        self._engine = RollbackEngine(self._rule, self._retries, self._no_points())
        self._cuts = RateCuts()

    def _no_points(self) -> RecoveryPoints:
        return RecoveryPoints(self.optimizer, self.restore_rng, self._ranks)

    def _without_run(self) -> dict[str, Any]:
        engine = replace(self._engine, points=RecoveryPoints(self.optimizer, self.restore_rng))
        return {**super()._without_run(), "_engine": engine}

    @property
    def rollbacks(self) -> list[RolledBack]:
        """A record of each rollback."""
        return self._engine.rollbacks

    @property
    def _needs_batch_hooks(self) -> bool:
        return True

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that rolling back can work."""
        super().on_train_begin(logs)
        self._reset()
        for callback in getattr(self._list, "callbacks", ()):
            if isinstance(callback, TerminateOnNaN | keras.callbacks.TerminateOnNaN):
                raise ConfigError(
                    "TerminateOnNaN stops training where Rollback would roll back. Remove it: "
                    "Rollback also stops, after max_rollbacks.",
                    see="callback-list",
                )
        build(self.model)
        self._engine.check(self.model, type(self).__name__)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Store the epoch."""
        super().on_epoch_begin(epoch, logs)
        self._engine.start_epoch(epoch)
        self._cuts.start_epoch()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Capture a state if one is due; check, once an epoch, whether the last cut has lasted."""
        if self._cuts.is_due:
            self._cuts.check(self._engine.rates(self.model), self, self._list)
        if self._engine.needs_model:
            self._act(self._engine.start_batch(self.model))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Check the batches that have ended; roll back, or capture a state if one is due."""
        value = self._metric.read(logs or {})
        if self._ranks.world_size > 1:  # a rank that rolls back later has spoilt the others
            value = mean_of_ranks(self._ranks, value, f"{self.monitor} of a batch")
        if value is not None:
            last = batch + 1 >= ((self.params or {}).get("steps") or math.inf)
            self._act(self._engine.end_batch(self, batch, value, last))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Check the weights, before a callback saves them."""
        super().on_epoch_end(epoch, logs)
        self._act(self._engine.check_weights(self.model))

    def on_snapshot_begin(self) -> None:
        """Check the weights; BackupAndRestore calls this before it saves."""
        self._act(self._engine.check_weights(self.model))

    def on_train_end(self, logs: Any = None) -> None:
        """Free the memory."""
        self._engine.points = self._no_points()
        super().on_train_end(logs)

    def _wind_down(self, error: BaseException) -> None:
        self._engine.restore_if_bad(self.model)
        self._engine.points = self._no_points()

    def _act(self, record: RolledBack | None) -> None:
        """Report a rollback, if there was one; stop training if there were too many."""
        if record is None:
            return
        mark_not_swapped(self._swap())
        level = logging.INFO if self.verbose > 0 else logging.WARNING  # not twice on the screen
        epoch, batch = record.epoch_index, record.batch_index
        _log.log(level, "epoch %d, batch %d: %s", epoch + 1, batch + 1, record)
        reason = str(record)
        _journal.note(self._list, "rollback", epoch=epoch, batch=batch + 1, reason=reason)
        if self.verbose > 0:
            print_message(f"\nEpoch {epoch + 1}: {record}")
        if self._retries.factor < 1:
            self._cuts.note(self._engine.rates(self.model))
        if (end := self._engine.gave_up) is not None:
            self.stop_reason = StopReason(end.kind, end.reason, end.values, epoch)
            self.model.stop_training = True

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resume."""
        reason = None if self.stop_reason is None else self.stop_reason.to_dict()
        return {"rescuer": self._engine.state_dict(self._model), "stop_reason": reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        self._engine.load_state_dict(state["rescuer"], self.model)
        self.stop_reason = StopReason.from_dict(state["stop_reason"])
