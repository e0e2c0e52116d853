"""Which checkpoint is best, and which ones stay: pure rules over a list of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import whole_number
from keras_ratchet.policy.monitor import Mode, one_of
from keras_ratchet.types import CheckpointInfo, Verdict

Ties = Literal["earlier", "later"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order from best to worst: by one metric, ties by the next, then by age.

    NaN is worse than every number, and a missing metric is worse than NaN.

    Args:
        metrics: Pairs of name and mode ("min" or "max"), the most important first.
        ties: Which of two equal ones is better, the "earlier" or the "later".
    """

    metrics: tuple[tuple[str, Mode], ...]
    ties: Ties = "earlier"

    def __post_init__(self) -> None:
        one_of("ties", self.ties, get_args(Ties))
        for _, mode in self.metrics:
            one_of("mode", mode, get_args(Mode))

    def key(self, metrics: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
        """Return a sort key of values: the smaller, the better."""
        return tuple(_key(metrics.get(name), mode) for name, mode in self.metrics)

    def beats(self, metrics: Mapping[str, float], best: Mapping[str, float] | None) -> bool:
        """Return whether values are better than the best so far; NaN never is."""
        if not self.metrics or self.key(metrics)[0][0] > 0:
            return False
        if best is None:
            return True
        return self.key(metrics) < self.key(best) or (
            self.ties == "later" and self.key(metrics) == self.key(best)
        )

    def sort(self, checkpoints: Iterable[CheckpointInfo]) -> list[CheckpointInfo]:
        """Return the checkpoints that have the metric, best first."""
        ranked = [s for s in checkpoints if self.metrics and self.metrics[0][0] in s.metrics]
        ranked.sort(key=age, reverse=self.ties == "later")
        ranked.sort(key=lambda s: self.key(s.metrics))  # which leaves equal ones in their order
        return ranked


def _key(value: float | None, mode: Mode) -> tuple[int, float]:
    if value is None:
        return 2, 0.0
    if math.isnan(value):
        return 1, 0.0
    return 0, value if mode == "min" else -value


def is_best(
    ranking: Ranking, metrics: Mapping[str, float], best: Mapping[str, float] | None
) -> Verdict:
    """Compare a moment's metrics with those of the best so far.

    Args:
        ranking: The metrics that count and their order.
        metrics: The logs of this moment.
        best: The metrics of the best so far, or None.

    Returns:
        Yes with kind "improved"; or no with kind "worse", "nan", or "missing" if the first
        metric is not there.

    Example:
        >>> is_best(Ranking((("loss", "min"),)), {"loss": 0.25}, {"loss": 0.5}).reason
        'loss improved from 0.50000 to 0.25000'
    """
    name = ranking.metrics[0][0]
    if name not in metrics:
        return Verdict(False, "missing", f"{name} is not in the logs")
    value = metrics[name]
    before = "None" if best is None else f"{best[name]:.5f}"
    if math.isnan(value):
        return Verdict(False, "nan", f"{name} is NaN")
    if not ranking.beats(metrics, best):
        return Verdict(False, "worse", f"{name} did not improve from {before}")
    if best is not None and value == best[name]:
        return Verdict(True, "improved", f"{name} equals the best, {before}, and wins the tie")
    return Verdict(True, "improved", f"{name} improved from {before} to {value:.5f}")


def ranking_of(checkpoints: Iterable[CheckpointInfo]) -> Ranking:
    """Return the order that most of these were saved by; an empty one if none has any.

    Of orders with equally many checkpoints, that of the newest one counts.
    """
    newest_first = sorted(checkpoints, key=age, reverse=True)
    votes = Counter(checkpoint.ranking for checkpoint in newest_first if checkpoint.ranking)
    pairs = max(votes, key=lambda pairs: votes[pairs], default=())
    return Ranking(tuple((name, "min" if mode == "min" else "max") for name, mode in pairs))


def of_newest_runs(checkpoints: Iterable[CheckpointInfo]) -> list[CheckpointInfo]:
    """Return the checkpoints that the newest run of their series saved, in the given order.

    Those without a manifest stay. What an earlier run saved under the same file name template may
    be another model, or measured on other data, so it no longer counts as best.
    """
    checkpoints = list(checkpoints)
    newest = {s.series: s.run for s in sorted(checkpoints, key=age) if s.has_manifest}
    return [s for s in checkpoints if not s.has_manifest or s.run == newest[s.series]]


def age(checkpoint: CheckpointInfo) -> tuple[float, float, float]:
    """Return a key that orders checkpoints by time, then by position."""
    position = checkpoint.position
    return checkpoint.saved_at, float(position.epoch), float(position.batch)


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule may look at.

    Attributes:
        checkpoints: The checkpoints, oldest first.
        ranking: What is best.
        now_s: The time, in seconds since 1970.
        ranked: Those that have the metric, best first.
    """

    checkpoints: Sequence[CheckpointInfo]
    ranking: Ranking
    now_s: float
    ranked: Sequence[CheckpointInfo]


class Retention(Protocol):
    """A rule that decides which checkpoints stay, with reasons. Rules combine with `|`."""

    def keeps(self, context: Context) -> dict[str, str]:
        """Return the names of those that stay, each with the reason."""


class _Rule:
    """Implements `|` for rules."""

    def keeps(self, context: Context) -> dict[str, str]:
        """Return the names of those that stay, each with the reason."""
        raise NotImplementedError

    def __or__(self, other: Retention) -> KeepAny:
        mine = self.rules if isinstance(self, KeepAny) else (self,)
        theirs = other.rules if isinstance(other, KeepAny) else (other,)
        return KeepAny((*mine, *theirs))


@dataclass(frozen=True, slots=True)
class KeepAny(_Rule):
    """Keep the checkpoints that at least one of the rules keeps."""

    rules: tuple[Retention, ...]

    def keeps(self, context: Context) -> dict[str, str]:
        """Return the names of those that stay, with the reason of the first rule."""
        kept: dict[str, str] = {}
        for rule in reversed(self.rules):
            kept |= rule.keeps(context)
        return kept


@dataclass(frozen=True, slots=True)
class KeepBest(_Rule):
    """Keep the `k` best checkpoints.

    Args:
        k: How many, at least 1.
    """

    k: int = 1

    def __post_init__(self) -> None:
        whole_number("keep_best", self.k, at_least=1)

    def keeps(self, context: Context) -> dict[str, str]:
        """Return the names of those that stay, each with the reason."""
        best = context.ranked[: self.k]
        name = context.ranking.metrics[0][0] if context.ranking.metrics else ""
        return {
            s.name: f"{self._place(place)} by {name} ({s.metrics[name]:.6g})"
            for place, s in enumerate(best, 1)
        }

    def _place(self, place: int) -> str:
        return "the best" if self.k == 1 else f"number {place} of the {self.k} best"


@dataclass(frozen=True, slots=True)
class KeepLast(_Rule):
    """Keep the `n` newest checkpoints.

    Args:
        n: How many, at least 1.
    """

    n: int = 1

    def __post_init__(self) -> None:
        whole_number("keep_last", self.n, at_least=1)

    def keeps(self, context: Context) -> dict[str, str]:
        """Return the names of those that stay, each with the reason."""
        return {s.name: f"one of the {self.n} newest" for s in context.checkpoints[-self.n :]}


@dataclass(frozen=True, slots=True)
class KeepEvery(_Rule):
    """Keep the checkpoints of every `m`-th epoch, forever.

    Args:
        m: A number of epochs, at least 1.
    """

    m: int

    def __post_init__(self) -> None:
        whole_number("keep_every", self.m, at_least=1)

    def keeps(self, context: Context) -> dict[str, str]:
        """Return the names of those that stay, each with the reason."""
        return {
            s.name: f"epoch {s.position.epoch} is a multiple of {self.m}"
            for s in context.checkpoints
            if s.position.batch == 0 and s.position.epoch > 0 and s.position.epoch % self.m == 0
        }


@dataclass(frozen=True, slots=True)
class KeepNewer(_Rule):
    """Keep checkpoints that are not older than `seconds`.

    Args:
        seconds: The age limit, above 0.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ConfigError(
                f"keep_for_s must be a number of seconds above 0. Got: {self.seconds!r}."
            )

    def keeps(self, context: Context) -> dict[str, str]:
        """Return the names of those that stay, each with the reason."""
        return {
            s.name: f"not older than {self.seconds:g} s"
            for s in context.checkpoints
            if context.now_s - s.saved_at <= self.seconds
        }


def combined(
    keep_best: int | None = None,
    keep_last: int | None = None,
    keep_every: int | None = None,
    keep_for_s: float | None = None,
) -> Retention | None:
    """Return the rule that these arguments describe, or None without arguments."""
    rules: list[Retention] = []
    if keep_best is not None:
        rules.append(KeepBest(keep_best))
    if keep_last is not None:
        rules.append(KeepLast(keep_last))
    if keep_every is not None:
        rules.append(KeepEvery(keep_every))
    if keep_for_s is not None:
        rules.append(KeepNewer(keep_for_s))
    return KeepAny(tuple(rules)) if rules else None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether one checkpoint stays, and why."""

    checkpoint: CheckpointInfo
    keep: bool
    reason: str


def plan(
    checkpoints: Iterable[CheckpointInfo],
    rule: Retention,
    ranking: Ranking,
    now_s: float,
    resumed_from: str | None = None,
) -> list[Decision]:
    """Decide which checkpoints stay; nothing is deleted.

    Whatever the rule, the best one, the newest one, pinned ones, the one that the run resumed
    from and those without a manifest stay.

    Args:
        checkpoints: The checkpoints of one series.
        rule: Which of them stay.
        ranking: What is best.
        now_s: The time, in seconds since 1970.
        resumed_from: Name of the checkpoint that this run started from.

    Returns:
        A decision for each, oldest first.
    """
    ordered = sorted(checkpoints, key=age)
    known = [s for s in ordered if s.has_manifest]
    context = Context(known, ranking, now_s, ranking.sort(known))
    kept = rule.keeps(context) | _protected(ordered, context, resumed_from)
    return [Decision(s, s.name in kept, kept.get(s.name, "no rule keeps it")) for s in ordered]


def spares(rule: Retention, count: int, all_ranked: bool) -> bool:
    """Return whether a rule is sure to keep `count` checkpoints, whatever they are.

    Args:
        rule: The rule; of others than ours nothing is known.
        count: How many checkpoints there are.
        all_ranked: Whether all of them have the metric that ranks them.
    """
    if isinstance(rule, KeepAny):
        return any(spares(part, count, all_ranked) for part in rule.rules)
    if isinstance(rule, KeepBest):
        return all_ranked and count <= rule.k
    return isinstance(rule, KeepLast) and count <= rule.n


def _protected(
    ordered: Sequence[CheckpointInfo], context: Context, resumed_from: str | None
) -> dict[str, str]:
    kept = {
        s.name: "it has no manifest, so it may not be ours" for s in ordered if not s.has_manifest
    }
    kept |= {name: "the newest" for name in KeepLast(1).keeps(context)}
    kept |= KeepBest(1).keeps(context)
    if resumed_from is not None:
        kept |= {s.name: "training resumed from it" for s in ordered if s.name == resumed_from}
    return kept | {s.name: "pinned" for s in ordered if s.pinned}
