"""Stop when a metric reaches a value, exceeds one, or is not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import is_number
from keras_ratchet.policy.criterion import Criterion, State, undecided
from keras_ratchet.policy.metric_criterion import MetricCriterion
from keras_ratchet.policy.monitor import AnyMode, Monitor
from keras_ratchet.policy.smoothed import Smoothed
from keras_ratchet.types import Moment, Verdict


@dataclass(frozen=True, slots=True, init=False)
class _Threshold(MetricCriterion):
    """A metric and a value that it is compared with: `(value)` or `(metric, value)`."""

    monitor: str | Smoothed | None
    value: float
    mode: AnyMode

    def __init__(
        self,
        monitor: str | Smoothed | float | None = None,
        value: float | None = None,
        *,
        mode: AnyMode = "auto",
    ) -> None:
        name = type(self).__name__
        if value is None and not isinstance(monitor, str | Smoothed):
            monitor, value = None, monitor
        if not is_number(value) or math.isnan(value):
            raise ConfigError(
                f"{name} takes a number, or the name of a metric and a number: "
                f"{name}(0.5) or {name}('val_loss', 0.5). Got: {monitor!r}, {value!r}.",
                see="criterion",
            )
        for field, content in (("monitor", monitor), ("value", float(value)), ("mode", mode)):
            object.__setattr__(self, field, content)  # the class is frozen
        self._check_monitor()

    def _monitor(self) -> Monitor:
        return Monitor(self.metric, self.direction)


class Reaches(_Threshold):
    """Stop when a metric is as good as a value, or better.

    NaN has not reached anything. Without a name the metric is the one that EarlyStopping restores
    by.

    Args:
        monitor: Name of the metric, or `Smoothed(name)`; may be left out.
        value: The value.
        mode: "min", "max", or "auto": a loss is minimized; for anything else EarlyStopping asks
            the model.

    Raises:
        ConfigError: If an argument is none of these.

    Example:
        >>> from keras_ratchet.types import Position
        >>> rule = Reaches("val_accuracy", 0.99, mode="max")
        >>> rule.check(None, Moment(Position(3), {"val_accuracy": 0.991}))[1].reason
        'val_accuracy has reached 0.99 (now: 0.991)'
    """

    __slots__ = ()

    def _check(self, state: State, value: float, moment: Moment) -> tuple[State, Verdict]:
        yes = value == self.value or self._monitor().beats(value, self.value)
        has = "has" if yes else "has not"
        reason = f"{self.metric} {has} reached {self.value:.6g} (now: {value:.6g})"
        return state, Verdict(yes, "goal", reason, {"value": value, "goal": self.value})


class Diverges(_Threshold):
    """Stop when a metric is worse than a value.

    An infinity on the wrong side is worse than any number. NaN is not: that is `NotFinite`.
    Without a name it checks the metric that EarlyStopping restores by.

    Args:
        monitor: Name of the metric, or `Smoothed(name)`; may be left out.
        value: The worst value that is tolerated.
        mode: "min", "max", or "auto": a loss is minimized; for anything else EarlyStopping asks
            the model.

    Raises:
        ConfigError: If an argument is none of these.

    Example:
        >>> from keras_ratchet.types import Position
        >>> Diverges(10).check(None, Moment(Position(3), {"val_loss": 12.5}))[1].reason
        'val_loss is worse than 10 (now: 12.5)'
    """

    __slots__ = ()

    def _check(self, state: State, value: float, moment: Moment) -> tuple[State, Verdict]:
        yes = not math.isnan(value) and self._monitor().beats(self.value, value)
        verb = "is" if yes else "is not"
        reason = f"{self.metric} {verb} worse than {self.value:.6g} (now: {value:.6g})"
        return state, Verdict(yes, "diverged", reason, {"value": value, "tolerated": self.value})


@dataclass(frozen=True, slots=True, init=False)
class NotFinite(Criterion):
    """Stop when a metric is NaN or infinite.

    Args:
        *metrics: Names of the metrics; without any, every metric in the logs. As long as one of
            these names is missing from the logs, and the others are finite, it is undecided.

    Example:
        >>> from keras_ratchet.types import Position
        >>> moment = Moment(Position(1), {"loss": float("nan"), "val_loss": 0.5})
        >>> NotFinite().check(None, moment)[1].reason
        'loss is nan'
    """

    metrics: tuple[str, ...]

    def __init__(self, *metrics: str) -> None:
        if not all(isinstance(name, str) for name in metrics):
            raise ConfigError(
                f"NotFinite takes names of metrics. Got: {metrics!r}.", see="criterion"
            )
        object.__setattr__(self, "metrics", metrics)  # the class is frozen

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account."""
        names = self.metrics or tuple(moment.metrics)
        seen = {name: moment.metrics[name] for name in names if name in moment.metrics}
        bad = {name: value for name, value in seen.items() if not math.isfinite(value)}
        if bad:
            reason = ", ".join(f"{name} is {value}" for name, value in bad.items())
            return state, Verdict(True, "not finite", reason, bad)
        missing = [name for name in names if name not in seen]
        if missing:
            return state, undecided(missing[0])
        reason = (
            f"no value is NaN or infinite: {', '.join(names)}"
            if seen
            else "no metric is in the logs"
        )
        return state, Verdict(False, "not finite", reason, seen)

    def expects(self) -> tuple[str, ...]:
        """Return the metrics that were named."""
        return self.metrics

    def __repr__(self) -> str:
        return f"NotFinite({', '.join(map(repr, self.metrics))})"
