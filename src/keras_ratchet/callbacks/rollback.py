"""Go back to the last good state when a training goes bad."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras

from keras_ratchet import _compat
from keras_ratchet._engine.good_state import GoodStates, build
from keras_ratchet._engine.learning_rate import LearningRates
from keras_ratchet._engine.scored import restored
from keras_ratchet.callbacks import _journal
from keras_ratchet.callbacks._base import RatchetCallback
from keras_ratchet.callbacks._metrics import MetricWatch
from keras_ratchet.callbacks.terminate_on_nan import TerminateOnNaN
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.monitor import Mode
from keras_ratchet.policy.recovery import Recovery, RecoveryState, Retries, RolledBack
from keras_ratchet.policy.spikes import RunningMean, Spikes
from keras_ratchet.types import Position, StopReason, Verdict

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
                f"Rollback looks at every batch, and no batch has a {monitor!r}. Monitor a metric "
                f"of the training, such as 'loss'."
            )
        self._rule = Recovery(Spikes(monitor, spike_z, window, mode), every, confirm)
        self._retries = Retries(factor, max_rollbacks)
        self.monitor = monitor
        self.restore_rng = restore_rng
        self.optimizer = optimizer
        self.verbose = verbose
        self._reset()

    def _reset(self) -> None:
        self.rollbacks: list[RolledBack] = []
        self.stop_reason: StopReason | None = None
        self._state = RecoveryState()
        self._states = GoodStates(self.optimizer, self.restore_rng)
        self._metric = MetricWatch(self.monitor, type(self).__name__)
        self._epoch, self._last = 0, -1
        self._due = True  # a state is taken when the next batch begins
        self._metrics_are_void = False
        self._is_mean: bool | None = None

    def set_model(self, model: Any) -> None:
        """Note the model, and have batch hooks called on the training thread."""
        super().set_model(model)
        if self._list is not None:
            _compat.make_synchronous(self._list)

    def on_train_begin(self, logs: Any = None) -> None:
        """Find out now whether going back can work."""
        super().on_train_begin(logs)
        self._reset()
        for callback in getattr(self._list, "callbacks", ()):
            if isinstance(callback, TerminateOnNaN | keras.callbacks.TerminateOnNaN):
                raise ConfigError(
                    "TerminateOnNaN stops training where Rollback goes back. Leave it out: "
                    "Rollback stops too, after max_rollbacks."
                )
        build(self.model)
        rates = LearningRates(self._states.optimizer_of(self.model))
        if self._retries.factor < 1:
            rates.check(type(self).__name__, "pass factor=1.0, which leaves it alone")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch."""
        super().on_epoch_begin(epoch, logs)
        self._epoch, self._last = epoch, -1
        self._state = self._rule.epoch_begins(self._state)
        self._metrics_are_void = False
        self._due = self._due or self._rule.is_due_at_begin(self._state)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Take the first state, and reset the metrics that a NaN has spoilt."""
        if self._metrics_are_void:
            self.model.reset_metrics()
            self._metrics_are_void = False
        if self._due:
            self._take()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Judge the batches that have ended; go back, or take a state when it is time."""
        ended, self._last = batch - self._last, batch
        value = self._metric.read(logs or {})
        if self._is_mean is None:
            self._is_mean = _compat.is_running_mean(self.model, self.monitor)
        if value is None:
            return
        self._state, verdict = self._rule.check(self._state, ended, value, self._is_mean)
        if verdict.kind in ("good", "refused"):
            _log.debug("%s", verdict.reason)
        if verdict.kind == "good":
            self._states.confirm()
        if verdict:
            self._go_back(verdict)
        elif self._rule.is_due(self._state):
            self._take()
        elif batch + 1 >= ((self.params or {}).get("steps") or math.inf):
            self._look()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at the weights, before anybody saves them."""
        if self._epoch_is_partial():
            self._raise_if_interrupted()
        self.on_snapshot_begin()

    def on_snapshot_begin(self) -> None:
        """Look at the weights; BackupAndRestore calls this before it saves."""
        if self._states.good.filled and self.stop_reason is None:
            self._look()

    def on_train_end(self, logs: Any = None) -> None:
        """Free the memory."""
        self._states = GoodStates(self.optimizer, self.restore_rng)
        super().on_train_end(logs)

    def _wind_down(self, error: BaseException) -> None:
        self._states.rescue(self.model)
        self._states = GoodStates(self.optimizer, self.restore_rng)

    def _take(self) -> None:
        """Take a state, unless it is none to go back to."""
        self._due = False
        if self._look():
            return
        good = self._rule.confirm == 0 or not self._states.good.filled
        here = Position(self._epoch, self._last + 1)
        self._states.take(self.model, here, asdict(self._state.mean), good)
        self._state = self._rule.taken(self._state, good)

    def _look(self) -> bool:
        """Go back if a weight is not finite; say whether that was so."""
        problem = self._states.problem(self.model)
        if problem is not None:
            self._go_back(Verdict(True, "not finite", problem))
        return problem is not None

    def _go_back(self, incident: Verdict) -> None:
        model, good = self.model, self._states.good
        again = self._retries.check(len(self.rollbacks), incident, good.filled)
        rates = LearningRates(self._states.optimizer_of(model))
        factor = self._retries.factor if again else 1.0
        rate = {name: value * factor for name, value in rates.read().items()}
        same_epoch = good.position.epoch == self._epoch and good.position.batch > 0
        good.restore(model, metrics=same_epoch)
        restored(self._swap())
        if rates.settable:
            rates.write(rate)
        self._metrics_are_void = not same_epoch
        mean = RunningMean(**good.note) if same_epoch else RunningMean()
        self._state = self._rule.gone_back(self._state, mean)
        self._tell(again, next(iter(rate.values())))
        if not again:
            self.stop_reason = StopReason(again.kind, again.reason, again.values, self._epoch)
            model.stop_training = True

    def _tell(self, again: Verdict, rate: float) -> None:
        to = self._states.good.position
        record = RolledBack(
            self._epoch, self._last, again.kind, again.reason, to.epoch, to.batch, rate
        )
        if again:
            self.rollbacks.append(record)
        _log.warning("epoch %d, batch %d: %s", record.epoch + 1, record.batch + 1, record)
        facts = {"epoch": record.epoch, "batch": record.batch + 1, "reason": str(record)}
        _journal.note(self._list, "rollback", **facts)
        if self.verbose > 0:
            _compat.print_message(f"\nEpoch {record.epoch + 1}: {record}")

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart must not forget."""
        return {
            "state": self._state.to_json(),
            "states": self._states.state_dict(candidate=self._state.candidate is not None),
            "rollbacks": [asdict(record) for record in self.rollbacks],
            "stop_reason": None if self.stop_reason is None else asdict(self.stop_reason),
            "last": self._last,
            "due": self._due,
            "metrics_are_void": self._metrics_are_void,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; training has begun."""
        self._state = RecoveryState.from_json(state["state"])
        self._states.load_state_dict(state["states"], self.model)
        self.rollbacks = [RolledBack(**record) for record in state["rollbacks"]]
        reason = state["stop_reason"]
        self.stop_reason = None if reason is None else StopReason(**reason)
        self._last, self._due = state["last"], state["due"]
        self._metrics_are_void = state["metrics_are_void"]
