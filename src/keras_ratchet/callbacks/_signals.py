"""Ctrl-C, signals and deadlines: what asks a run to end, and whether its loop is still running.

`fit` has no hook for an exception, and on JAX it puts the training state back into the model
after one. So the first Ctrl-C does not raise where it falls: it sets `model.stop_training`,
which `fit` looks at after each batch, and our next hook does its work and raises the
KeyboardInterrupt. The second Ctrl-C is immediate. Other signals are noted, and BackupAndRestore
acts on them after the batch.
"""

from __future__ import annotations

import datetime
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import Any

from keras_ratchet._keras.callbacks import frames_from
from keras_ratchet._warn import warn
from keras_ratchet.callbacks._thread_calls import called, calls_of
from keras_ratchet.callbacks._worker_signals import Workers
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import is_number
from keras_ratchet.policy.deadline import Deadline
from keras_ratchet.types import CallbackList, Model

_log = logging.getLogger("keras_ratchet")
DeadlineArgument = float | str | datetime.datetime | None


class Loop:
    """A training loop, identified by its code and by the callback list that it holds, if any.

    Args:
        frame: Where `on_train_begin` was called, or a frame below; the loop is the first frame
            above that is no callback's.
        callback_list: The `CallbackList`, or None in a loop that calls its callbacks itself.

    Attributes:
        is_keras: Whether it is Keras's own `fit`.
        always_ends: Whether it tells the callbacks when it ends, or ends by an exception.
    """

    def __init__(self, frame: FrameType | None, callback_list: Any) -> None:
        loop = None
        for loop in frames_from(frame):
            if not hasattr(loop.f_locals.get("self"), "on_train_batch_end"):
                break
        assert loop is not None
        self._code: CodeType = loop.f_code
        module = str(loop.f_globals.get("__name__"))
        self.is_keras = module.startswith("keras.")
        self.always_ends = self.is_keras or module == "keras_ratchet.run"
        self._list = None if callback_list is None else weakref.ref(callback_list)

    def same_as(self, other: Loop) -> bool:
        """Return whether the two are one loop."""
        return self._code is other._code and self._list == other._list

    def runs(self, frame: FrameType | None) -> bool:
        """Return whether the loop is above `frame`: it may have ended by an exception."""
        return any(self._is(above) for above in frames_from(frame))

    def runs_in(self, thread: int) -> bool:
        """Return whether such a loop, this or another one, runs in a thread, or may run there."""
        calls = calls_of(thread)
        return calls is None or called(self._code) in calls

    def _is(self, frame: FrameType) -> bool:
        if frame.f_code is not self._code:
            return False
        if self._list is None:
            return True
        mine = self._list()
        return mine is not None and any(value is mine for value in frame.f_locals.values())


