"""What the ranks of a run agree on in hooks: metrics, and whether to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from keras_ratchet._keras import fit
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.deadline import Deadline

_EVERY_S = 1.0
_MAX_BATCHES = 1000


def check_same(ranks: Any, callbacks: Iterable[Any], params: Mapping[str, Any]) -> None:
    """Raise on all ranks if they are not about to do the same.

    Args:
        ranks: The coordinator.
        callbacks: Those in the list, or one without a list. Foreign ones may differ: a logger or
            a progress bar of rank 0's.
        params: What `fit` has told them.

    Raises:
        ConfigError: If callbacks, epochs or batches differ.
    """
    ours = [callback for callback in callbacks if is_ours(callback)]
    own = {
        "callbacks": [type(callback).__name__ for callback in ours],
        "sync_logs": all(getattr(callback, "sync_logs", True) for callback in ours),
        "epochs": params.get("epochs"),
        "batches per epoch": params.get("steps"),
        "a validation": fit.validation_of_fit() is not None,
    }
    _compare(ranks.gather(own, "start of the run"))


def check_batches(ranks: Any, source: Any) -> None:
    """Raise on all ranks if an epoch of a hand-written loop has not the same length on all.

    Args:
        ranks: The coordinator.
        source: What the loop iterates over; nothing is known of one without a length.

    Raises:
        ConfigError: If the lengths differ.
    """
    try:
        own = len(source)
    except TypeError:
        own = None
    lengths = ranks.gather(own, "start of an epoch")
    if None not in lengths:
        _compare([{"batches per epoch": length} for length in lengths])


def is_ours(callback: Any) -> bool:
    """Return whether a callback is one of this package, or of a subclass."""
    roots = (kind.__module__.partition(".")[0] for kind in type(callback).__mro__)
    return "keras_ratchet" in roots


def _compare(everywhere: list[dict[str, Any]]) -> None:
    for what, value in everywhere[0].items():
        for rank, other in enumerate(everywhere):
            if other[what] != value:
                raise ConfigError(
                    f"The ranks do not train alike: rank 0 has {what} = {value!r}, rank {rank} "
                    f"has {other[what]!r}. The one that has done its work first would keep the "
                    "others waiting. Run the same script on every rank, and give each the same "
                    "number of batches (drop the last ones, or repeat some).",
                    see="ranks-differ",
                )


def agree_on_logs(
    ranks: Any, epoch: int, logs: dict[str, Any], weights: Mapping[str, float]
) -> None:
    """Replace metrics that differ by rank by their means, in place: every callback sees those.

    What is the same on all ranks keeps its bits. A metric that some ranks do not have is the mean
    over those that have it; a NaN on one rank is a NaN on all.

    Args:
        ranks: The coordinator.
        epoch: Index of the epoch that has ended.
        logs: Its logs.
        weights: How many samples this rank has measured a metric on, by its name, where that is
            known. Ranks of which it is not all known weigh the same.
    """
    own = {name: (value, weights.get(name)) for name, value in metrics_of(logs).items()}
    everywhere = ranks.gather(own, f"metrics of epoch {epoch + 1}")
    for name in dict.fromkeys(name for metrics in everywhere for name in metrics):
        found = [metrics[name] for metrics in everywhere if name in metrics]
        if name not in logs or any(value != found[0][0] for value, _ in found):
            logs[name] = _mean(found)


def mean_of_ranks(ranks: Any, value: float | None, what: str) -> float | None:
    """Return the mean of a value over the ranks that have one, its bits if it is the same on all.

    Args:
        ranks: The coordinator.
        value: This rank's, or None.
        what: What it is, for messages.
    """
    found = [other for other in ranks.gather(value, what) if other is not None]
    if not found or all(other == found[0] for other in found):
        return float(found[0]) if found else None
    return float(sum(found) / len(found))


def _mean(found: list[tuple[float, float | None]]) -> float:
    shares = [weight or 0.0 for _, weight in found]
    if not all(share > 0 for share in shares):
        shares = [1.0] * len(found)
    if len(found) == 1:
        return found[0][0]
    return sum(v * w for (v, _), w in zip(found, shares, strict=True)) / sum(shares)


class Pace:
    """Tells after which batches the ranks talk: about once a second, the same on all of them.

    Args:
        ranks: The coordinator.
    """

    def __init__(self, ranks: Any) -> None:
        self._ranks = ranks
        self._left = 1
        self._since_s = time.monotonic()
        self._batches = 1

    def is_due(self) -> bool:
        """Count a batch; return whether the ranks talk now. In one process they always may."""
        if self._ranks.world_size == 1:
            return True
        self._left -= 1
        return self._left <= 0

    def agree_on_end(self, own: Deadline | None) -> Deadline | None:
        """Return the first end that is set on any rank, by this rank's clock, or None."""
        if self._ranks.world_size == 1:
            return own
        now_s = time.monotonic()
        left = None if own is None else replace(own, at_s=own.at_s - now_s)
        everywhere = self.talk(left, "whether to end")
        ends: list[Deadline] = [end for end in everywhere if end is not None]
        if not ends:
            return None
        first = min(ends, key=lambda end: end.at_s)
        return replace(first, at_s=now_s + first.at_s)

    def talk(self, own: Any, what: str) -> list[Any]:
        """Return what all ranks give, by rank; the next talk is in about a second.

        Args:
            own: What this rank gives.
            what: What it is about, for messages.
        """
        step_s = (time.monotonic() - self._since_s) / self._batches
        everywhere = self._ranks.gather((own, step_s), what)
        slowest_s = max(step for _, step in everywhere)
        wanted = math.ceil(_EVERY_S / max(slowest_s, 1e-6))
        self._batches = self._left = min(wanted, 2 * self._batches, _MAX_BATCHES)
        self._since_s = time.monotonic()
        return [given for given, _ in everywhere]
