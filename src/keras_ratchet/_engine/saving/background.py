"""Runs saves one at a time: in line, or on one thread beside training."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from typing import Any

_log = logging.getLogger("keras_ratchet")
_NICENESS = 10  # training goes first where the two want the same processor


class BackgroundWriter:
    """Runs the jobs of one callback, and hands each outcome back on the training thread.

    At most one job of a writer is under way. Jobs of all writers of a process run in the order
    in which they were submitted, so what a later one says of an earlier one is true once both
    are done. The interpreter waits for them before it exits.
    """

    def __init__(self) -> None:
        self._job: Job | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._job is not None and not self._job.ended

    def submit(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        *,
        model: Any,
        in_line: bool,
        crashed: Callable[[], None] = lambda: None,
    ) -> None:
        """Run a job; if one is under way, wait for it first.

        Args:
            work: The job. If what it returns is false, the job has failed.
            done: Gets what it returned, on the thread that collects it.
            model: The model in training.
            in_line: Whether to run it here and now, after all jobs that are under way.
            crashed: Called before an exception of the job is raised.

        Raises:
            Exception: What the job before this one raised, or in line this one.
        """
        self.wait()
        job = Job(work, done, crashed, id(model))
        if in_line:
            drain()
            job.run()
            job.hand_on()
        else:
            self._job = job
            _lane.put(job)

    def collect(self) -> None:
        """Hand on the outcome of the last job, if it has ended.

        Raises:
            Exception: What the job raised, with its traceback.
        """
        if self._job is not None and self._job.ended:
            job, self._job = self._job, None
            _lane.forget(lambda other: other is job)
            job.hand_on()

    def wait(self) -> None:
        """Wait for the job that is under way, and hand on its outcome."""
        if self._job is not None:
            self._job.join()
        self.collect()


class Job:
    """One job, and what became of it.

    Args:
        work: The job.
        done: Gets its outcome.
        crashed: Called before an exception of the job is raised.
        training: Identity of the model in training.
    """

    def __init__(
        self,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        crashed: Callable[[], None],
        training: int,
    ) -> None:
        self.training = training
        self._work = work
        self._done = done
        self._crashed = crashed
        self._process = os.getpid()
        self._result: Any = None
        self._error: BaseException | None = None
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether it is over; in a child made by `fork` it is, since it is its parent's."""
        return self._ended.is_set() or self._is_foreign

    @property
    def failed(self) -> bool:
        """Whether it is over, and has not done what it was to do."""
        return self._ended.is_set() and (self._error is not None or not self._result)

    @property
    def _is_foreign(self) -> bool:
        return self._process != os.getpid()

    def run(self) -> None:
        """Do the work."""
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
        self._work = _nothing  # the values that it holds are free now
        self._ended.set()

    def join(self) -> None:
        """Wait for its end."""
        if not self.ended:
            _lane.put(self)  # a second Ctrl-C may have come before that was done
            self._ended.wait()

    def hand_on(self) -> None:
        """Give the outcome to who waits for it, or raise."""
        if self._is_foreign:
            return
        if self._error is not None:
            self._crashed()
            raise self._error
        self._done(self._result)

    def log_failure(self) -> None:
        """Log what nobody may come to collect."""
        if self._error is not None:
            _log.error("a save in the background failed: %s", self._error, exc_info=self._error)
        elif not self._result:
            _log.error("a save in the background was not made: %s", self._result)


class _Lane:
    """The order of all jobs in a process, and the thread that runs them while there are any.

    A child made by `fork` has no thread of ours, and the lock may be held in it for ever: it
    begins anew.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._open: list[Job] = []
        self._runs = False

    def _locked(self) -> threading.Lock:
        if self._process != os.getpid():
            self._begin()
        return self._lock

    def put(self, job: Job) -> None:
        """Let a thread run a job; where there can be none, run it here."""
        with self._locked():
            if job not in self._open:
                self._waiting.append(job)
                self._open.append(job)
            if self._runs or not self._waiting:
                return
        try:
            threading.Thread(target=self._run, args=(True,), name="keras_ratchet.save").start()
        except RuntimeError:  # too many threads, or the interpreter is shutting down
            self._run(nice=False)

    def forget(self, which: Callable[[Job], bool]) -> None:
        """Drop jobs that are over from those that `open_jobs` returns."""
        with self._locked():
            self._open = [job for job in self._open if not (job.ended and which(job))]

    def open_jobs(self) -> list[Job]:
        """Return the jobs whose outcome nobody has collected."""
        with self._locked():
            return list(self._open)

    def _run(self, nice: bool) -> None:
        with self._lock:
            if self._runs:
                return
            self._runs = True
        if nice:
            _make_nice()
        while True:
            with self._lock:
                if not self._waiting:
                    self._runs = False
                    return
                job = self._waiting.popleft()
            job.run()
            job.log_failure()


# Order is a matter between callbacks, so there is one lane for all of them.
_lane = _Lane()


def open_jobs(model: Any) -> list[Job]:
    """Return the jobs of a model's training whose outcome nobody has collected yet."""
    return [job for job in _lane.open_jobs() if job.training == id(model)]


def drain() -> None:
    """Wait until no job is under way."""
    for job in _lane.open_jobs():
        job.join()


def begin_anew(model: Any) -> None:
    """Finish what an older training of a model had begun, which may have ended by an exception.

    What failed then is no matter of the training that begins now.
    """
    drain()
    _lane.forget(lambda job: job.training == id(model))


def without_run(owner: Any, **fresh: Any) -> dict[str, Any]:
    """Return the slots of a dataclass that saves, as they are when nothing is under way.

    Args:
        owner: The dataclass; its slots `_lock` and `_save` are of a run.
        **fresh: Other slots that are of a run, and what they begin with.
    """
    slots = {one.name: getattr(owner, one.name) for one in fields(owner)}
    return slots | {name: None for name in ("_lock", "_save") if name in slots} | fresh


def _nothing() -> None:
    """Do nothing."""


def _make_nice() -> None:
    """Let this thread alone stand back: on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