class _Handler:
    """Handles signals while a loop runs; the previous handlers are restored afterwards."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._loop: Loop | None = None

    def _install(self, number: int) -> None:
        self._before[number] = signal.signal(number, self._handle)

    def _uninstall(self) -> None:
        if not _in_main_thread():
            return
        for number, handler in list(self._before.items()):
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
                del self._before[number]

    def runs(self, frame: FrameType | None) -> bool:
        """Return whether the loop is above `frame`; without a loop it is until `_uninstall`."""
        return self._loop is None or self._loop.runs(frame)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        raise NotImplementedError


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _handler_of(number: int) -> Any:
    """Return the object whose method handles a signal, or None."""
    return getattr(signal.getsignal(number), "__self__", None)


class CtrlC(_Handler):
    """Turns the first Ctrl-C of a training loop into a request to stop.

    Attributes:
        requested: Whether Ctrl-C was pressed; in several processes, once all have heard of it.
        asked: Whether it was pressed in this process.
        is_shared: Whether the other ranks have to hear of it first.
        epoch_is_whole: Whether all batches of this epoch were done before it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requested = self.asked = self.is_shared = False
        self.epoch_is_whole = False
        self._users: set[int] = set()
        self._model: Any = None
        self._process = 0

    def release(self, user: Any) -> None:
        """Restore the previous SIGINT handler once the last user has released it."""
        self._users.discard(id(user))
        if not self._users:
            self._uninstall()

    def _watch(self, model: Model, loop: Loop) -> None:
        self._model = weakref.ref(model)
        self._loop = loop
        self._process = os.getpid()
        self._install(signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        model = self._model()
        if model is None or not self.runs(frame):
            before = self._before.get(number) or signal.default_int_handler
            self._uninstall()
            before(number, frame)
        elif self.asked:
            self._uninstall()
            signal.default_int_handler(number, frame)
        else:
            self.asked = True
            if not self.is_shared:
                self.requested = model.stop_training = True
            if os.getpid() == self._process:  # a data loading worker gets the same Ctrl-C
                _log.warning("Ctrl-C: training ends after this batch; press again to stop at once.")


def watch_ctrl_c(model: Model, callback_list: CallbackList, user: Any) -> CtrlC:
    """Take over SIGINT until `release`; the callbacks of one loop share what is returned.

    Outside the main thread, or where somebody else handles SIGINT already, the CtrlC that is
    returned is never `requested`.

    Args:
        model: The model, whose `stop_training` the loop looks at.
        callback_list: The `CallbackList` that `user` is in, or None.
        user: The callback, in its `on_train_begin`.
    """
    ctrl_c = CtrlC()
    if not _in_main_thread():
        return ctrl_c
    frame = sys._getframe(1)
    loop = Loop(frame, callback_list)
    current = _ctrl_c_in_charge()
    while current is not None and (id(user) in current._users or not current.runs(frame)):
        current._uninstall()  # left over from a loop that ended by an exception
        current = _ctrl_c_in_charge()
    if current is not None and current._loop is not None and current._loop.same_as(loop):
        ctrl_c = current
    elif current is not None or signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        ctrl_c._watch(model, loop)
    ctrl_c._users.add(id(user))
    return ctrl_c


def _ctrl_c_in_charge() -> CtrlC | None:
    owner = _handler_of(signal.SIGINT)
    return owner if isinstance(owner, CtrlC) else None


class Signals(_Handler):
    """Records that a run has to end soon; its session acts on it after the batch.

    Args:
        signals: Names or numbers of signals.
        grace_s: Seconds from a signal until the process may be killed.
        deadline: Seconds from the start of the run, a time of day ("17:30"), a datetime, or
            "slurm" for the end of the Slurm job.

    Attributes:
        received: The end that a signal has set, or None.

    Raises:
        ConfigError: If a signal is unknown or the deadline cannot be read.
    """

    def __init__(
        self, signals: Iterable[str | int], grace_s: float, deadline: DeadlineArgument
    ) -> None:
        super().__init__()
        names = [signals] if isinstance(signals, str) else signals
        self._signals = [_signal(name) for name in names]
        if not isinstance(grace_s, int | float) or not grace_s > 0:
            raise ConfigError(
                f"grace_s must be a number of seconds above 0. Got: {grace_s!r}.", see="preemption"
            )
        self._grace_s = grace_s
        self._deadline = deadline
        if deadline != "slurm":
            _seconds_until(deadline)  # raises if it cannot be read
        self._planned: Deadline | None = None
        self._workers: Workers | None = None
        self.received: Deadline | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for copies and pickles, without what belongs to a run."""
        return {**vars(self), "_before": {}, "_planned": None, "_loop": None, "received": None}

    @property
    def are_watched(self) -> bool:
        """Whether there is a signal or a deadline to watch for."""
        return bool(self._signals) or self._deadline is not None

    def start(self, loop: Loop | None) -> None:
        """Take over the signals, and fix the deadline.

        Args:
            loop: The training loop; without one it counts as running until `stop`.
        """
        self.received = self._planned = None
        left_s = _seconds_until(self._deadline)
        if left_s is not None:
            self._planned = Deadline(time.monotonic() + left_s, "the deadline", "deadline")
        if not self._signals:
            return
        if not _in_main_thread():
            warn(
                "fit runs outside the main thread, where Python delivers no signals: signals= "
                "has no effect; deadline= still works."
            )
            return
        for number in self._signals:
            owner = _handler_of(number)
            # the frame is in no variable, which would keep all that `fit` holds alive
            if isinstance(owner, Signals) and not owner.runs(sys._getframe()):
                owner.stop()  # left over from a loop that ended by an exception
            self._install(number)
        self._workers = Workers()
        self._loop = loop

    def stop(self) -> None:
        """Restore the previous signal handlers."""
        self._uninstall()
        if self._workers is not None and _in_main_thread():
            self._workers.notify(over=True)
            self._workers = None

    def due(self, save_s: float, step_s: float) -> Deadline | None:
        """Return the deadline for which the run has to end now, or None.

        Args:
            save_s: Duration of the longest save so far, in seconds.
            step_s: Duration of the last step, in seconds.
        """
        if self.received is not None:
            return self.received
        if self._planned and self._planned.is_near(time.monotonic(), save_s, step_s):
            return self._planned
        return None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._workers is not None and self._workers.is_worker():
            self._workers.receive(number, frame)
            return
        before = self._before.get(number)
        if self.received is not None or not self.runs(frame):  # the second one is immediate
            self.stop()
            signal.raise_signal(number)
            return
        name = signal.Signals(number).name
        self.received = Deadline(time.monotonic() + self._grace_s, name, "signal")
        if self._workers is not None:
            self._workers.notify()
        _log.warning("%s: training ends after this batch", name)
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)


def _signal(name: str | int) -> signal.Signals:
    try:
        found = signal.Signals[name] if isinstance(name, str) else signal.Signals(name)
    except (KeyError, ValueError):
        found = None
    if found is None or found.name in ("SIGKILL", "SIGSTOP"):
        raise ConfigError(
            "signals must be names of signals, such as SIGTERM, that exist on this platform "
            f"and can be caught. Got: {name!r}.",
            see="preemption",
        )
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"SLURM_JOB_END_TIME is not a number of seconds: {text!r}.", see="preemption"
        ) from None


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
            "deadline must be a number of seconds above 0, a time of day such as '17:30', a "
            f"datetime or 'slurm'. Got: {deadline!r}.",
            see="preemption",
        ) from None
    now = datetime.datetime.now(at.tzinfo)
    then = datetime.datetime.combine(now.date(), at)
    return (then - now).total_seconds() % 86_400
