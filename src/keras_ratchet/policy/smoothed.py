"""A criterion that sees moving averages of the metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.criterion import Criterion, State
from keras_ratchet.policy.monitor import AnyMode, Directions
from keras_ratchet.types import Moment, Verdict


@dataclass(frozen=True, slots=True)
class Smoothed(Criterion):
    """A criterion, or one metric of it, by exponential moving averages.

    The average is `ema * average + (1 - ema) * value`, and starts with the first value. A missing
    value stays missing, and one that is not finite is passed on as it is; neither changes the
    average.

    The weights that are restored are still those of the best raw value.

    Args:
        of: The criterion that sees the averages of all metrics; or the name of a metric:
            `Patience(10, Smoothed("val_loss"))` is `Smoothed(Patience(10, "val_loss"))`.
        ema: The weight of the past, at least 0 (no smoothing) and below 1.

    Raises:
        ConfigError: If an argument is none of these.

    Example:
        >>> rule, state = Smoothed("loss", ema=0.5), {}
        >>> for loss in [8.0, 4.0, 2.0]:
        ...     state, averages = rule.averaged(state, {"loss": loss})
        >>> averages
        {'loss': 4.0}
    """

    of: Criterion | str
    ema: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ConfigError(
                f"ema, the weight of the past, must be at least 0 and below 1. Got: {self.ema!r}."
            )
        if not isinstance(self.of, Criterion | str):
            raise ConfigError(
                f"Smoothed takes a criterion or the name of a metric. Got: {self.of!r}.",
                see="criterion",
            )

    def initial(self) -> State:
        """Return the state before the first moment."""
        return [{}, self._criterion().initial()]

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account."""
        averages, inner = state
        averages, metrics = self.averaged(averages, moment.metrics)
        inner, verdict = self._criterion().check(inner, replace(moment, metrics=metrics))
        return [averages, inner], verdict

    def averaged(
        self, averages: Mapping[str, float], values: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Return the new averages, and the values as the criterion sees them."""
        fresh = {name: value for name, value in values.items() if math.isfinite(value)}
        moved = {
            name: self.ema * averages[name] + (1 - self.ema) * value if name in averages else value
            for name, value in fresh.items()
        }
        return {**averages, **moved}, {**values, **moved}

    def monitors(self) -> tuple[tuple[str, AnyMode], ...]:
        """Return the metrics that it checks."""
        return self._criterion().monitors()

    def expects(self) -> tuple[str, ...]:
        """Return the metrics that it needs."""
        return self._criterion().expects()

    def needs(self) -> frozenset[str]:
        """Return what else it needs."""
        return self._criterion().needs()

    def resolved(self, directions: Directions) -> Criterion:
        """Return the same with every name and mode filled in."""
        return replace(self, of=self._criterion().resolved(directions))

    def outline(self) -> str:
        """Return what a state must match to be loaded."""
        return f"Smoothed({self._criterion().outline()})"

    def _criterion(self) -> Criterion:
        if isinstance(self.of, Criterion):
            return self.of
        raise ConfigError(
            f"Smoothed({self.of!r}) is a metric, not yet a criterion. Give it to one, as in "
            f"Patience(10, Smoothed({self.of!r})).",
            see="criterion",
        )
