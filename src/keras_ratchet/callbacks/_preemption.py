"""Signals and deadlines: what asks a training to make room, and when."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterable
from types import FrameType
from typing import Any

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.preempt import Deadline

_log = logging.getLogger("keras_ratchet")
DeadlineArgument = float | str | datetime.datetime | None


class Preemption:
    """Notes that training has to end soon; the callback acts on it after the batch.

    Args:
        signals: Names or numbers of signals.
        grace_s: Seconds from a signal until the process may be killed.
        deadline: Seconds from the begin of training, a time of day ("17:30"), a datetime, or
            "slurm" for the end of the Slurm job.

    Raises:
        ConfigError: If a signal is unknown or the deadline cannot be read.
    """

    def __init__(
        self, signals: Iterable[str | int], grace_s: float, deadline: DeadlineArgument
    ) -> None:
        self._signals = [_signal(name) for name in signals]
        if not grace_s > 0:
            raise ConfigError(f"grace_s is a number of seconds above 0. Got: {grace_s!r}.")
        self._grace_s = grace_s
        self._deadline = deadline
        _seconds_until(deadline)  # raises if it cannot be read
        self._before: dict[signal.Signals, Any] = {}
        self._planned: Deadline | None = None
        self.asked: Deadline | None = None

    @property
    def active(self) -> bool:
        """Whether there is anything to watch for."""
        return bool(self._signals) or self._deadline is not None

    def arm(self) -> None:
        """Take over the signals, and fix the deadline."""
        self.asked = None
        left_s = _seconds_until(self._deadline)
        if left_s is not None:
            self._planned = Deadline(time.monotonic() + left_s, "the deadline")
        if not self._signals:
            return
        if threading.current_thread() is not threading.main_thread():
            warnings.warn(
                "fit runs outside the main thread, where Python delivers no signals: signals= "
                "has no effect. deadline= has.",
                stacklevel=5,
            )
            return
        for number in self._signals:
            self._before[number] = signal.signal(number, self._handle)

    def disarm(self) -> None:
        """Give the signals back to who had them."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def due(self, save_s: float, step_s: float) -> Deadline | None:
        """Return what training has to end for now, or None.

        Args:
            save_s: Duration of the longest save so far.
            step_s: Duration of the last step.
        """
        if self.asked is not None:
            return self.asked
        if self._planned and self._planned.is_near(time.monotonic(), save_s, step_s):
            return self._planned
        return None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        before = self._before.get(signal.Signals(number))
        if self.asked is not None:  # the second one is immediate
            self.disarm()
            signal.raise_signal(number)
            return
        self.asked = Deadline(time.monotonic() + self._grace_s, name)
        _log.warning("%s: training ends after this batch", name)
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)


def _signal(name: str | int) -> signal.Signals:
    try:
        return signal.Signals[name] if isinstance(name, str) else signal.Signals(name)
    except (KeyError, ValueError):
        known = ", ".join(s.name for s in (signal.SIGTERM, signal.SIGINT))
        raise ConfigError(
            f"signals are names such as {known} that this platform has. Got: {name!r}."
        ) from None


def _seconds_until(deadline: DeadlineArgument) -> float | None:
    """Return the seconds from now until a deadline, None without one."""
    if deadline is None:
        return None
    if isinstance(deadline, int | float) and not isinstance(deadline, bool) and deadline > 0:
        return float(deadline)
    if isinstance(deadline, datetime.datetime):
        return (deadline - datetime.datetime.now(deadline.tzinfo)).total_seconds()
    if deadline == "slurm":
        end = os.environ.get("SLURM_JOB_END_TIME")
        if end is None:
            warnings.warn("deadline='slurm': SLURM_JOB_END_TIME is not set.", stacklevel=5)
            return None
        return float(end) - time.time()
    try:
        at = datetime.time.fromisoformat(str(deadline))
    except ValueError:
        raise ConfigError(
            f"deadline is a number of seconds above 0, a time of day such as '17:30', a datetime "
            f"or 'slurm'. Got: {deadline!r}."
        ) from None
    now = datetime.datetime.now(at.tzinfo)
    then = datetime.datetime.combine(now.date(), at)
    return (then - now).total_seconds() % 86_400
