"""Stop when a metric no longer improves: Keras's rule."""

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

_MIN_LIMIT, _LIMIT_SHARE = 10, 0.5  # of Patience("auto")


@dataclass(frozen=True, slots=True)
class PatienceState:
    """What is remembered between two checks; the state of `Patience` is this record as a dict.

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
class PatienceRule:
    """Keras's rule over the values of one metric; `Patience` makes a criterion of it.

    Args:
        order: The metric, what is better, and what a NaN does.
        limit: As in `Patience`.
        baseline: As in `Patience`.
        start_from_epoch: As in `Patience`.
    """

    order: Monitor
    limit: int | Literal["auto"]
    baseline: float | None = None
    start_from_epoch: int = 0

    def check(
        self, state: PatienceState, epoch: int, value: float
    ) -> tuple[PatienceState, Verdict]:
        """Take the value of an epoch into account.

        Args:
            state: What the last call returned, or `PatienceState()`.
            epoch: Index of the epoch.
            value: Of the metric.

        Returns:
            The new state, and whether to stop.

        Raises:
            NonFiniteError: If the value is NaN and `nan="raise"`.
        """
        name = self.order.name
        if epoch < self.start_from_epoch:
            return state, Verdict(False, "waiting", f"{name} is not checked yet")
        if math.isnan(value) and self.order.nan == "raise":
            raise NonFiniteError(f"{name} is NaN in epoch {epoch + 1} (nan='raise').")
        improved = self.order.improves(value, state.reference)
        after = self._count(state, epoch, value, improved)
        return after, self._verdict(after, epoch, value, improved)

    def _count(
        self, state: PatienceState, epoch: int, value: float, improved: bool
    ) -> PatienceState:
        after = replace(state, wait=state.wait + 1, checks=state.checks + 1)
        if self.order.beats(value, state.best):
            after = replace(after, best=value, best_epoch=epoch)
        if not improved:
            return after
        if self.baseline is None or self.order.improves(value, self.baseline):
            after = replace(after, wait=0)
        return replace(after, reference=value)

    def _verdict(self, after: PatienceState, epoch: int, value: float, improved: bool) -> Verdict:
        name, values = self.order.name, {"value": value, "wait": float(after.wait)}
        if after.best is not None:
            values["best"] = after.best
        if math.isnan(value) and self.order.nan == "stop":
            return Verdict(True, "nan", f"{name} is NaN", values)
        if improved:
            return Verdict(False, "improved", f"{name} improved to {value:.6g}", values)
        until_best = after.checks - after.wait
        limit = max(_MIN_LIMIT, math.ceil(_LIMIT_SHARE * until_best))
        if self.limit != "auto":
            limit = self.limit
        if after.wait >= limit and epoch > 0:
            return Verdict(True, "patience", self._sentence(after, value), values)
        reason = f"{name} has not improved for {after.wait} of {limit} checks"
        return Verdict(False, "waiting", reason, values)

    def _sentence(self, state: PatienceState, value: float) -> str:
        checks = f"{state.wait} check{'s' if state.wait != 1 else ''}"
        if state.best is None or state.best_epoch is None or state.reference is None:
            return f"{self.order.name} has been NaN for {checks}"
        bar = state.reference
        if self.baseline is not None and not self.order.improves(bar, self.baseline):
            bar = self.baseline
        return (
            f"{self.order.name} has not improved on {bar:.6g}{self.order.gain} for {checks} "
            f"(best: {state.best:.6g} in epoch {state.best_epoch + 1}, now: {value:.6g})"
        )


@dataclass(frozen=True, slots=True)
class Patience(MetricCriterion):
    """Stop after `limit` checks in a row without an improvement.

    This is Keras's rule: a moment without the metric is not a check; `limit=0` acts as 1; the
    first epoch never stops; with a `baseline` the count continues until the baseline is beaten,
    while a check that improves on the best so far never stops.
    `min_delta` decides about patience only: `best` follows the raw values.
    NaN is no improvement, so it counts; an infinity takes its place on the number line.

    Args:
        limit: Number of checks without an improvement that stops training, at least 0; or
            "auto": half the checks up to the last improvement, and at least 10. A run twice as
            long gets twice the patience, so nothing has to be tuned to its length.
        monitor: Name of the metric, or `Smoothed(name)`.
        mode: "min", "max", or "auto": a loss is minimized; for anything else EarlyStopping asks
            the model.
        min_delta: How much better a value must be to count as an improvement.
        min_delta_mode: "absolute", or "relative" to the magnitude of the reference.
        nan: What a NaN does: "ignore" (it counts), "stop" at once, or "raise" a NonFiniteError.
        baseline: A value that must be beaten before the count is reset at all.
        start_from_epoch: Index of the first epoch whose metric is checked.

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
        order = Monitor(self.metric, self.direction, self.min_delta, self.min_delta_mode, self.nan)
        rule = PatienceRule(order, self.limit, self.baseline, self.start_from_epoch)
        after, verdict = rule.check(PatienceState(**state), moment.epoch, value)
        return asdict(after), verdict
