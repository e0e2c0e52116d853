"""What the ranks of a run agree on in hooks: metrics, and whether to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.deadline import Deadline

_EVERY_S = 1.0
_MAX_BATCHES = 1000


def check_same(ranks: Any, callbacks: Iterable[Any], params: Mapping[str, Any]) -> None:
    """Raise on all ranks if they are not about to do the same.

    Args:
        ranks: The coordinator.
        callbacks: Those in the list, or one without a list.
        params: What `fit` has told them.

    Raises:
        ConfigError: If callbacks, epochs or batches differ.
    """
    own = {
        "callbacks": [type(callback).__name__ for callback in callbacks],
        "epochs": params.get("epochs"),
        "batches per epoch": params.get("steps"),
    }
    everywhere = ranks.gather(own, "start of the run")
    for what, value in everywhere[0].items():
        for rank, other in enumerate(everywhere):
            if other[what] != value:
                raise ConfigError(
                    f"The ranks do not train alike: rank 0 has {what} = {value!r}, rank {rank} "
                    f"has {other[what]!r}. The one that has done its work first would keep the "
                    "others waiting. Run the same script on every rank, and give each the same "
                    "number of batches (drop the last ones, or repeat some)."
                )


def agree_on_logs(ranks: Any, epoch: int, logs: dict[str, Any]) -> None:
    """Replace metrics that differ by rank by their means, in place: every callback sees those.

    Args:
        ranks: The coordinator.
        epoch: Index of the epoch that has ended.
        logs: Its logs.
    """
    everywhere = ranks.gather(metrics_of(logs), f"metrics of epoch {epoch + 1}")
    for name in dict.fromkeys(name for metrics in everywhere for name in metrics):
        values = [metrics[name] for metrics in everywhere if name in metrics]
        if name not in logs or any(value != values[0] for value in values):
            logs[name] = sum(values) / len(values)


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
        step_s = (now_s - self._since_s) / self._batches
        left = None if own is None else replace(own, at_s=own.at_s - now_s)
        everywhere = self._ranks.gather((left, step_s), "whether to end")
        slowest_s = max(step for _, step in everywhere)
        wanted = math.ceil(_EVERY_S / max(slowest_s, 1e-6))
        self._batches = self._left = min(wanted, 2 * self._batches, _MAX_BATCHES)
        self._since_s = time.monotonic()
        ends: list[Deadline] = [end for end, _ in everywhere if end is not None]
        if not ends:
            return None
        first = min(ends, key=lambda end: end.at_s)
        return replace(first, at_s=now_s + first.at_s)
