"""When a save is due, and how long steps and saves take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from keras_ratchet.policy.trigger import EveryBatches, EverySeconds


class Pace:
    """Looks at the clock and counts batches.

    Args:
        every_batches: Says after how many batches to save, if at all.
        every_seconds: Says after how much time.

    Attributes:
        pending: Batches since the last save that their number caused.
        longest_save_s: Duration of the longest save so far.
    """

    def __init__(
        self, every_batches: EveryBatches | None, every_seconds: EverySeconds | None
    ) -> None:
        self._every_batches = every_batches
        self._every_seconds = every_seconds
        self.pending = 0
        self.longest_save_s = 0.0
        self._saved_s = self._stepped_s = time.monotonic()

    def step(self) -> float:
        """Note that a step has ended; return how long it took."""
        before, self._stepped_s = self._stepped_s, time.monotonic()
        return self._stepped_s - before

    def is_due(self, ended: int) -> bool:
        """Say whether to save after a step.

        Args:
            ended: Batches that ended in it.
        """
        due = False
        if self._every_batches is not None:
            self.pending, verdict = self._every_batches.check(self.pending, ended)
            due = bool(verdict)
        if self._every_seconds is not None:
            due = due or bool(self._every_seconds.check(time.monotonic() - self._saved_s))
        return due

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Measure a save."""
        began = time.monotonic()
        yield
        self._saved_s = time.monotonic()
        self.longest_save_s = max(self.longest_save_s, self._saved_s - began)
