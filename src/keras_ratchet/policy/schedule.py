"""When to save: after how many batches, or after how much time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import is_number, is_whole_number
from keras_ratchet.types import Verdict

IfBusy = Literal["wait", "skip"]
_OUTLIER = 10.0  # medians: longer steps count as this long


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
                f"batches, at least 1.",
                see="save-freq",
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


@dataclass(frozen=True, slots=True)
class Cost:
    """What a save costs, as measured last; zero where nothing has been measured yet.

    Attributes:
        blocked_s: Seconds that training lost: in the hook, and by slower steps after it.
        persist_s: Seconds until it was on the disk.
    """

    blocked_s: float = 0.0
    persist_s: float = 0.0


def slowdown(took_s: float, steps: int, others_s: Collection[float], longest_s: float) -> float:
    """Return how much longer some steps took than as many others, in seconds; maybe below 0.

    Steps vary, so the sum of the differences counts, not that of the longer ones: it errs to both
    sides alike. It is compared with a mean, since rare long steps (garbage collection) are among
    both; but what was longer than the cause lasted, or ten times as long as most steps, had another
    reason (a compilation), and is cut off.

    Args:
        took_s: How long the steps took together.
        steps: How many there were.
        others_s: How long other steps took, one number each; at least one.
        longest_s: How long what slowed them down lasted.

    Example:
        >>> slowdown(1.5, 10, [0.1, 0.1, 0.09, 0.11, 0.1], longest_s=3)
        0.5
        >>> slowdown(1.5, 10, [0.1, 0.1, 0.09, 0.11, 0.1], longest_s=0.3)
        0.3
    """
    middle_s = statistics.median(others_s)
    cut_s = min(middle_s + longest_s, _OUTLIER * middle_s)
    usual_s = statistics.fmean(min(s, cut_s) for s in others_s)
    return min(took_s - steps * usual_s, longest_s)


@dataclass(frozen=True, slots=True)
class Interval:
    """Save when so much time has passed since the last save began.

    The time is the longest of those that the arguments ask for, and no shorter than a save takes
    to reach the disk. It follows the cost of saves, which is measured again with each of them.
    If the cost counts, the first save is done at once, to measure it.

    Args:
        every_s: Seconds between two saves.
        overhead: Share of the training time that saves may cost, between 0 and 1. With 0.035 a
            save that costs 0.7 s is done every 20 s (the idea of CheckFreq, Mohan et al., FAST
            2021).
        mtbf_s: Mean time between failures of the machine, in seconds: gives the interval at which
            saves and work done again after failures cost least in sum (see `daly`).

    Raises:
        ConfigError: If an argument cannot work, or none is given.

    Example:
        >>> Interval(overhead=0.05).seconds(Cost(blocked_s=0.5, persist_s=2.0))
        10.0
        >>> Interval(every_s=600).seconds(Cost(blocked_s=0.7, persist_s=2.0))
        600
    """

    every_s: float | None = None
    overhead: float | None = None
    mtbf_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("every_s", self.every_s), ("mtbf_s", self.mtbf_s)):
            if value is not None and not (is_number(value) and 0 < value < math.inf):
                raise ConfigError(
                    f"{name} must be a number of seconds above 0. Got: {value!r}.", see="save-freq"
                )
        share = self.overhead
        if share is not None and not (is_number(share) and 0 < share < 1):
            raise ConfigError(
                "overhead must be a share of training time between 0 and 1, such as 0.035. "
                f"Got: {share!r}.",
                see="save-freq",
            )
        if self.every_s is None and self.overhead is None and self.mtbf_s is None:
            raise ConfigError(
                "An interval needs one of every_s, overhead and mtbf_s.", see="save-freq"
            )

    @property
    def needs_cost(self) -> bool:
        """Whether the interval depends on what saves cost training."""
        return self.overhead is not None or self.mtbf_s is not None

    def seconds(self, cost: Cost) -> float:
        """Return the time from the start of one save to the start of the next, in seconds."""
        wanted = [cost.persist_s]
        if self.every_s is not None:
            wanted.append(self.every_s)
        if self.overhead is not None:
            wanted.append(cost.blocked_s / self.overhead)
        if self.mtbf_s is not None:
            wanted.append(cost.blocked_s + daly(cost.blocked_s, self.mtbf_s))
        return max(wanted)

    def check(self, since_s: float, cost: Cost) -> Verdict:
        """Return whether to save.

        Args:
            since_s: Seconds since the last save began, or since training did.
            cost: What saves cost.
        """
        wait_s = self.seconds(cost)
        reason = f"{since_s:.1f} s since the last save; the interval is {wait_s:.1f} s"
        return Verdict(since_s >= wait_s, "seconds", reason)


def interval_of(
    every_s: float | None, overhead: float | None, mtbf_s: float | None
) -> Interval | None:
    """Return the interval that callback arguments ask for, None if they ask for none."""
    if every_s is None and overhead is None and mtbf_s is None:
        return None
    return Interval(every_s, overhead, mtbf_s)


def daly(save_s: float, mtbf_s: float) -> float:
    """Return the best interval between saves for a machine that fails at random.

    J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps",
    Future Generation Computer Systems 22 (2006), equation 37; the time from the end of one save to
    the start of the next.

    Args:
        save_s: What one save costs, in any unit.
        mtbf_s: Mean time between failures, in the same unit.

    Example:
        >>> [round(daly(5, minutes), 1) for minutes in (24 * 60, 6 * 60, 15)]  # a save of 5 min
        [116.7, 56.7, 9.1]
    """
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    part = save_s / (2 * mtbf_s)
    return math.sqrt(2 * save_s * mtbf_s) * (1 + math.sqrt(part) / 3 + part / 9) - save_s
