"""When to stop: folds `(state, moment) -> (state, verdict)` that combine with `|`, `&`, `~`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from keras_ratchet.errors import ConfigError, explained
from keras_ratchet.policy.monitor import AnyMode, Directions, Mode
from keras_ratchet.types import Moment, Verdict

State = Any  # plain data: None, bool, int, float, str; lists, and dicts with string keys, of them
MISSING: Final = "missing"  # the kind of an undecided verdict: neither a yes nor a no
_FLOAT = "$float"


class Criterion:
    """Decides, moment by moment, whether training should stop.

    A criterion is a value without memory: what it has to remember from one moment to the next is
    the state, which it is passed and returns. So a resume needs nothing but the state. A criterion
    of your own is a subclass with `check`, and with `initial` if it remembers anything:

    Example:
        >>> class Overfits(Criterion):
        ...     def __init__(self, ratio, epochs):
        ...         self.ratio, self.epochs = ratio, epochs
        ...     def initial(self):
        ...         return 0
        ...     def check(self, state, moment):
        ...         train, val = moment.metrics.get("loss"), moment.metrics.get("val_loss")
        ...         if train is None or val is None:
        ...             return state, undecided("val_loss")
        ...         state = state + 1 if val > self.ratio * train else 0
        ...         reason = f"val_loss has been {self.ratio} times loss for {state} epochs"
        ...         return state, Verdict(state >= self.epochs, "overfits", reason)
        >>> from keras_ratchet.types import Position
        >>> rule = Overfits(2, 2) | Overfits(9, 1)
        >>> state = rule.initial()
        >>> for epoch, val_loss in enumerate([1.0, 3.0, 3.0], 1):
        ...     moment = Moment(Position(epoch), {"loss": 1.0, "val_loss": val_loss})
        ...     state, verdict = rule.check(state, moment)
        >>> bool(verdict), verdict.reason
        (True, 'val_loss has been 2 times loss for 2 epochs')
    """

    __slots__ = ()

    def initial(self) -> State:
        """Return the state before the first moment."""
        return None

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account.

        Args:
            state: What the last call returned, or `initial()`. Never changed in place.
            moment: The end of an epoch.

        Returns:
            The new state, and whether to stop. A verdict of kind "missing" is undecided: it
            counts as no, and so does its opposite.
        """
        raise NotImplementedError

    def monitors(self) -> tuple[tuple[str, AnyMode], ...]:
        """Return the metrics that it checks and their modes, the most important first.

        The name "" stands for the metric that the whole criterion monitors.
        """
        return ()

    def expects(self) -> tuple[str, ...]:
        """Return the names of the metrics that it needs."""
        return tuple(name for name, _ in self.monitors())

    def needs(self) -> frozenset[str]:
        """Return what it needs besides metrics, epochs and time: "steps", "batches"."""
        return frozenset()

    def resolved(self, directions: Directions) -> Criterion:
        """Return the same criterion with every open name and mode filled in."""
        return self

    def outline(self) -> str:
        """Return what a state must match to be loaded: the classes, without the numbers."""
        return type(self).__name__

    def __or__(self, other: Criterion) -> Criterion:
        """Stop when one of the two says yes."""
        if not isinstance(other, Criterion):
            return NotImplemented
        return AnyOf((*_parts(self, AnyOf), *_parts(other, AnyOf)))

    def __and__(self, other: Criterion) -> Criterion:
        """Stop at a moment at which both say yes."""
        if not isinstance(other, Criterion):
            return NotImplemented
        return AllOf((*_parts(self, AllOf), *_parts(other, AllOf)))

    def __invert__(self) -> Criterion:
        """Stop when this one says no (an undecided one does not)."""
        return Not(self)


