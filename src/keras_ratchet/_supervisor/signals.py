"""The signals that a supervisor gets: noted, and passed on by its loop."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Any

ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")  # after these nothing is started again
_OTHERS = ("SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTSTP")


class Signals:
    """Takes over the signals that are passed on, in a `with` block.

    Those that are ignored when it starts (`nohup`) stay so, for the script too. `fileno` can be
    read when there is a new one.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._new: list[str] = []
        self._wake = self._wakes = -1

    def __enter__(self) -> Signals:
        self._wake, self._wakes = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wakes, False)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        for name in (*ENDING, *_OTHERS):
            number = getattr(signal, name)
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._wake)
        os.close(self._wakes)

    def fileno(self) -> int:
        """Return the descriptor, for `select`."""
        return self._wake

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._new.append(signal.Signals(number).name)

    def take(self) -> list[str]:
        """Return the names of those that have come since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 1 << 12)
        new, self._new = self._new, []
        return new
