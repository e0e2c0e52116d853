"""When a save is due, and what saves cost."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from keras_ratchet._engine.saving.background import BackgroundWriter
from keras_ratchet.callbacks._ranks import Pace
from keras_ratchet.policy.schedule import Cost, EveryBatches, Interval, slowdown
from keras_ratchet.types import Verdict

_MIN_OTHERS, _MAX_OTHERS = 16, 2000  # steps without a save with which those during one are compared
_SAVES = 5  # the median of whose slowdowns counts: one is mostly noise where steps vary


class Slowdown:
    """Measures by how much the steps during a save in the background take longer than others.

    Attributes:
        is_open: Whether the last save is still to be measured: it is running, or no step has ended
            without it.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._is_first = True
        self._others_s: deque[float] = deque(maxlen=_MAX_OTHERS)
        self._slower_s: deque[float] = deque(maxlen=_SAVES)
        self._steps = 0
        self._took_s = self._last_s = 0.0

    @property
    def median_s(self) -> float:
        """By how many seconds a save slows training down: the median of the last few."""
        return max(0.0, statistics.median(self._slower_s)) if self._slower_s else 0.0

    def start(self) -> None:
        """Measure a save that starts to be written in the background."""
        self.is_open, self._steps, self._took_s = True, 0, 0.0

    def step(self, took_s: float, during: bool, persist_s: float) -> None:
        """Count a step.

        Args:
            took_s: How long it took.
            during: Whether the save was being written when it began.
            persist_s: How long a save takes until it is on the disk.
        """
        if self._is_first:  # it compiles
            self._is_first = False
        elif during:
            self._steps, self._took_s, self._last_s = self._steps + 1, self._took_s + took_s, took_s
        else:
            self._others_s.append(took_s)
            # as many as there were during the save: few would be noise, multiplied
            if self.is_open and len(self._others_s) >= _within(self._steps):
                self._close(persist_s)

    def _close(self, persist_s: float) -> None:
        self.is_open = False
        if self._steps:
            newest = islice(reversed(self._others_s), _within(4 * self._steps))
            # The write (or the upload) ended in the last step. Twice its time: steps vary to both
            # sides, and of a slowdown that is all of it neither side may be cut off.
            longest_s = 2 * max(persist_s, self._took_s - self._last_s)
            slower_s = slowdown(self._took_s, self._steps, list(newest), longest_s)
            self._slower_s.append(slower_s)


def _within(steps: int) -> int:
    return min(max(steps, _MIN_OTHERS), _MAX_OTHERS)


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
        self._hook_s = self._persist_s = 0.0
        self._is_writing = self._is_saving = False
        self._slowdown = Slowdown()

    @property
    def per_batch(self) -> bool:
        """Whether ends of batches matter."""
        return self._every_batches is not None or self._interval is not None

    @property
    def cost(self) -> Cost:
        """What the last save cost: its hook, and by how much a save of late slowed steps down."""
        return Cost(self._hook_s + self._slowdown.median_s, self._persist_s)

    def start_epoch(self) -> None:
        """Record that steps follow: what came before was no part of one, but a validation, say."""
        self._stepped_s = self._clock()

    def step(self, writer: BackgroundWriter) -> float:
        """Count a step that has ended; return how long it took, in seconds.

        Args:
            writer: What writes the saves: by how much that slows steps down is a part of the cost.
        """
        before, self._stepped_s = self._stepped_s, self._clock()
        took_s = self._stepped_s - before
        self._slowdown.step(took_s, self._is_writing, self._persist_s)
        self._is_writing, self._is_saving = writer.busy, writer.is_saving
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
        if self._interval is not None and not verdict and self._may_save(self._interval):
            by_clock = self._interval.check(self._clock() - self._saved_s, self.cost)
        if self._pace is None:
            return by_clock
        if self.talked:
            by_clock = self._pace.talk(by_clock, "whether to save")[0]
        return by_clock if self.talked and not verdict else verdict

    def _may_save(self, interval: Interval) -> bool:
        """Return whether the last save is on the disk, and measured if its cost matters.

        An upload, which may be waiting for a network that is gone, keeps no save from the disk.
        """
        is_uploading = self._is_writing and not self._is_saving
        is_measuring = interval.needs_cost and self._slowdown.is_open and not is_uploading
        return not self._is_saving and not is_measuring

    def start_save(self) -> float:
        """Restart the interval, since a save starts; return the time."""
        self._saved_s = self._clock()
        return self._saved_s

    def since(self, began: float) -> float:
        """Return the seconds since a time."""
        return self._clock() - began

    def saved(self, began: float, writer: BackgroundWriter) -> None:
        """Record that training continues after a save that started at a time.

        Args:
            began: The time.
            writer: What writes the save, if not all was written in the hook.
        """
        self._stepped_s = self._clock()
        self._hook_s = self._stepped_s - began
        self._is_writing, self._is_saving = writer.busy, writer.is_saving
        if self._is_writing:
            self._slowdown.start()
        self.persisted(max(self._hook_s, self._persist_s))

    def persisted(self, seconds: float) -> None:
        """Record how long a save took until it was on the disk."""
        self._persist_s = seconds
        self.longest_save_s = max(self.longest_save_s, seconds)
