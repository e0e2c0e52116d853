"""Prechelt's three classes of stopping rules, as he defined them.

L. Prechelt: Early Stopping - But When? In: Neural Networks: Tricks of the Trade, LNCS 1524,
Springer 1998, pp. 55-69, section 2.1. The errors are E_va(t), on the validation set after epoch t,
and E_tr(t), the mean over the training batches of epoch t: Keras's `val_loss` and `loss`.

They are here to be compared with, not because they are better: in the study behind this package
(1,140 runs on 34 small datasets) hardly anything beat plain patience as a rule for stopping, and
GL cost 5 % of test loss against patience of equal length. None of them is certain to end a run, so
combine them: `GeneralizationLoss(5) | AfterEpochs(300)`.

What they share: a comparison with NaN is no, and NaN is never the minimum. Errors are divided by
one another, so one below 0 is a MetricError; 0 / 0 counts as no loss and no progress.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from keras_ratchet.errors import ConfigError, MetricError
from keras_ratchet.policy._arguments import is_number, whole_number
from keras_ratchet.policy.criterion import Criterion, State, undecided
from keras_ratchet.policy.metric_criterion import MetricCriterion
from keras_ratchet.policy.monitor import AnyMode, Directions
from keras_ratchet.policy.smoothed import Smoothed
from keras_ratchet.types import Moment, Verdict


class _Errors(MetricCriterion):
    """Checks an error: a smaller one is always better."""

    __slots__ = ()
    mode: AnyMode = "min"

    def resolved(self, directions: Directions) -> Criterion:
        """Return itself, unless larger values of its metric are better."""
        _check_is_error(self, self.metric, directions)
        return self


@dataclass(frozen=True, slots=True)
class GeneralizationLoss(_Errors):
    """GL_alpha: stop when the validation error is `alpha` percent above its minimum so far.

    E_opt(t) = min E_va(t') over t' <= t, and GL(t) = 100 (E_va(t) / E_opt(t) - 1). It stops after
    the first epoch t with GL(t) > alpha. Prechelt tried alpha = 1, 2, 3, 5.

    Args:
        alpha: The limit in percent, at least 0.
        monitor: Name of the error, or `Smoothed(name)`.

    Raises:
        ConfigError: If an argument is none of these, or larger values of the metric are better.
        MetricError: When a value is below 0.

    Example:
        >>> from keras_ratchet.types import Position
        >>> rule, state = GeneralizationLoss(5), None
        >>> for epoch, error in enumerate([0.5, 0.4, 0.43], 1):
        ...     state, verdict = rule.check(state, Moment(Position(epoch), {"val_loss": error}))
        >>> verdict.reason
        'val_loss is 7.5 % above its minimum 0.4, over the limit of 5 % (now: 0.43)'
    """

    alpha: float
    monitor: str | Smoothed = "val_loss"

    def __post_init__(self) -> None:
        _check_alpha("GeneralizationLoss", self.alpha)
        self._check_monitor()

    def _check(self, state: State, value: float, moment: Moment) -> tuple[State, Verdict]:
        least = _least(state, _error(self.metric, value))
        loss = _generalization_loss(value, least)
        yes = loss > self.alpha
        side = "over" if yes else "within"
        reason = (
            f"{self.metric} is {loss:.3g} % above its minimum {_say(least)}, {side} the limit "
            f"of {self.alpha:g} % (now: {value:.6g})"
        )
        values = {"value": value, "generalization_loss": loss}
        return least, Verdict(yes, "generalization loss", reason, values)


@dataclass(frozen=True, slots=True)
class ProgressQuotient(Criterion):
    """PQ_alpha: stop when the generalization loss is `alpha` times the training progress.

    A training strip is k epochs long and ends with an epoch that is divisible by k. Its progress
    is P_k(t) = 1000 (sum E_tr(t') / (k min E_tr(t')) - 1), over t' = t-k+1 ... t: how much larger
    the mean training error of the strip is than its minimum, per thousand. It stops after the first
    end of a strip t with GL(t) / P_k(t) > alpha. Prechelt tried alpha = 0.5, 0.75, 1, 2, 3 and
    k = 5.

    An epoch without the training error is no epoch of a strip. At the end of a strip without
    validation it is undecided.

    Args:
        alpha: The limit, at least 0.
        k: Length of a strip in epochs, at least 1.
        monitor: Name of the validation error.
        train: Name of the training error.

    Raises:
        ConfigError: If an argument is none of these, or a metric is one that should be large.
        MetricError: When a value is below 0.

    Example:
        >>> from keras_ratchet.types import Position
        >>> rule = ProgressQuotient(2, k=2)
        >>> state = rule.initial()
        >>> for epoch, (train, val) in enumerate([(0.202, 0.5), (0.2, 0.51)], 1):
        ...     moment = Moment(Position(epoch), {"loss": train, "val_loss": val})
        ...     state, verdict = rule.check(state, moment)
        >>> bool(verdict), verdict.reason
        (False, 'generalization loss 2 / progress 5 = 0.4, within the limit of 2')
    """

    alpha: float
    k: int = 5
    monitor: str = "val_loss"
    train: str = "loss"

    def __post_init__(self) -> None:
        _check_alpha("ProgressQuotient", self.alpha)
        whole_number("k of ProgressQuotient", self.k, at_least=1)
        if not isinstance(self.monitor, str) or not isinstance(self.train, str):
            raise ConfigError(
                "monitor and train must be names of metrics; to smooth both write "
                f"Smoothed(ProgressQuotient(...)). Got: {self.monitor!r}, {self.train!r}.",
                see="criterion",
            )

    def initial(self) -> State:
        """Return the state before the first moment."""
        return {"least": None, "strip": []}

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account."""
        least, strip = state["least"], list(state["strip"])
        error, train = moment.metrics.get(self.monitor), moment.metrics.get(self.train)
        if error is not None:
            least = _least(least, _error(self.monitor, error))
        if train is None:
            return {"least": least, "strip": strip}, undecided(self.train)
        strip.append(_error(self.train, train))
        if len(strip) < self.k:
            reason = f"{len(strip)} of the {self.k} epochs of a strip are done"
            return {"least": least, "strip": strip}, Verdict(False, "progress quotient", reason)
        after = {"least": least, "strip": []}
        if error is None:
            return after, undecided(self.monitor)
        return after, self._verdict(_generalization_loss(error, least), _progress(strip))

    def monitors(self) -> tuple[tuple[str, AnyMode], ...]:
        """Return the validation error."""
        return ((self.monitor, "min"),)

    def expects(self) -> tuple[str, ...]:
        """Return the two errors."""
        return self.monitor, self.train

    def resolved(self, directions: Directions) -> Criterion:
        """Return itself, if neither metric is to be large."""
        for name in (self.monitor, self.train):
            _check_is_error(self, name, directions)
        return self

    def _verdict(self, loss: float, progress: float) -> Verdict:
        quotient = _quotient(loss, progress)
        yes = quotient > self.alpha
        reason = (
            f"generalization loss {loss:.3g} / progress {progress:.3g} = {quotient:.3g}, "
            f"{'over' if yes else 'within'} the limit of {self.alpha:g}"
        )
        values = {"generalization_loss": loss, "progress": progress}
        return Verdict(yes, "progress quotient", reason, values)


