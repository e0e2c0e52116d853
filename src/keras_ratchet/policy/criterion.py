"""When to stop: pure folds `(state, moment) -> (state, verdict)`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.types import Moment, Verdict


@dataclass(frozen=True, slots=True)
class PatienceState:
    """What Patience remembers between two checks.

    Attributes:
        wait: Checks since the last improvement that counted.
        reference: The value that the next one has to improve on (by `min_delta`).
        best: The best value seen, however small the gain; its epoch is the one to restore.
        best_epoch: Index, from 0, of the epoch of `best`.
        checks: Values looked at so far.
    """

    wait: int = 0
    reference: float | None = None
    best: float | None = None
    best_epoch: int | None = None
    checks: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the state as data that strict JSON can hold (infinities as strings)."""
        return {key: _encode(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PatienceState:
        """Return the state that `to_json` described."""
        return cls(
            wait=int(data["wait"]),
            reference=_decode(data["reference"]),
            best=_decode(data["best"]),
            best_epoch=None if data["best_epoch"] is None else int(data["best_epoch"]),
            checks=int(data["checks"]),
        )


@dataclass(frozen=True, slots=True)
class Patience:
    """Stop after `limit` checks in a row without an improvement.

    This is Keras's rule: a moment without the metric is no check; `limit=0` acts as 1; the
    first epoch never stops; with a `baseline` the count goes on until the baseline is beaten,
    while a check that improves on the best so far never stops.
    `min_delta` decides about patience only: `best` follows the raw values.

    Args:
        limit: Number of checks without an improvement that stops training, at least 0.
        monitor: The metric and its order.
        baseline: A value that has to be beaten before the count is reset at all.
        start_from_epoch: Index of the first epoch that is looked at.

    Example:
        >>> from keras_ratchet.types import Position
        >>> rule, state = Patience(2, Monitor("loss")), PatienceState()
        >>> for epoch, loss in enumerate([1.0, 0.5, 0.6, 0.7]):
        ...     state, verdict = rule.check(state, Moment(Position(epoch + 1), {"loss": loss}))
        >>> bool(verdict), state.best_epoch
        (True, 1)
        >>> verdict.reason
        'loss has not improved on 0.5 for 2 checks (best: 0.5 in epoch 2, now: 0.7)'
    """

    limit: int
    monitor: Monitor
    baseline: float | None = None
    start_from_epoch: int = 0

    def __post_init__(self) -> None:
        for name, value in (("patience", self.limit), ("start_from_epoch", self.start_from_epoch)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(
                    f"{name} counts epochs, so it must be a whole number >= 0. Got: {value!r}."
                )
        if self.baseline is not None and math.isnan(self.baseline):
            raise ConfigError("baseline is NaN, which no value can beat. Give a number or None.")

    def check(self, state: PatienceState, moment: Moment) -> tuple[PatienceState, Verdict]:
        """Take one moment into account.

        Args:
            state: What the last call returned, or `PatienceState()`.
            moment: The end of an epoch.

        Returns:
            The new state and whether to stop, with the reason.
        """
        value = moment.metrics.get(self.monitor.name)
        if value is None or moment.epoch < self.start_from_epoch:
            return state, Verdict(False, "waiting", f"{self.monitor.name} is not looked at yet")
        after = self._count(state, value, moment.epoch)
        if math.isnan(value) and self.monitor.nan != "ignore":
            reason = f"{self.monitor.name} is NaN"
            return after, Verdict(True, "nan", reason, self._values(after, value))
        if self.monitor.improves(value, state.reference):
            reason = f"{self.monitor.name} improved to {value:.6g}"
            return after, Verdict(False, "improved", reason, self._values(after, value))
        if after.wait >= self.limit and moment.epoch > 0:
            return after, Verdict(
                True, "patience", self._sentence(after, value), self._values(after, value)
            )
        reason = f"{self.monitor.name} has not improved for {after.wait} of {self.limit} checks"
        return after, Verdict(False, "waiting", reason, self._values(after, value))

    def _count(self, state: PatienceState, value: float, epoch: int) -> PatienceState:
        after = replace(state, wait=state.wait + 1, checks=state.checks + 1)
        if self.monitor.beats(value, state.best):
            after = replace(after, best=value, best_epoch=epoch)
        if self.monitor.improves(value, state.reference):
            after = replace(after, reference=value)
            if self.baseline is None or self.monitor.improves(value, self.baseline):
                after = replace(after, wait=0)
        return after

    def _sentence(self, state: PatienceState, value: float) -> str:
        checks = f"{state.wait} check{'s' if state.wait != 1 else ''}"
        if state.best is None or state.best_epoch is None or state.reference is None:
            return f"{self.monitor.name} has been NaN for {checks}"
        bar = state.reference
        if self.baseline is not None and not self.monitor.improves(bar, self.baseline):
            bar = self.baseline
        return (
            f"{self.monitor.name} has not improved on {bar:.6g} for {checks} "
            f"(best: {state.best:.6g} in epoch {state.best_epoch + 1}, now: {value:.6g})"
        )

    def _values(self, state: PatienceState, value: float) -> dict[str, float]:
        values = {"value": value, "wait": float(state.wait)}
        if state.best is not None:
            values["best"] = state.best
        return values


def _encode(value: float | None) -> float | str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode(value: float | str | None) -> float | None:
    return None if value is None else float(value)
