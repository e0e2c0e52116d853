"""The base of callbacks that monitor a metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_ratchet._distributed import Coordinator
from keras_ratchet._keras import fit
from keras_ratchet._keras.metrics import metric_direction, metrics_are_known, names_in_logs
from keras_ratchet._warn import warn
from keras_ratchet.callbacks._logs import writers_before
from keras_ratchet.callbacks.base import RatchetCallback
from keras_ratchet.errors import ConfigError, MissingMetricError, UnknownDirectionError
from keras_ratchet.policy.monitor import DeltaMode, Mode, Monitor, NanRule, close_matches

Ask = Callable[[float, float | None], Any]


class MonitorCallback(RatchetCallback):
    """A callback that monitors a metric, and knows what "better" means for it.

    Args:
        monitor: Key of the metric in the logs.
        mode: "min", "max" or "auto". With "auto" a loss is minimized, and a compiled metric has
            the direction that the model knows, per output too.
        baseline: First value of `best`.
        min_delta: How much better a value must be to count as an improvement. As in Keras,
            the sign is ignored.
        min_delta_mode: "absolute", or "relative" to the magnitude of the best value.
        nan: What a NaN does: "ignore", "stop" or "raise".
        coordinator: How the processes of this training agree, where that cannot be found out: a
            `keras_ratchet.Coordinator`. To give it to one callback of a list is enough.

    Attributes:
        best: The value to improve on, or None.
        monitor_op: `keras.ops.less` or `keras.ops.greater` once the direction is known.

    Raises:
        ConfigError: If an argument cannot work.
        UnknownDirectionError: From the first hook that can know, if "auto" finds no direction.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        mode: str = "auto",
        baseline: float | None = None,
        min_delta: float = 0,
        *,
        min_delta_mode: DeltaMode = "absolute",
        nan: NanRule = "ignore",
        coordinator: Coordinator | None = None,
    ) -> None:
        super().__init__(coordinator=coordinator)
        if not isinstance(monitor, str):
            raise ConfigError(
                f"monitor must be the name of one metric. Got: {monitor!r}.", see="monitor"
            )
        if mode not in ("auto", "min", "max"):
            warn(f"{type(self).__name__} mode '{mode}' is unknown, fallback to auto mode.")
            mode = "auto"
        self.monitor = monitor
        self.mode = mode
        self.best = baseline
        self.min_delta = abs(min_delta)
        self.min_delta_mode = min_delta_mode
        self.nan = nan
        self.monitor_op: Any = None
        self._rule = self._plain = Monitor(monitor, "min", self.min_delta, min_delta_mode, nan)

    def on_train_begin(self, logs: Any = None) -> None:
        """Start a run."""
        super().on_train_begin(logs)
        self.monitor_op = None

    def _set_monitor_op(self) -> None:
        """Set `monitor_op`, or raise; a subclass may set another one."""
        mode = self._direction(self.monitor, self.mode)
        self.monitor_op = keras.ops.less if mode == "min" else keras.ops.greater
        self._plain = self._order(mode)

    def _order(self, mode: Mode) -> Monitor:
        return Monitor(self.monitor, mode, self.min_delta, self.min_delta_mode, self.nan)

    def _settle_direction(self) -> None:
        """Set what is better: by `monitor_op`, or by a subclass's `_is_improvement`."""
        self._set_monitor_op()
        mode: Mode = "min" if bool(self.monitor_op(0.0, 1.0)) else "max"
        self._rule = self._plain = self._order(mode)
        if self._decides_itself:
            ask = _LastAnswer(self._is_improvement)
            self._rule = _AskedMonitor(self.monitor, mode, nan=self.nan, ask=ask)

    @property
    def _decides_itself(self) -> bool:
        """Whether a subclass decides what an improvement is."""
        return type(self)._is_improvement is not MonitorCallback._is_improvement

    def _direction(self, name: str, mode: str) -> Mode:
        """Return the direction of a metric; with "auto" the one that the model knows."""
        if mode == "auto":
            mode = self._known_direction(name) or "auto"
        if mode == "auto":
            close = close_matches(name, names_in_logs(self._model))
            hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise UnknownDirectionError(
                f"{type(self).__name__} cannot tell whether {name!r} should be minimized or "
                "maximized: it is neither a loss nor a compiled metric with a known direction."
                f"{hint} Pass mode='min' or mode='max'."
            )
        return "min" if mode == "min" else "max"

    def _known_direction(self, name: str) -> Any:
        """Return what the model knows of a metric: "min", "max" or None."""
        return metric_direction(self._model, name)

    def _check_at_end(self, check: Callable[[], None]) -> None:
        """Raise what `check` raises, after all callbacks have cleaned up; not if training stopped.

        Args:
            check: Raises a MissingMetricError if the metric never came.
        """
        try:
            if not getattr(self._model, "stop_training", False):
                check()
        except MissingMetricError as error:
            self._leave(error)

    def _writers(self) -> list[str]:
        """Return the names of whatever may still add the metric to the logs of this epoch."""
        return writers_before(self, self._list, fit.epoch_iterator() is not None)

    def _open_names(self) -> list[str]:
        """Return the metrics whose direction only the model knows."""
        return [self.monitor] if self.mode == "auto" else []

    def _set_monitor_op_early(self) -> None:
        """Set the direction now if the model's metrics are known already."""
        names = self._open_names()
        if not names or metrics_are_known(self._model, names):
            self._settle_direction()

    def _is_improvement(self, monitor_value: float, reference_value: float | None) -> bool:
        return self._plain.improves(float(monitor_value), reference_value)


@dataclass(frozen=True, slots=True)
class _AskedMonitor(Monitor):
    """An order that a subclass's `_is_improvement` decides, also about the best epoch, as in Keras.

    NaN is no improvement, whatever the function returns.

    Args:
        ask: Returns whether a value improves on another one, or on nothing (None).
    """

    ask: Ask = field(kw_only=True)

    def beats(self, value: float, reference: float | None) -> bool:
        """Return whether `value` improves on `reference`."""
        return self.improves(value, reference)

    def improves(self, value: float, reference: float | None) -> bool:
        """Return whether `value` improves on `reference`."""
        return not math.isnan(value) and bool(self.ask(value, reference))


class _LastAnswer:
    """Remembers the last answer of a function: an epoch asks for patience and for what is best.

    Args:
        ask: The function.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._last: tuple[float, float | None, bool] | None = None

    def __call__(self, value: float, reference: float | None) -> bool:
        """Return the answer of the function."""
        if self._last is None or self._last[:2] != (value, reference):
            self._last = value, reference, bool(self._ask(value, reference))
        return self._last[2]
