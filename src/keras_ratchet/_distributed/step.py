"""The batch that a rank is in: where others wait for it, it matters whether that ever ends."""

from __future__ import annotations

import time

PATIENCE_S = 300.0
_TIMES_LONGEST = 20


class Step:
    """What the training thread notes, and the watchdog's thread reads."""

    def __init__(self) -> None:
        self._name = ""
        self._since_s = self._longest_s = 0.0
        self._ended = 0

    def begin(self, name: str) -> None:
        """Note that a batch begins, and its name for messages."""
        self._since_s, self._name = time.monotonic(), name

    def end(self) -> None:
        """Note that it has ended."""
        self._ended += 1
        if self._ended > 1 and self._name:  # the first one may have compiled the model
            self._longest_s = max(self._longest_s, time.monotonic() - self._since_s)
        self._name = ""

    def overdue(self) -> str:
        """Return the name of a batch that takes far longer than all before it; "" if none does."""
        name, since_s = self._name, self._since_s
        patience_s = max(PATIENCE_S, _TIMES_LONGEST * self._longest_s)
        is_overdue = self._ended > 1 and time.monotonic() - since_s > patience_s
        return name if is_overdue else ""
