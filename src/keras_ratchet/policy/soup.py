"""Which weights go into an average: pure rules over values. The scoring is passed in.

Sources: the greedy soup is that of Wortsman et al., "Model soups: averaging weights of multiple
fine-tuned models improves accuracy without increasing inference time" (ICML 2022), with epochs of
one run as ingredients, and a strict improvement asked for. The mean of late epochs goes back to
Izmailov et al., "Averaging weights leads to wider optima and better generalization" (UAI 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from keras_ratchet.policy._arguments import whole_number
from keras_ratchet.policy.monitor import Monitor, one_of
from keras_ratchet.types import AverageRecord, AverageTrial, CheckpointInfo

Average = Literal["soup", "mean"]
Score = Callable[[tuple[int, ...]], float]

KINDS = ("soup", "mean")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Weights that may go into an average.

    Attributes:
        name: What they are called in the record: "epoch 13", or a file's name.
        value: Their own value of the metric.
    """

    name: str
    value: float


def check_average(average: object, k: object) -> None:
    """Raise a ConfigError unless the arguments `average` and `average_k` can work."""
    if average is not None:
        one_of("average", average, KINDS)
    whole_number("average_k", k, at_least=2, meaning="is how many of the best weights are averaged")


def place_for(
    value: float, kept: Sequence[float], ages: Sequence[float], k: int, monitor: Monitor
) -> int | None:
    """Return the place that a new value takes among the best `k`, or None if it takes none.

    Of equals the earlier one stays. NaN takes no place.

    Args:
        value: The new value.
        kept: The values that are kept, in the order of their places.
        ages: When each of these was seen; any increasing number.
        k: How many may be kept.
        monitor: What is better.

    Returns:
        `len(kept)` while there is room, else the place of the worst one, which has to go.

    Example:
        >>> place_for(0.3, [0.5, 0.2], [0, 1], 2, Monitor("val_loss"))
        0
    """
    if math.isnan(value):
        return None
    if len(kept) < k:
        return len(kept)
    worst = order(kept, ages, monitor)[-1]
    return worst if monitor.beats(value, kept[worst]) else None


def order(values: Sequence[float], ages: Sequence[float], monitor: Monitor) -> list[int]:
    """Return the indices from the best value to the worst, of equals the older one first."""
    sign = 1.0 if monitor.mode == "min" else -1.0
    return sorted(range(len(values)), key=lambda i: (sign * values[i], ages[i]))


def distinct(ranked: Sequence[CheckpointInfo]) -> list[CheckpointInfo]:
    """Return checkpoints without those that repeat another one under another name.

    A directory may hold one moment twice, as `best.keras` and as `epoch-13.keras`, and it is to
    have one vote. Two are the same moment if position, metrics and model agree.

    Args:
        ranked: From the best to the worst; of a repeated one the first stays.
    """
    seen: set[tuple[object, ...]] = set()
    kept = []
    for info in ranked:
        moment = (info.position, tuple(sorted(info.metrics.items())), info.fingerprint)
        if not info.has_manifest or not info.metrics or moment not in seen:
            kept.append(info)
        seen.add(moment)
    return kept


def choose(
    kind: Average, candidates: Sequence[Candidate], best: float, score: Score, monitor: Monitor
) -> AverageRecord:
    """Find the average to end with; the best candidate alone if no average is better.

    `soup`: one candidate after the other is taken into the mean, w' = (m w + w_i) / (m + 1), and
    stays if that improves the value. `mean`: the mean of all candidates, if it is better than the
    best alone. NaN is never accepted. So the value is never worse than `best`.

    Args:
        kind: "soup" or "mean".
        candidates: From the best to the worst.
        best: The value of the first candidate alone.
        score: Returns the value of the mean of the candidates with these indices.
        monitor: What is better.

    Returns:
        What was tried and what was accepted. `score` is called `len(candidates) - 1` times for
        a soup, and once for a mean.

    Example:
        >>> epochs = [Candidate("epoch 3", 0.5), Candidate("epoch 4", 0.6)]
        >>> record = choose("soup", epochs, 0.5, lambda members: 0.4, Monitor("val_loss"))
        >>> record.members, record.value
        (('epoch 3', 'epoch 4'), 0.4)
    """
    chosen: tuple[int, ...] = (0,)
    value = best
    trials: list[AverageTrial] = []
    for members in _attempts(kind, len(candidates)):
        tried = tuple(sorted({*chosen, *members}))
        found = score(tried)
        accepted = monitor.beats(found, value)
        trials.append(_trial(tried, candidates, found, value, accepted))
        if accepted:
            chosen, value = tried, found
    names = tuple(candidates[i].name for i in chosen)
    reason = _reason(monitor.name, names, best, value, len(trials))
    return AverageRecord(kind, monitor.name, best, value, names, chosen, tuple(trials), reason)


def refused(kind: Average, monitor: Monitor, best: Candidate, reason: str) -> AverageRecord:
    """Return the record of an average that was not tried."""
    sentence = f"no average was tried, so the model has the weights of {best.name}: {reason}"
    value = best.value
    return AverageRecord(kind, monitor.name, value, value, (best.name,), (0,), (), sentence)


def unmeasured(kind: Average, metric: str, candidates: Sequence[Candidate]) -> AverageRecord:
    """Return the record of a mean that was not measured."""
    names = tuple(candidate.name for candidate in candidates)
    best = candidates[0].value if candidates else math.nan
    reason = f"the mean of {', '.join(names)}, not measured"
    indices = tuple(range(len(names)))
    return AverageRecord(kind, metric, best, math.nan, names, indices, (), reason)


def _attempts(kind: Average, count: int) -> list[tuple[int, ...]]:
    """Return the candidates that join the average at each attempt."""
    if kind == "soup":
        return [(index,) for index in range(1, count)]
    return [tuple(range(count))] if count > 1 else []


def _trial(
    tried: tuple[int, ...],
    candidates: Sequence[Candidate],
    found: float,
    value: float,
    accepted: bool,
) -> AverageTrial:
    names = tuple(candidates[i].name for i in tried)
    if math.isnan(found):
        why = "the value is NaN"
    else:
        why = f"{found:.6g} is {'better' if accepted else 'no better'} than {value:.6g}"
    return AverageTrial(names, found, accepted, why)


def _reason(metric: str, names: tuple[str, ...], best: float, value: float, tried: int) -> str:
    if len(names) > 1:
        return (
            f"the mean of {', '.join(names)} has {metric} {value:.6g}, "
            f"{names[0]} alone has {best:.6g}"
        )
    if not tried:
        return f"there is nothing to average: only {names[0]} is kept"
    averages = "the average" if tried == 1 else f"none of {tried} averages"
    verb = "is not" if tried == 1 else "is"
    return f"{averages} {verb} better than {names[0]} alone ({metric} {best:.6g})"
