"""Stop when a metric no longer improves by more than its own noise. Experimental."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from keras_ratchet.errors import ConfigError, MetricError
from keras_ratchet.policy._arguments import is_number, whole_number
from keras_ratchet.policy.criterion import State
from keras_ratchet.policy.metric_criterion import MetricCriterion
from keras_ratchet.policy.monitor import AnyMode
from keras_ratchet.types import Moment, Verdict


@dataclass(frozen=True, slots=True)
class SignificantImprovement(MetricCriterion):
    """Stop after `limit` checks in a row without a significant improvement. Experimental.

    This is patience with a yardstick from the data instead of `min_delta`: the losses of the
    validation batches are compared pairwise with those of the last significant improvement. With
    the mean d and the standard error SE = s / sqrt(n) of the n differences, a check is an
    improvement if d > c SE (a one-sided paired test; c = 1.64 is a p of about 0.05). How hard each
    batch is cancels out.

    The batches' own losses are recovered from the running means that Keras logs anyway: no extra
    pass, but one number has to be read per validation batch. The metric must be a mean over the
    samples, and the validation data must come in the same order and batches each time.

    A check with a batch that is not finite is no improvement, and counts. The first epoch never
    stops. A moment without validation is undecided.

    Args:
        c: How many standard errors an improvement is at least; 0 or more.
        limit: Number of checks without one that stops training, at least 1.
        monitor: Name of the metric; one of the validation.
        mode: "min", "max", or "auto": a loss is minimized; for anything else EarlyStopping asks
            the model.

    Raises:
        ConfigError: If an argument is none of these; when the batches were not recorded.
        MetricError: When two validations cannot be paired, or have one batch only.

    Example:
        >>> from keras_ratchet.types import Position
        >>> rule = SignificantImprovement(c=2, limit=1)
        >>> state = rule.initial()
        >>> for epoch, losses in enumerate([[0.9, 0.5, 0.7], [0.7, 0.6, 0.5]], 1):
        ...     metrics, batches = {"val_loss": sum(losses) / 3}, {"val_loss": losses}
        ...     moment = Moment(Position(epoch), metrics, batches=batches)
        ...     state, verdict = rule.check(state, moment)
        >>> verdict.reason
        'val_loss has not improved by 2 standard errors (0.1 each) for 1 of 1 checks (gain: 0.1)'
    """

    c: float = 1.0
    limit: int = 10
    monitor: str = "val_loss"
    _: KW_ONLY
    mode: AnyMode = "auto"

    def __post_init__(self) -> None:
        if not (is_number(self.c) and self.c >= 0):
            raise ConfigError(
                f"c is a number of standard errors, so it must be at least 0. Got: {self.c!r}."
            )
        whole_number("limit", self.limit, at_least=1, meaning="counts checks")
        if not isinstance(self.monitor, str):
            raise ConfigError(
                "SignificantImprovement measures the noise itself, so its monitor must be a "
                f"name and not Smoothed. Got: {self.monitor!r}.",
                see="criterion",
            )
        self._check_monitor()

    def needs(self) -> frozenset[str]:
        """Return "batches": those of the validation have to be recorded."""
        return frozenset({"batches"})

    def _initial(self) -> State:
        return {"reference": None, "wait": 0}

    def _check(self, state: State, value: float, moment: Moment) -> tuple[State, Verdict]:
        losses = self._losses(moment)
        gain, error = math.nan, math.nan
        if all(map(math.isfinite, losses)):
            if state["reference"] is None:
                first = Verdict(
                    False, "improved", f"{self.metric} is the first value to compare with"
                )
                return {"reference": list(losses), "wait": 0}, first
            gain, error = self._compare(state["reference"], losses)
        if gain > self.c * error:
            reason = f"{self.metric} improved by {gain:.3g} (standard error: {error:.3g})"
            values = self._values(value, gain, error, 0)
            after = {"reference": list(losses), "wait": 0}
            return after, Verdict(False, "improved", reason, values)
        wait = state["wait"] + 1
        reason = (
            f"{self.metric} has not improved by {self.c:g} standard errors ({error:.3g} each) for "
            f"{wait} of {self.limit} checks (gain: {gain:.3g})"
        )
        verdict = Verdict(
            wait >= self.limit and moment.epoch > 0,
            "significance",
            reason,
            self._values(value, gain, error, wait),
        )
        return {"reference": state["reference"], "wait": wait}, verdict

    def _losses(self, moment: Moment) -> Sequence[float]:
        losses = moment.batches.get(self.metric)
        if losses is None:
            raise ConfigError(
                f"SignificantImprovement needs the values of {self.metric!r} batch by batch. "
                "EarlyStopping records those of `val_` metrics in fit's validation; in a "
                f"custom loop, pass Moment(..., batches={{{self.metric!r}: [...]}}).",
                see="validation-batches",
            )
        if len(losses) < 2:
            raise MetricError(
                f"SignificantImprovement compares the batches of two validations, and "
                f"{self.metric!r} has {len(losses)}. Use smaller validation batches.",
                see="validation-batches",
            )
        return losses

    def _compare(self, reference: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
        """Return the mean gain over the reference, and its standard error."""
        if len(reference) != len(losses):
            raise MetricError(
                f"SignificantImprovement pairs the batches of two validations, but {self.metric!r} "
                f"had {len(reference)} batches before and has {len(losses)} now. Validate on the "
                f"same batches each time.",
                see="validation-batches",
            )
        sign = 1 if self.direction == "min" else -1
        gains = [sign * (a - b) for a, b in zip(reference, losses, strict=True)]
        mean = sum(gains) / len(gains)
        variance = sum((gain - mean) * (gain - mean) for gain in gains) / (len(gains) - 1)
        return mean, math.sqrt(variance / len(gains))

    def _values(self, value: float, gain: float, error: float, wait: int) -> dict[str, float]:
        return {"value": value, "gain": gain, "standard_error": error, "wait": float(wait)}
