"""The rule of `save_best_only`: whether a moment is the best so far."""

from __future__ import annotations

import math
from collections.abc import Mapping

from keras_ratchet.policy.retention import Ranking
from keras_ratchet.types import Verdict


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
