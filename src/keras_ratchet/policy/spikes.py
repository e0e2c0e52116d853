"""The loss of one batch, and whether it is a spike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import whole_number
from keras_ratchet.policy.monitor import Mode, one_of
from keras_ratchet.types import Verdict

_LEAST_SPREAD = 0.1  # of the mean's magnitude: a loss that hardly moves makes no spikes


@dataclass(frozen=True, slots=True)
class RunningMean:
    """The mean over an epoch's batches so far, which is what Keras logs at the end of each.

    Attributes:
        batches: Number of batches in it.
        value: The mean.

    Example:
        >>> RunningMean(3, 2.0).since(RunningMean(4, 2.5))
        4.0
    """

    batches: int = 0
    value: float = 0.0

    def since(self, later: RunningMean) -> float:
        """Return the mean over the batches that `later` has and this one has not.

        Keras weighs batches by their size; a smaller last batch is taken for one of full size,
        which brings its value nearer to the mean.
        """
        total = later.batches * later.value - self.batches * self.value
        return total / (later.batches - self.batches)


@dataclass(frozen=True, slots=True)
class Spikes:
    """Finds values that are not finite, and those far on the wrong side of the last ones.

    The distance is in standard deviations of the last `window` values; a deviation of less than
    a tenth of their mean's magnitude counts as a tenth. Until the window is full nothing is a
    spike. Values that are incidents do not enter it.

    Args:
        name: Of the metric.
        z: How many standard deviations make a spike; None: only values that are not finite.
        window: How many values are remembered.
        mode: "min" if smaller is better, "max" if larger is.

    Raises:
        ConfigError: If an argument cannot work.

    Example:
        >>> rule, recent = Spikes("loss", z=6.0, window=4), ()
        >>> for loss in [1.0, 1.2, 0.8, 1.0, 9.0]:
        ...     recent, verdict = rule.check(recent, loss)
        >>> verdict.kind, verdict.reason
        ('spike', 'loss is 9, 56.6 standard deviations from the mean 1 of the last 4')
    """

    name: str
    z: float | None = None
    window: int = 50
    mode: Mode = "min"

    def __post_init__(self) -> None:
        one_of("mode", self.mode, get_args(Mode))
        if self.z is not None and not (math.isfinite(self.z) and self.z > 0):
            raise ConfigError(
                "spike_z must be a number of standard deviations above 0, or None. Got: "
                f"{self.z!r}."
            )
        whole_number("window", self.window, at_least=2, meaning="is a number of batches")

    def check(self, recent: tuple[float, ...], value: float) -> tuple[tuple[float, ...], Verdict]:
        """Take one value into account.

        Args:
            recent: What the last call returned, or `()`.
            value: Of a batch.

        Returns:
            The values to remember, and whether this one is an incident.
        """
        if not math.isfinite(value):
            reason = f"{self.name} is {value}"
            return recent, Verdict(True, "not finite", reason, {"value": value})
        if self.z is None:
            return (), Verdict(False, "fine", f"{self.name} is {value:.6g}")
        if len(recent) == self.window and (distance := self._distance(recent, value)) > self.z:
            mean = sum(recent) / len(recent)
            reason = (
                f"{self.name} is {value:.6g}, {distance:.1f} standard deviations from the mean "
                f"{mean:.6g} of the last {len(recent)}"
            )
            return recent, Verdict(True, "spike", reason, {"value": value, "z": distance})
        recent = (*recent, value)[-self.window :]
        return recent, Verdict(False, "fine", f"{self.name} is {value:.6g}")

    def _distance(self, recent: tuple[float, ...], value: float) -> float:
        """Return how far `value` is on the wrong side, in standard deviations."""
        mean = sum(recent) / len(recent)
        spread = math.sqrt(sum((x - mean) * (x - mean) for x in recent) / len(recent))
        spread = max(spread, _LEAST_SPREAD * abs(mean))
        away = value - mean if self.mode == "min" else mean - value
        if away <= 0:
            return 0.0
        return away / spread if spread > 0 else math.inf
