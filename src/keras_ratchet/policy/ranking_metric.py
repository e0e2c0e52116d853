"""Which metric decides what is best when several criteria decide when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.criterion import Criterion
from keras_ratchet.policy.directions import Directions
from keras_ratchet.policy.monitor import AnyMode, Mode


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
                "another. Give it one mode."
            )
    return said
