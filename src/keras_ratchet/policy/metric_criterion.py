"""The base of criteria that check one metric."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.criterion import Criterion, State, undecided
from keras_ratchet.policy.monitor import AnyMode, Directions, Mode, one_of
from keras_ratchet.policy.smoothed import Smoothed
from keras_ratchet.types import Moment, Verdict

Watched = str | Smoothed | None  # None stands for the metric that the whole criterion monitors


class MetricCriterion(Criterion):
    """Checks one metric; a moment without it is undecided and leaves the state as it is.

    A subclass is a frozen dataclass with the fields `monitor` and `mode`, and has `_initial` and
    `_check` in place of `initial` and `check`.
    """

    __slots__ = ()
    monitor: Watched
    mode: AnyMode

    def _initial(self) -> State:
        return None

    def _check(self, state: State, value: float, moment: Moment) -> tuple[State, Verdict]:
        raise NotImplementedError

    def initial(self) -> State:
        """Return the state before the first moment."""
        smoothed = self._smoothed()
        return self._initial() if smoothed is None else smoothed.initial()

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account."""
        smoothed = self._smoothed()
        if smoothed is not None:
            return smoothed.check(state, moment)
        value = moment.metrics.get(self.metric)
        if value is None:
            return state, undecided(self.metric)
        return self._check(state, value, moment)

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._named() or Directions().monitored

    @property
    def direction(self) -> Mode:
        """Which way the metric is better.

        Raises:
            UnknownDirectionError: If it was left open and the metric is no loss.
        """
        return Directions().of(self.metric, self.mode)

    def monitors(self) -> tuple[tuple[str, AnyMode], ...]:
        """Return the metric and its mode."""
        return ((self._named() or "", self.mode),)

    def resolved(self, directions: Directions) -> Criterion:
        """Return the same with name and mode filled in."""
        name = self._named() or directions.monitored
        return _with(self, monitor=self.monitor or name, mode=directions.of(name, self.mode))

    def outline(self) -> str:
        """Return what a state must match to be loaded."""
        smoothed = self._smoothed()
        return type(self).__name__ if smoothed is None else smoothed.outline()

    def _check_monitor(self) -> None:
        """Raise a ConfigError unless the two fields can work."""
        one_of("mode", self.mode, get_args(AnyMode))
        if self.monitor is not None and not isinstance(self._named(), str):
            raise ConfigError(
                "monitor must be the name of one metric, or Smoothed(name). "
                f"Got: {self.monitor!r}.",
                see="monitor",
            )

    def _named(self) -> str | None:
        monitor: Any = self.monitor
        while isinstance(monitor, Smoothed):
            monitor = monitor.of
        name: str | None = monitor
        return name

    def _smoothed(self) -> Smoothed | None:
        if not isinstance(self.monitor, Smoothed):
            return None
        return replace(self.monitor, of=_with(self, monitor=self.monitor.of))


def _with(criterion: Any, **changes: Any) -> Criterion:
    changed: Criterion = replace(criterion, **changes)
    return changed