@dataclass(frozen=True, slots=True)
class UpStrips(_Errors):
    """UP_s: stop when the validation error has risen in `s` strips of `k` epochs in a row.

    UP_1 stops after the first end of a strip t (t divisible by k) with E_va(t) > E_va(t-k), and
    UP_s after an epoch t if UP_(s-1) stops after t-k and E_va(t) > E_va(t-k). Only the ends of
    strips are compared, not the minimum: what matters is that the error rises, however
    little. Prechelt tried s = 2, 3, 4, 6, 8 and k = 5.

    An epoch without the metric does not count toward a strip. A strip that starts or ends with NaN
    has not risen.

    Args:
        s: Number of strips in a row, at least 1.
        k: Length of a strip in epochs, at least 1.
        monitor: Name of the error, or `Smoothed(name)`.

    Raises:
        ConfigError: If an argument is none of these, or larger values of the metric are better.
        MetricError: When a value is below 0.

    Example:
        >>> from keras_ratchet.types import Position
        >>> rule = UpStrips(2, k=1)
        >>> state = rule.initial()
        >>> for epoch, error in enumerate([0.5, 0.6, 0.61], 1):
        ...     state, verdict = rule.check(state, Moment(Position(epoch), {"val_loss": error}))
        >>> verdict.reason
        'val_loss has risen in 2 of 2 strips of 1 epochs in a row (now: 0.61)'
    """

    s: int
    k: int = 5
    monitor: str | Smoothed = "val_loss"

    def __post_init__(self) -> None:
        whole_number("s of UpStrips", self.s, at_least=1)
        whole_number("k of UpStrips", self.k, at_least=1)
        self._check_monitor()

    def _initial(self) -> State:
        return {"checks": 0, "end": None, "ups": 0}

    def _check(self, state: State, value: float, moment: Moment) -> tuple[State, Verdict]:
        _error(self.metric, value)
        checks, end, ups = state["checks"] + 1, state["end"], state["ups"]
        at_end = checks % self.k == 0
        if at_end:
            ups = ups + 1 if end is not None and value > end else 0
            end = value
        reason = (
            f"{self.metric} has risen in {ups} of {self.s} strips of {self.k} epochs in a row "
            f"(now: {value:.6g})"
        )
        values = {"value": value, "strips": float(ups)}
        after = {"checks": checks, "end": end, "ups": ups}
        return after, Verdict(at_end and ups >= self.s, "up strips", reason, values)