@dataclass(frozen=True, slots=True, repr=False)
class _Several(Criterion):
    """What `|` and `&` share: every part sees every moment, so their states are independent."""

    parts: tuple[Criterion, ...]

    def initial(self) -> State:
        return [part.initial() for part in self.parts]

    def monitors(self) -> tuple[tuple[str, AnyMode], ...]:
        return tuple(pair for part in self.parts for pair in part.monitors())

    def expects(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.expects())

    def needs(self) -> frozenset[str]:
        return frozenset().union(*(part.needs() for part in self.parts))

    def resolved(self, directions: Directions) -> Criterion:
        return type(self)(tuple(part.resolved(directions) for part in self.parts))

    def outline(self) -> str:
        return f"{type(self).__name__}({', '.join(part.outline() for part in self.parts)})"

    def _each(self, state: State, moment: Moment) -> tuple[State, list[Verdict]]:
        checked = [p.check(s, moment) for p, s in zip(self.parts, state, strict=True)]
        return [after for after, _ in checked], [verdict for _, verdict in checked]

    def _joined(self, sign: str) -> str:
        return sign.join(
            f"({part!r})" if isinstance(part, _Several) else repr(part) for part in self.parts
        )


class AnyOf(_Several):
    """Stop when at least one part says yes; `a | b` makes it."""

    __slots__ = ()

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account; the reasons are those of the parts that said yes."""
        after, verdicts = self._each(state, moment)
        yes = [verdict for verdict in verdicts if verdict]
        unknown = [verdict for verdict in verdicts if verdict.kind == MISSING]
        return after, _join(bool(yes), yes or unknown or verdicts)

    def __repr__(self) -> str:
        return self._joined(" | ")


class AllOf(_Several):
    """Stop at a moment at which all parts say yes; `a & b` makes it."""

    __slots__ = ()

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account; the reasons of a no are those of the parts that said no."""
        after, verdicts = self._each(state, moment)
        no = [verdict for verdict in verdicts if not verdict and verdict.kind != MISSING]
        unknown = [verdict for verdict in verdicts if verdict.kind == MISSING]
        return after, _join(not no and not unknown, no or unknown or verdicts)

    def __repr__(self) -> str:
        return self._joined(" & ")


@dataclass(frozen=True, slots=True, repr=False)
class Not(Criterion):
    """Stop when the criterion says no; `~a` makes it. The reason is the same sentence."""

    criterion: Criterion

    def initial(self) -> State:
        """Return the state before the first moment."""
        return self.criterion.initial()

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account."""
        after, verdict = self.criterion.check(state, moment)
        if verdict.kind == MISSING:
            return after, verdict
        return after, replace(verdict, yes=not verdict.yes)

    def monitors(self) -> tuple[tuple[str, AnyMode], ...]:
        """Return the metrics that it checks."""
        return self.criterion.monitors()

    def expects(self) -> tuple[str, ...]:
        """Return the metrics that it needs."""
        return self.criterion.expects()

    def needs(self) -> frozenset[str]:
        """Return what else it needs."""
        return self.criterion.needs()

    def resolved(self, directions: Directions) -> Criterion:
        """Return the same with every name and mode filled in."""
        return Not(self.criterion.resolved(directions))

    def outline(self) -> str:
        """Return what a state must match to be loaded."""
        return f"Not({self.criterion.outline()})"

    def __invert__(self) -> Criterion:
        return self.criterion

    def __repr__(self) -> str:
        several = isinstance(self.criterion, _Several)
        return f"~({self.criterion!r})" if several else f"~{self.criterion!r}"


def undecided(name: str) -> Verdict:
    """Return the verdict about a moment without the metric `name`."""
    return Verdict(False, MISSING, f"{name} is not in the logs")


def _parts(criterion: Criterion, kind: type[_Several]) -> tuple[Criterion, ...]:
    return criterion.parts if isinstance(criterion, kind) else (criterion,)


def _join(yes: bool, verdicts: list[Verdict]) -> Verdict:
    """Return one verdict that says what all of these say."""
    if len(verdicts) == 1:
        return replace(verdicts[0], yes=yes)
    kinds = tuple(itertools.chain.from_iterable(dict.fromkeys(v.kinds for v in verdicts)))
    reasons = dict.fromkeys(verdict.reason for verdict in verdicts)
    return Verdict(yes, kinds[0], "; ".join(reasons), _merged(verdicts), kinds)


def _merged(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Return the values of all, each under the kinds of its verdict and a number if need be."""
    merged: dict[str, float] = {}
    for verdict in verdicts:
        prefix = "+".join(verdict.kinds)
        for name, value in verdict.values.items():
            key, number = f"{prefix}.{name}", 2
            while key in merged:
                key, number = f"{prefix}.{name}#{number}", number + 1
            merged[key] = value
    return merged


