"""Stop when a metric no longer improves: Keras's rule, and the best rule there is."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, asdict, dataclass, replace
from typing import Literal

from keras_ratchet.errors import ConfigError, NonFiniteError
from keras_ratchet.policy._arguments import whole_number
from keras_ratchet.policy.criterion import State
from keras_ratchet.policy.metric_criterion import MetricCriterion
from keras_ratchet.policy.monitor import AnyMode, DeltaMode, Monitor, NanRule
from keras_ratchet.policy.smoothed import Smoothed
from keras_ratchet.types import Moment, Verdict

_LEAST, _SHARE = 10, 0.5  # of Patience("auto")


@dataclass(frozen=True, slots=True)
class PatienceState:
    """What Patience remembers between two checks; its state is this as a dict.

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


@dataclass(frozen=True, slots=True)
class Patience(MetricCriterion):
    """Stop after `limit` checks in a row without an improvement.

    This is Keras's rule: a moment without the metric is no check; `limit=0` acts as 1; the
    first epoch never stops; with a `baseline` the count goes on until the baseline is beaten,
    while a check that improves on the best so far never stops.
    `min_delta` decides about patience only: `best` follows the raw values.
    NaN is no improvement, so it counts; an infinity takes its place on the number line.

    Args:
        limit: Number of checks without an improvement that stops training, at least 0; or
            "auto": half the checks up to the last improvement, and at least 10. A run twice as
            long is given twice the patience, so nothing has to be tuned to its length.
        monitor: Name of the metric, or `Smoothed(name)`.
        mode: "min", "max", or "auto": a loss is minimised, EarlyStopping asks the model about
            anything else.
        min_delta: How much better a value has to be to count as an improvement.
        min_delta_mode: "absolute", or "relative" to the magnitude of the reference.
        nan: What a NaN does: "ignore" (it counts), "stop" at once, or "raise" a NonFiniteError.
        baseline: A value that has to be beaten before the count is reset at all.
        start_from_epoch: Index of the first epoch that is looked at.

    Raises:
        ConfigError: If an argument is none of these.

    Example:
        >>> from keras_ratchet.types import Position
        >>> rule = Patience(2, "loss")
        >>> state = rule.initial()
        >>> for epoch, loss in enumerate([1.0, 0.5, 0.6, 0.7]):
        ...     state, verdict = rule.check(state, Moment(Position(epoch + 1), {"loss": loss}))
        >>> bool(verdict), state["best_epoch"]
        (True, 1)
        >>> verdict.reason
        'loss has not improved on 0.5 for 2 checks (best: 0.5 in epoch 2, now: 0.7)'
    """

    limit: int | Literal["auto"]
    monitor: str | Smoothed | None = "val_loss"
    _: KW_ONLY
    mode: AnyMode = "auto"
    min_delta: float = 0.0
    min_delta_mode: DeltaMode = "absolute"
    nan: NanRule = "ignore"
    baseline: float | None = None
    start_from_epoch: int = 0

    def __post_init__(self) -> None:
        self._check_monitor()
        Monitor(self.metric, "min", self.min_delta, self.min_delta_mode, self.nan)
        if self.limit != "auto":
            whole_number("patience", self.limit, at_least=0, meaning="counts epochs")
        start = self.start_from_epoch
        whole_number("start_from_epoch", start, at_least=0, meaning="counts epochs")
        if self.baseline is not None and math.isnan(self.baseline):
            raise ConfigError("baseline is NaN, which no value can beat. Give a number or None.")

    def _initial(self) -> State:
        return asdict(PatienceState())

    def _check(self, state: State, value: float, moment: Moment) -> tuple[State, Verdict]:
        before = PatienceState(**state)
        if moment.epoch < self.start_from_epoch:
            return state, Verdict(False, "waiting", f"{self.metric} is not looked at yet")
        if math.isnan(value) and self.nan == "raise":
            raise NonFiniteError(f"{self.metric} is NaN in epoch {moment.epoch + 1} (nan='raise').")
        monitor = self._monitor()
        after = self._count(monitor, before, value, moment.epoch)
        improved = monitor.improves(value, before.reference)
        return asdict(after), self._verdict(after, value, improved, moment.epoch)

    def _monitor(self) -> Monitor:
        return Monitor(self.metric, self.direction, self.min_delta, self.min_delta_mode, self.nan)

    def _count(
        self, monitor: Monitor, state: PatienceState, value: float, epoch: int
    ) -> PatienceState:
        after = replace(state, wait=state.wait + 1, checks=state.checks + 1)
        if monitor.beats(value, state.best):
            after = replace(after, best=value, best_epoch=epoch)
        if monitor.improves(value, state.reference):
            after = replace(after, reference=value)
            if self.baseline is None or monitor.improves(value, self.baseline):
                after = replace(after, wait=0)
        return after

    def _verdict(self, after: PatienceState, value: float, improved: bool, epoch: int) -> Verdict:
        values = {"value": value, "wait": float(after.wait)}
        if after.best is not None:
            values["best"] = after.best
        if math.isnan(value) and self.nan == "stop":
            return Verdict(True, "nan", f"{self.metric} is NaN", values)
        if improved:
            return Verdict(False, "improved", f"{self.metric} improved to {value:.6g}", values)
        limit = self._limit_after(after)
        if after.wait >= limit and epoch > 0:
            return Verdict(True, "patience", self._sentence(after, value), values)
        reason = f"{self.metric} has not improved for {after.wait} of {limit} checks"
        return Verdict(False, "waiting", reason, values)

    def _limit_after(self, state: PatienceState) -> int:
        if self.limit != "auto":
            return self.limit
        return max(_LEAST, math.ceil(_SHARE * (state.checks - state.wait)))

    def _sentence(self, state: PatienceState, value: float) -> str:
        checks = f"{state.wait} check{'s' if state.wait != 1 else ''}"
        if state.best is None or state.best_epoch is None or state.reference is None:
            return f"{self.metric} has been NaN for {checks}"
        bar = state.reference
        if self.baseline is not None and not self._monitor().improves(bar, self.baseline):
            bar = self.baseline
        return (
            f"{self.metric} has not improved on {bar:.6g} for {checks} "
            f"(best: {state.best:.6g} in epoch {state.best_epoch + 1}, now: {value:.6g})"
        )
