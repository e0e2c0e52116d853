"""When a save is due, and what saves cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from keras_ratchet.callbacks._ranks import Pace
from keras_ratchet.policy.schedule import Cost, EveryBatches, Interval
from keras_ratchet.types import Verdict

_WEIGHT = 0.1  # of the newest step in the mean duration of steps


class Schedule:
    """Counts batches and reads the clock, to tell when a save is due.

    Args:
        every_batches: After how many batches to save, if at all.
        interval: After how much time to save, if at all.
        clock: Gives the time in seconds; by default the monotonic one.
        ranks: The coordinator. In several processes rank 0's clock decides, about once a second.

    Attributes:
        pending: Batches since the last save that their number caused.
        talked: Whether the ranks have talked in the last check.
        longest_save_s: Duration of the longest save so far, until it was on the disk, in seconds.
    """

    def __init__(
        self,
        every_batches: EveryBatches | None,
        interval: Interval | None,
        clock: Callable[[], float] | None = None,
        ranks: Any = None,
    ) -> None:
        is_shared = ranks is not None and ranks.world_size > 1
        self._pace = Pace(ranks) if is_shared and interval is not None else None
        self.talked = False
        self._every_batches = every_batches
        self._interval = interval
        self._clock = clock or time.monotonic
        self.pending = 0
        self.longest_save_s = 0.0
        self._saved_s = self._stepped_s = self._clock()
        self._step_s: float | None = None
        self._hook_s = self._slower_s = self._persist_s = 0.0

    @property
    def per_batch(self) -> bool:
        """Whether ends of batches matter."""
        return self._every_batches is not None or self._interval is not None

    @property
    def cost(self) -> Cost:
        """What the last save cost."""
        return Cost(self._hook_s + self._slower_s, self._persist_s)

    def step(self, writing: bool) -> float:
        """Count a step that has ended; return how long it took, in seconds.

        Args:
            writing: Whether a save is being written in the background: what the step then takes
                longer than others is a cost of the save.
        """
        before, self._stepped_s = self._stepped_s, self._clock()
        took_s = self._stepped_s - before
        if writing and self._step_s is not None:
            self._slower_s += max(0.0, took_s - self._step_s)
        elif self._step_s is None:
            self._step_s = took_s
        else:
            self._step_s += _WEIGHT * (took_s - self._step_s)
        return took_s

    def check(self, ended: int) -> Verdict:
        """Return whether to save after a step.

        Args:
            ended: Batches that ended in it.
        """
        verdict = Verdict(False, "batches", "it is not time yet")
        if self._every_batches is not None:
            self.pending, verdict = self._every_batches.check(self.pending, ended)
        self.talked = self._pace is not None and self._pace.is_due()
        by_clock = verdict
        if self._interval is not None and not verdict:
            by_clock = self._interval.check(self._clock() - self._saved_s, self.cost)
        if self._pace is None:
            return by_clock
        if self.talked:
            by_clock = self._pace.talk(by_clock, "whether to save")[0]
        return by_clock if self.talked and not verdict else verdict

    def start_save(self) -> float:
        """Restart the interval, since a save starts; return the time."""
        self._saved_s = self._clock()
        return self._saved_s

    def since(self, began: float) -> float:
        """Return the seconds since a time."""
        return self._clock() - began

    def saved(self, began: float) -> None:
        """Record that training continues after a save that started at a time."""
        self._stepped_s = self._clock()
        self._hook_s, self._slower_s = self._stepped_s - began, 0.0
        self.persisted(max(self._hook_s, self._persist_s))

    def persisted(self, seconds: float) -> None:
        """Record how long a save took until it was on the disk."""
        self._persist_s = seconds
        self.longest_save_s = max(self.longest_save_s, seconds)
