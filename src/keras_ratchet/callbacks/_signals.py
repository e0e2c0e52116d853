"""Signals and deadlines: what asks a training to make room, and when."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from types import FrameType
from typing import Any

from keras_ratchet._warn import warn
from keras_ratchet.callbacks._loop import Loop
from keras_ratchet.callbacks._worker_signals import Workers
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import is_number
from keras_ratchet.policy.deadline import Deadline

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
        names = [signals] if isinstance(signals, str) else signals
        self._signals = [_signal(name) for name in names]
        if not isinstance(grace_s, int | float) or not grace_s > 0:
            raise ConfigError(f"grace_s is a number of seconds above 0. Got: {grace_s!r}.")
        self._grace_s = grace_s
        self._deadline = deadline
        if deadline != "slurm":
            _seconds_until(deadline)  # raises if it cannot be read
        self._before: dict[signal.Signals, Any] = {}
        self._planned: Deadline | None = None
        self._loop: Loop | None = None
        self._workers: Workers | None = None
        self.asked: Deadline | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out, in copies and pickles, what belongs to a run."""
        return {**vars(self), "_before": {}, "_planned": None, "_loop": None, "asked": None}

    @property
    def active(self) -> bool:
        """Whether there is anything to watch for."""
        return bool(self._signals) or self._deadline is not None

    def arm(self, loop: Loop | None) -> None:
        """Take over the signals, and fix the deadline.

        Args:
            loop: The training loop; without one it counts as running until `disarm`.
        """
        self.asked = self._planned = None
        left_s = _seconds_until(self._deadline)
        if left_s is not None:
            self._planned = Deadline(time.monotonic() + left_s, "the deadline")
        if not self._signals:
            return
        if threading.current_thread() is not threading.main_thread():
            warn(
                "fit runs outside the main thread, where Python delivers no signals: signals= "
                "has no effect. deadline= has."
            )
            return
        self._workers = Workers()
        for number in self._signals:
            _disarm_leftover(number)
            self._before[number] = signal.signal(number, self._handle)
        self._loop = loop

    def disarm(self) -> None:
        """Give the signals back to who had them."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
        if self._workers is not None:
            self._workers.are_told(over=True)
            self._workers = None

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

    def runs(self, frame: FrameType | None) -> bool:
        """Say whether the loop is above `frame`: it may have ended by an exception."""
        return self._loop is None or self._loop.runs(frame)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._workers is not None and self._workers.is_worker():
            self._workers.hear(number, frame)
            return
        name = signal.Signals(number).name
        before = self._before.get(signal.Signals(number))
        if self.asked is not None or not self.runs(frame):  # the second one is immediate
            self.disarm()
            signal.raise_signal(number)
            return
        self.asked = Deadline(time.monotonic() + self._grace_s, name)
        if self._workers is not None:
            self._workers.are_told()
        _log.warning("%s: training ends after this batch", name)
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)


def _disarm_leftover(number: signal.Signals) -> None:
    """Give back a signal that belongs to a loop that ended by an exception."""
    owner = getattr(signal.getsignal(number), "__self__", None)
    if isinstance(owner, Preemption) and not owner.runs(sys._getframe(1)):
        owner.disarm()


def _signal(name: str | int) -> signal.Signals:
    try:
        found = signal.Signals[name] if isinstance(name, str) else signal.Signals(name)
    except (KeyError, ValueError):
        found = None
    if found is None or found.name in ("SIGKILL", "SIGSTOP"):
        raise ConfigError(
            f"signals are names such as SIGTERM and SIGINT that this platform has and a program "
            f"can catch. Got: {name!r}."
        )
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"SLURM_JOB_END_TIME is no number of seconds: {text!r}.") from None


def _seconds_until(deadline: DeadlineArgument) -> float | None:
    """Return the seconds from now until a deadline, None without one."""
    if deadline is None:
        return None
    if is_number(deadline) and deadline > 0:
        return float(deadline)
    if isinstance(deadline, datetime.datetime):
        return (deadline - datetime.datetime.now(deadline.tzinfo)).total_seconds()
    if deadline == "slurm":
        end = os.environ.get("SLURM_JOB_END_TIME")
        if end is None:
            warn("deadline='slurm': SLURM_JOB_END_TIME is not set.")
            return None
        return _number(end) - time.time()
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
