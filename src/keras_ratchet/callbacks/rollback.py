"""Go back to the last good state when a training goes bad."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras

from keras_ratchet._engine.capture.building import build
from keras_ratchet._engine.capture.ema import restored
from keras_ratchet._engine.rollback.recovery_point import RecoveryPoints
from keras_ratchet._engine.rollback.rollback_engine import RollbackEngine
from keras_ratchet._keras.callbacks import print_message
from keras_ratchet.callbacks import _journal
from keras_ratchet.callbacks._logs import MetricWatch
from keras_ratchet.callbacks._rate_cuts import Cuts
from keras_ratchet.callbacks.base import RatchetCallback
from keras_ratchet.callbacks.terminate_on_nan import TerminateOnNaN
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.monitor import Mode
from keras_ratchet.policy.rollback import Retries, RollbackRule, RolledBack
from keras_ratchet.policy.spikes import Spikes
from keras_ratchet.types import StopReason

_log = logging.getLogger("keras_ratchet")


class Rollback(RatchetCallback):
    """Go back to the last good state when the loss or a weight is NaN or infinite, and go on.

    The weights and the optimizer are put back, the learning rate is cut, and training goes on
    with the next batch: what the batches since then have taught is lost, the poisoned batch
    included. After too many times the model keeps the good state and training stops.
    docs/recovering.md tells what a good state is and what it costs.

    Args:
        monitor: Key of the metric in the logs of a batch.
        factor: What the learning rate is multiplied by each time; 1.0 leaves it alone.
        max_rollbacks: How often at the most; the next incident stops training.
        every: A state is taken after this many batches, or "epoch": when an epoch begins.
        confirm: How many batches without an incident make it a good one. With 0 it is good at
            once, and host memory holds one copy of weights and optimizer instead of two.
        spike_z: A batch whose loss is this many standard deviations above the mean of the last
            `window` is an incident too. None: only what is not finite is.
        window: Number of batches for `spike_z`.
        mode: "min" if smaller is better, "max" if larger is.
        restore_rng: Whether the random streams are put back too. Otherwise the next batch is
            trained with other random numbers than the last attempt.
        optimizer: True for the model's; in a custom loop the loop's (Keras or torch).
        verbose: 1 prints a line each time.

    Attributes:
        rollbacks: A record of each time: `epoch`, `batch`, `why`, `to_epoch`, `to_batch`,
            `learning_rate`.
        stop_reason: A `StopReason` once this callback has stopped training, else None.

    Raises:
        ConfigError: If an argument cannot work; at train begin also if TerminateOnNaN is in the
            list, which would stop where this goes back.
        ScheduleError: At train begin, if the learning rate belongs to a schedule.
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
    ) -> None:
        super().__init__()
        if monitor.startswith("val_"):
            raise ConfigError(
                f"Rollback checks every batch, but the logs of batches have no {monitor!r}. "
                "Monitor a training metric, such as 'loss'."
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
        self._rescuer = RollbackEngine(self._rule, self._retries, self._no_states())
        self._cuts = Cuts(self)

    def _no_states(self) -> RecoveryPoints:
        return RecoveryPoints(self.optimizer, self.restore_rng)

    def _without_run(self) -> dict[str, Any]:
        rescuer = replace(self._rescuer, states=self._no_states())
        return {**super()._without_run(), "_rescuer": rescuer}

    @property
    def rollbacks(self) -> list[RolledBack]:
        """A record of each time that training went back, and on."""
        return self._rescuer.rollbacks

    @property
    def _needs_batch_hooks(self) -> bool:
        return True

    def on_train_begin(self, logs: Any = None) -> None:
        """Find out now whether going back can work."""
        super().on_train_begin(logs)
        self._reset()
        for callback in getattr(self._list, "callbacks", ()):
            if isinstance(callback, TerminateOnNaN | keras.callbacks.TerminateOnNaN):
                raise ConfigError(
                    "TerminateOnNaN stops training where Rollback would roll back. Remove it: "
                    "Rollback also stops, after max_rollbacks."
                )
        build(self.model)
        self._rescuer.begin(self.model, type(self).__name__)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch."""
        super().on_epoch_begin(epoch, logs)
        self._rescuer.epoch_begins(epoch)
        self._cuts.epoch_begins()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Take the first state; look, once an epoch, whether the last cut has lasted."""
        if self._cuts.due:
            self._cuts.look(self._rescuer.rates(self.model))
        if self._rescuer.needs_model:
            self._act(self._rescuer.batch_begins(self.model))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """RankingMetric the batches that have ended; go back, or take a state when it is time."""
        value = self._metric.read(logs or {})
        if value is not None:
            last = batch + 1 >= ((self.params or {}).get("steps") or math.inf)
            self._act(self._rescuer.batch_ends(self, batch, value, last))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at the weights, before anybody saves them."""
        super().on_epoch_end(epoch, logs)
        self._act(self._rescuer.look(self.model))

    def on_snapshot_begin(self) -> None:
        """Look at the weights; BackupAndRestore calls this before it saves."""
        self._act(self._rescuer.look(self.model))

    def on_train_end(self, logs: Any = None) -> None:
        """Free the memory."""
        self._rescuer.states = self._no_states()
        super().on_train_end(logs)

    def _wind_down(self, error: BaseException) -> None:
        self._rescuer.rescue(self.model)
        self._rescuer.states = self._no_states()

    def _act(self, record: RolledBack | None) -> None:
        """Tell of what has happened, if anything has; stop if it was too often."""
        if record is None:
            return
        restored(self._swap())
        level = logging.INFO if self.verbose > 0 else logging.WARNING  # not twice on the screen
        _log.log(level, "epoch %d, batch %d: %s", record.epoch + 1, record.batch + 1, record)
        facts = {"epoch": record.epoch, "batch": record.batch + 1, "reason": str(record)}
        _journal.note(self._list, "rollback", **facts)
        if self.verbose > 0:
            print_message(f"\nEpoch {record.epoch + 1}: {record}")
        if self._retries.factor < 1:
            self._cuts.left(self._rescuer.rates(self.model))
        if (end := self._rescuer.gave_up) is not None:
            self.stop_reason = StopReason(end.kind, end.reason, end.values, record.epoch)
            self.model.stop_training = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart must not forget."""
        reason = None if self.stop_reason is None else self.stop_reason.to_dict()
        return {"rescuer": self._rescuer.state_dict(self._model), "stop_reason": reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; training has begun."""
        self._rescuer.load_state_dict(state["rescuer"], self.model)
        self.stop_reason = StopReason.from_dict(state["stop_reason"])