def to_json(state: State) -> Any:
    """Return a state as data that strict JSON can hold.

    Example:
        >>> to_json({"best": float("inf"), "wait": 3})
        {'best': {'$float': 'inf'}, 'wait': 3}

    Raises:
        TypeError: If it holds anything but None, bool, int, float, str, lists (or tuples, which
            come back as lists) and dicts with string keys.
    """
    if isinstance(state, float) and not math.isfinite(state):
        return {_FLOAT: str(float(state))}
    if state is None or isinstance(state, bool | int | float | str):
        return state
    if isinstance(state, list | tuple):
        return [to_json(inner) for inner in state]
    if isinstance(state, Mapping) and all(isinstance(k, str) and k != _FLOAT for k in state):
        return {key: to_json(inner) for key, inner in state.items()}
    raise explained(
        TypeError(
            "A criterion's state is made of None, numbers, strings, lists, and dicts with string "
            f"keys, so that it survives a restart. Got: {state!r}."
        ),
        see="criterion",
    )


def from_json(data: Any) -> State:
    """Return the state that `to_json` described."""
    if isinstance(data, list):
        return [from_json(inner) for inner in data]
    if not isinstance(data, dict):
        return data
    if set(data) == {_FLOAT}:
        return float(data[_FLOAT])
    return {key: from_json(inner) for key, inner in data.items()}


@dataclass(frozen=True, slots=True)
class RankingMetric:
    """The metric that decides which weights are best.

    It is the first one that a criterion names, from left to right; "val_loss" if it names none.
    A mode given for a metric in one place holds for it everywhere.

    Args:
        metric: Its name.
        mode: "min", "max", or "auto".
    """

    metric: str
    mode: AnyMode


def ranking_metric_of(criterion: Criterion) -> RankingMetric:
    """Return the metric that decides what is best.

    Raises:
        ConfigError: If one metric is to be both small and large.

    Example:
        >>> from keras_ratchet.policy.thresholds import Reaches
        >>> from keras_ratchet.policy.patience import Patience
        >>> ranking_metric_of(Reaches(0.9) | Patience(5, "f1") | Patience(9, "f1", mode="max"))
        RankingMetric(metric='f1', mode='max')
    """
    metric = _monitored(criterion)
    return RankingMetric(metric, _said(criterion, metric).get(metric, "auto"))


def resolve_directions(criterion: Criterion, ask: Callable[[str], Mode | None]) -> Criterion:
    """Fill in every name and mode that was left open.

    Args:
        criterion: What the user wrote.
        ask: Returns what the model knows of a metric's direction, or None.

    Raises:
        UnknownDirectionError: If a direction is needed that nobody knows.
    """
    metric = _monitored(criterion)
    return criterion.resolved(Directions(metric, _said(criterion, metric), ask))


def _monitored(criterion: Criterion) -> str:
    return next((name for name, _ in criterion.monitors() if name), Directions().monitored)


def _said(criterion: Criterion, monitored: str) -> dict[str, Mode]:
    said: dict[str, Mode] = {}
    for name, mode in criterion.monitors():
        if mode != "auto" and said.setdefault(name or monitored, mode) != mode:
            raise ConfigError(
                f"{name or monitored!r} is minimized in one criterion and maximized in "
                "another. Give it one mode.",
                see="criterion",
            )
    return said
