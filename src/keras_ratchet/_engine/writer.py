"""Runs saves one at a time: in line, or on one thread beside training."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_log = logging.getLogger("keras_ratchet")
_NICENESS = 10  # training goes first where the two want the same processor


class Writer:
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

    def submit(self, work: Callable[[], Any], done: Callable[[Any], None], in_line: bool) -> None:
        """Run a job; if one is under way, wait for it first.

        Args:
            work: The job. If what it returns is false, the job has failed.
            done: Gets what it returned, on the thread that collects it.
            in_line: Whether to run it here and now, after all jobs that are under way.

        Raises:
            Exception: What the job before this one raised, or in line this one.
        """
        self.wait()
        job = Job(work, done)
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
            _lane.forget(job)
            job.hand_on()

    def wait(self) -> None:
        """Wait for the job that is under way, and hand on its outcome."""
        if self._job is not None:
            self._job.join()
        self.collect()


class Job:
    """One job, and what became of it."""

    def __init__(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._work = work
        self._done = done
        self._result: Any = None
        self._error: BaseException | None = None
        self._ended = threading.Event()

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._ended.is_set()

    @property
    def failed(self) -> bool:
        """Whether it is over, and has not done what it was to do."""
        return self.ended and (self._error is not None or not self._result)

    @property
    def outcome(self) -> Any:
        """What it raised, or else returned."""
        return self._error if self._error is not None else self._result

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
        self._ended.wait()

    def hand_on(self) -> None:
        """Give the outcome to who waits for it, or raise."""
        if self._error is not None:
            raise self._error
        self._done(self._result)


class _Lane:
    """The order of all jobs in a process, and the thread that runs them while there are any."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._open: list[Job] = []
        self._runs = False

    def put(self, job: Job) -> None:
        if self._process != os.getpid():  # a child made by fork has no thread of ours
            self._begin()
        with self._lock:
            self._waiting.append(job)
            self._open.append(job)
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="keras_ratchet.save").start()

    def forget(self, job: Job) -> None:
        with self._lock:
            self._open = [other for other in self._open if other is not job]

    def open_jobs(self) -> list[Job]:
        with self._lock:
            return list(self._open)

    def _run(self) -> None:
        _make_nice()
        while True:
            with self._lock:
                if not self._waiting:
                    self._runs = False
                    return
                job = self._waiting.popleft()
            job.run()
            if job.failed:  # nobody may come to collect it
                _log.error("a save in the background failed: %s", job.outcome)


# Order is a matter between callbacks, so there is one lane for all of them.
_lane = _Lane()


def open_jobs() -> list[Job]:
    """Return the jobs of all writers whose outcome nobody has collected yet."""
    return _lane.open_jobs()


def drain() -> None:
    """Wait until no job is under way: what a run that failed had begun is finished or failed."""
    for job in open_jobs():
        job.join()


def _nothing() -> None:
    """Do nothing."""


def _make_nice() -> None:
    """Let this thread alone stand back: on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