def _generalization_loss(error: float, least: float | None) -> float:
    """Return GL(t) in percent."""
    if least is None or error == least:
        return math.nan if math.isnan(error) else 0.0
    if least == 0:
        return math.nan if math.isnan(error) else math.inf
    return 100 * (error / least - 1)


def _progress(strip: list[float]) -> float:
    """Return P_k(t), in parts of a thousand; NaN if one of the errors is."""
    mean, least = sum(strip) / len(strip), min(strip)
    if any(map(math.isnan, strip)) or math.isinf(least):
        return math.nan
    if least == 0:
        return math.inf if mean > 0 else 0.0
    return 1000 * (mean / least - 1)


def _quotient(loss: float, progress: float) -> float:
    if progress == 0:
        return math.inf if loss > 0 else loss
    return loss / progress


def _least(least: float | None, error: float) -> float | None:
    if math.isnan(error):
        return least
    return error if least is None else min(least, error)


def _error(name: str, value: float) -> float:
    if value < 0:
        raise MetricError(
            f"Prechelt's rules divide errors, so {name!r} must not be below 0. Got: {value!r}. "
            f"Monitor another metric, or use Patience."
        )
    return value


def _say(least: float | None) -> str:
    return "(none)" if least is None else f"{least:.6g}"


def _check_is_error(criterion: Criterion, name: str, directions: Directions) -> None:
    if directions.ask(name) == "max" or directions.said.get(name) == "max":
        raise ConfigError(
            f"{type(criterion).__name__} compares errors, but {name!r} should be large. "
            f"Monitor a loss.",
            see="criterion",
        )


def _check_alpha(name: str, alpha: object) -> None:
    if not (is_number(alpha) and 0 <= alpha < math.inf):
        raise ConfigError(
            f"{name} takes a finite alpha of at least 0. Got: {alpha!r}.", see="criterion"
        )
