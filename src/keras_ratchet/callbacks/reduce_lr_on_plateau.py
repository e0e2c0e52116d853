"""Cut the learning rate when a metric no longer improves."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import keras
import numpy as np

from keras_ratchet._distributed import Coordinator
from keras_ratchet._engine.capture.best_weights import BestWeights, check_optimizer
from keras_ratchet._engine.capture.device_copies import KeepOn, check_keep_on
from keras_ratchet._engine.capture.ema import mark_not_swapped, scored_sources
from keras_ratchet._engine.capture.finite import FiniteWatch
from keras_ratchet._engine.capture.optimizers import optimizers_of, rates_of
from keras_ratchet._keras.callbacks import print_message
from keras_ratchet.callbacks import _journal
from keras_ratchet.callbacks._drop_in import stand_in
from keras_ratchet.callbacks._logs import MetricWatch
from keras_ratchet.callbacks._rate_cuts import RateCuts
from keras_ratchet.callbacks.monitor_callback import MonitorCallback
from keras_ratchet.policy.monitor import DeltaMode
from keras_ratchet.policy.plateau import Plateau, PlateauState, Reduction, check_rates

_log = logging.getLogger("keras_ratchet")


@stand_in
class ReduceLROnPlateau(MonitorCallback, keras.callbacks.ReduceLROnPlateau):
    """Reduce the learning rate when a metric has stopped improving.

    Takes every argument of `keras.callbacks.ReduceLROnPlateau`, in its place and with its meaning.
    docs/differences.md lists where the two differ on purpose. NaN never improves and is never best.

    Args:
        monitor: Key of the metric in the logs.
        factor: What the learning rate is multiplied by, above 0 and below 1.
        patience: Number of epochs without an improvement after which it is cut.
        verbose: 1 prints a line for each cut.
        mode: "min", "max" or "auto".
        min_delta: How much better a value must be to count as an improvement.
        cooldown: Number of epochs after a cut for which nothing is counted.
        min_lr: The learning rate is not cut below this.
        min_delta_mode: "absolute", or "relative" to the magnitude of the value to improve on.
        restore_best_weights: Whether training continues from the weights of the best epoch (that
            of the best value, by however small a margin) after each cut.
        restore_optimizer: Whether the optimizer's slots and iterations are restored with them.
        keep_on: Where they are kept, "host" or "device", as in EarlyStopping.
        coordinator: How the processes of this training agree, where that cannot be found out: a
            `keras_ratchet.Coordinator`. To give it to one callback of a list is enough.

    Attributes:
        best: The value to improve on by `min_delta`, or None.
        best_value: The best value, whose weights are restored, or None.
        best_epoch: Index, from 0, of its epoch (0 if there is none).
        wait: Epochs since the last improvement.
        cooldown_counter: Epochs of `cooldown` that are left.
        reductions: A record of each cut: `epoch`, `why`, `before`, `after`.

    Raises:
        ConfigError: If an argument cannot work.
        ScheduleError: At the start of training, if the learning rate belongs to a schedule.
        MissingMetricError: At the end of the first epoch, if the metric is not in the logs and
            cannot appear later; for a `val_` metric after the first validation without it.

    Example:
        ```python
        plateau = ReduceLROnPlateau(factor=0.3, patience=5, restore_best_weights=True)
        model.fit(x, y, validation_data=(x_val, y_val), epochs=100, callbacks=[plateau])
        for cut in plateau.reductions:
            print(cut.epoch, cut.before, cut.after, cut.why)
        ```
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        *,
        min_delta_mode: DeltaMode = "absolute",
        restore_best_weights: bool = False,
        restore_optimizer: Any = False,
        keep_on: KeepOn = "host",
        coordinator: Coordinator | None = None,
    ) -> None:
        self._state = PlateauState()
        super().__init__(
            monitor, mode, None, min_delta, min_delta_mode=min_delta_mode, coordinator=coordinator
        )
        check_rates(factor, min_lr)
        self.factor = factor
        self.min_lr = min_lr
        self.patience = patience
        self.verbose = verbose
        self.cooldown = cooldown
        self.restore_best_weights = restore_best_weights
        self.restore_optimizer = restore_optimizer
        check_keep_on(keep_on)
        self.keep_on: KeepOn = keep_on
        self._plateau()  # raises if the numbers cannot work
        self._reset()

    def _reset(self) -> None:
        self._state = PlateauState()
        self.reductions: list[Reduction] = []
        self._metric = MetricWatch(self.monitor, type(self).__name__)
        self._best_weights, self._watch = self._new_weights()
        self._cuts = RateCuts()

    def _without_run(self) -> dict[str, Any]:
        kept = dict(zip(("_best_weights", "_watch"), self._new_weights(), strict=True))
        return {**super()._without_run(), **kept}

    def _new_weights(self) -> tuple[BestWeights, FiniteWatch]:
        on_device = self.keep_on == "device"
        return BestWeights(self.restore_optimizer, self.keep_on), FiniteWatch(on_device)

    @property
    def wait(self) -> int:
        """Epochs since the last improvement."""
        return self._state.wait

    @wait.setter
    def wait(self, epochs: int) -> None:
        self._state = replace(self._state, wait=epochs)

    @property
    def cooldown_counter(self) -> int:
        """Epochs of `cooldown` that are left."""
        return self._state.cooldown

    @cooldown_counter.setter
    def cooldown_counter(self, epochs: int) -> None:
        self._state = replace(self._state, cooldown=epochs)

    @property
    def best(self) -> float | None:
        """The value to improve on by `min_delta`, or None."""
        return self._state.reference

    @best.setter
    def best(self, value: float | None) -> None:
        self._state = replace(self._state, reference=value)

    @property
    def best_value(self) -> float | None:
        """The best value, or None."""
        return self._state.best

    @property
    def best_epoch(self) -> int:
        """Index, from 0, of the epoch of `best_value`."""
        return self._state.best_epoch or 0

    def _plateau(self) -> Plateau:
        return Plateau(self._rule, self.patience, self.cooldown)

    def in_cooldown(self) -> bool:
        """Return whether the epochs after a cut are still not counted."""
        return self.cooldown_counter > 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the last run; check that cuts can work."""
        self._reset()
        super().on_train_begin(logs)
        self._set_monitor_op_early()
        self._watch.start(self.model)
        if optimizers_of(self._model):
            rates_of(self._model).check(type(self).__name__, f"remove {type(self).__name__}")
        if self.restore_best_weights:
            check_optimizer(self._model, self.restore_optimizer)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Add the learning rate to the logs; check the metric, and cut if it is time."""
        super().on_epoch_end(epoch, logs)
        if self.monitor_op is None:
            self._settle_direction()
        logs = {} if logs is None else logs
        rates = rates_of(self._model).read()
        self._cuts.check(rates, self, self._list)
        for name, rate in rates.items():
            logs[f"learning_rate_{name}" if name else "learning_rate"] = rate
        value = self._metric.read(logs, self._writers)
        if value is None:
            return
        sources = scored_sources(self.model, self._swap(), self.monitor)
        before = self.best_value
        if self._rule.beats(value, before):
            bad = self._watch.find_bad(self.model, sources=sources)
            value = math.nan if self._ranks.any(bad is not None, "weights not finite") else value
        plateau = self._plateau()
        self._state, verdict = plateau.check(self._state, epoch, value)
        if self.restore_best_weights and self.best_value != before:
            self._best_weights.capture(self.model, sources)
        if verdict and self._cut(epoch, verdict.reason):
            self._state = plateau.cut(self._state)

    def _cut(self, epoch: int, why: str) -> bool:
        """Cut the learning rates that are above `min_lr`; return False if there are none."""
        rates = rates_of(self._model)
        before = rates.read()
        cut = {n: before[n] for n in rates.settable if before[n] > np.float32(self.min_lr)}
        if not cut:
            return False
        if self._best_weights.is_captured:
            self._best_weights.restore(self.model)
            mark_not_swapped(self._swap())
            why = f"{why}; training continues from the weights of epoch {self.best_epoch + 1}"
        after = before | {n: max(r * self.factor, self.min_lr) for n, r in cut.items()}
        rates.write(after)
        self._cuts.note(after)
        for name in cut:
            self._tell(epoch, f" {name}" if name else "", after[name], why)
        first = next(iter(cut))
        self.reductions.append(Reduction(epoch, why, before[first], after[first]))
        return True

    def _tell(self, epoch: int, name: str, rate: float, why: str) -> None:
        line = f"ReduceLROnPlateau reducing{name} learning rate to {rate}."
        _log.info("epoch %d: %s %s", epoch + 1, line, why)
        reason = f"learning rate{name} cut to {rate:.6g}: {why}"
        _journal.note(self._list, "reduce_lr", epoch=epoch + 1, reason=reason)
        if self.verbose > 0:
            print_message(f"\nEpoch {epoch + 1}: {line}")

    def on_train_end(self, logs: Any = None) -> None:
        """Free the memory."""
        self._best_weights, self._watch = self._new_weights()
        super().on_train_end(logs)
        self._check_at_end(self._metric.check_at_end)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resume."""
        return {
            "plateau": self._state.to_json(),
            "reductions": [asdict(record) for record in self.reductions],
            "kept": self._best_weights.state_dict(),
            "constants": self._watch.state_dict(self._model),
            "seen": self._metric.seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        self._state = PlateauState.from_json(state["plateau"])
        self.reductions = [Reduction(**record) for record in state["reductions"]]
        self._metric.seen = state["seen"]
        self._best_weights.load_state_dict(state["kept"], self._model)
        self._watch.load_state_dict(state["constants"], self._model)
