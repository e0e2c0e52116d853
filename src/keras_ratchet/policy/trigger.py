"""When to save: pure folds `(state, moment) -> (state, verdict)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import is_whole_number
from keras_ratchet.types import Verdict

IfBusy = Literal["wait", "skip"]


@dataclass(frozen=True, slots=True)
class EveryBatches:
    """Save each time that `n` more batches are done.

    Under `steps_per_execution` several batches end at once; what goes beyond `n` is carried
    to the next count, so saves do not drift.

    Args:
        n: Number of batches between two saves, at least 1.

    Example:
        >>> rule, pending, saves = EveryBatches(5), 0, []
        >>> for done in range(3, 33, 3):  # three batches end at once
        ...     pending, verdict = rule.check(pending, 3)
        ...     saves += [done] if verdict else []
        >>> saves
        [6, 12, 15, 21, 27, 30]
    """

    n: int

    def __post_init__(self) -> None:
        if not is_whole_number(self.n) or self.n < 1:
            raise ConfigError(
                f"Unrecognized save_freq: {self.n!r}. It must be 'epoch' or a whole number of "
                f"batches, at least 1."
            )

    def check(self, pending: int, ended: int) -> tuple[int, Verdict]:
        """Count batches.

        Args:
            pending: Batches counted since the last save, as the last call returned it.
            ended: Batches that have ended since the last call.

        Returns:
            The new count and whether to save.
        """
        pending += ended
        if pending < self.n:
            return pending, Verdict(False, "batches", f"{pending} of {self.n} batches")
        return pending % self.n, Verdict(True, "batches", f"{self.n} batches are done")
