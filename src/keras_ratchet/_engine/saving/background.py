"""Runs saves one at a time on one thread in the background, in the order in which they are started.

Uploads to a store run likewise on a second thread, so that a network that is gone does not keep
the saves of other callbacks from the disk.

`concurrent.futures.ThreadPoolExecutor(1)` would not do. Its `submit` puts the work into a queue
before it starts the thread: when the thread cannot be started ("can't start new thread"), or a
second Ctrl-C arrives in between, the work stays in the queue, and there is no future to cancel or
wait for. It refuses work once the interpreter shuts down. And its thread stays when there is
nothing to do, so that every later `fork` (workers that load data) happens in a process with one
more thread. So outcomes are `Future`s, but the queue and its thread are made here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from keras_ratchet._distributed.agreement import on_first_rank
from keras_ratchet._distributed.one import One
from keras_ratchet.types import CheckpointInfo

_log = logging.getLogger("keras_ratchet")
_SILENT_S = 10.0  # for which an upload is waited for without a word
_NICENESS = 10  # training goes first where the two want the same processor

# A file of this size takes about as long to write as two steps of a small model, 10 ms: a thread
# would save nothing, and scripts that look for the file in the same hook find it.
INLINE_MAX_BYTES = 4_000_000


def runs_in_background(background: bool | None, size_bytes: int) -> bool:
    """Return whether a save runs in the background.

    Args:
        background: What the user asked for; None for what is best.
        size_bytes: About how much is written.
    """
    return size_bytes > INLINE_MAX_BYTES if background is None else background


@dataclass(frozen=True, slots=True)
class Saved:
    """The outcome of a save; true if the checkpoint was committed.

    Attributes:
        path: The checkpoint.
        bad_weight: Path of a weight that is not finite, if that is why it was not saved.
        error: Why it was not saved; or, if it was, why older checkpoints could not be deleted.
        committed: Whether the checkpoint is there.
        uploaded: Whether it is on the store, too, or (with an error) was to be put there.
        duration_s: How long the save took, until it was on the disk.
        info: What was committed, if the user wants to be told.
        deleted: Likewise, what was deleted then.
    """

    path: str
    bad_weight: str | None = None
    error: Exception | None = None
    committed: bool = False
    uploaded: bool = False
    duration_s: float = 0.0
    info: CheckpointInfo | None = None
    deleted: tuple[CheckpointInfo, ...] = ()

    def __bool__(self) -> bool:
        return self.committed

    def __str__(self) -> str:
        if self.bad_weight is not None:
            return f"weight {self.bad_weight!r} is not finite"
        return str(self.error or f"{self.path!r} depends on a save that has failed")


class BackgroundWriter:
    """Runs the saves of one callback, at most one at a time; its owner collects each outcome.

    The upload of what was saved, if there is one, is a second job, and part of the outcome.

    Saves of all writers of a process run in the order in which they were started, so what a later
    one says about an earlier one is true once both are done. The interpreter waits for them
    before it exits.
    """

    def __init__(self) -> None:
        self._job: Job | None = None
        self._uploads: list[Job] = []
        self.ranks: Any = One()

    def __reduce__(self) -> tuple[type[BackgroundWriter], tuple[()]]:
        """Return how to make a copy, which has nothing to do."""
        return BackgroundWriter, ()

    @property
    def busy(self) -> bool:
        """Whether a save or its upload is running."""
        return self.is_saving or not all(job.future.done() for job in self._uploads)

    @property
    def is_saving(self) -> bool:
        """Whether a save is running; its upload does not count."""
        return self._job is not None and not self._job.future.done()

    @property
    @on_first_rank
    def pending(self) -> bool:
        """Whether there is a save whose outcome has not been collected."""
        return self.has_job

    @property
    def has_job(self) -> bool:
        """Whether there is one in this process; no other rank is asked."""
        return self._job is not None or bool(self._uploads)

    def start(self, save: Callable[[], Saved], model: object) -> None:
        """Start a save; the outcome of the one before has been collected.

        Args:
            save: The save. It returns errors, it does not raise them.
            model: The model in training.
        """
        assert self._job is None
        self._job = Job(save, id(model), _saves)
        _saves.put(self._job)

    def upload(self, upload: Callable[[], Saved], model: object) -> None:
        """Start the upload of what was just saved, on any thread; those before come first."""
        job = Job(upload, id(model), _uploads)
        self._uploads.append(job)
        _uploads.put(job)

    @on_first_rank
    def collect(self) -> Saved | None:
        """Return the outcome of the save or of its upload if it has ended, once; else None."""
        saved, self._job = _take(self._job)
        if self._job is not None:
            return None
        uploaded = None
        while self._uploads and self._uploads[0].future.done():
            latest = _take(self._uploads.pop(0))[0]
            uploaded = uploaded if uploaded is not None and uploaded.error is not None else latest
        if saved and uploaded is not None and saved.error is None:
            return replace(saved, error=uploaded.error, uploaded=True)
        return uploaded if saved is None else saved

    @on_first_rank
    def wait(self) -> Saved | None:
        """Wait until no save or upload is running, then return the outcome as `collect` does."""
        if self._job is not None:
            self._job.wait()
        self.wait_for_upload(None)
        return self.collect()

    @on_first_rank
    def wait_on_disk(self) -> Saved | None:
        """Wait until no save is running, then return the outcome; its upload may go on."""
        if self._job is not None:
            self._job.wait()
        return self.collect()

    def wait_for_upload(self, limit_s: float | None) -> bool:
        """Wait for the upload that is running in this process; return whether it has ended.

        Args:
            limit_s: For how many seconds at most; None for as long as it takes.
        """
        end = None if limit_s is None else time.monotonic() + limit_s
        for job in list(self._uploads):
            if end is None:
                job.wait(_SILENT_S)
                if not job.future.done():
                    _log.warning("waiting for an upload that is running")
            job.wait(None if end is None else max(0.0, end - time.monotonic()))
        return all(job.future.done() for job in self._uploads)


class Job:
    """A save in the queue, and the future of its outcome.

    Args:
        save: The save.
        model_id: Identity of the model in training.
        queue: Which runs it.
    """

    def __init__(self, save: Callable[[], Saved], model_id: int, queue: _Queue) -> None:
        self.model_id = model_id
        self._queue = queue
        self.future: Future[Saved] = Future()
        self._save: Callable[[], Saved] | None = save

    @property
    def failed(self) -> bool:
        """Whether it has ended without a checkpoint."""
        if not self.future.done() or self.future.cancelled():
            return False
        return self.future.exception() is not None or not self.future.result()

    def run(self) -> None:
        """Do the work; log a failure, since nobody may collect it."""
        assert self._save is not None
        try:
            saved = self._save()
        except BaseException as error:
            _log.error("a save in the background failed: %s", error, exc_info=error)
            self._save = None
            self.future.set_exception(error)
            return
        if not saved:
            trace = None if isinstance(saved.error, OSError) else saved.error
            _log.error("a save in the background failed: %s", saved, exc_info=trace)
        self._save = None  # the captured values are free before anybody is told
        self.future.set_result(saved)

    def wait(self, limit_s: float | None = None) -> None:
        """Wait for its end, perhaps for some seconds only."""
        if not self.future.done():
            self._queue.put(self)  # a second Ctrl-C may have kept `start` from doing that
            futures.wait([self.future], limit_s)

    def forget(self) -> None:
        """Leave those that `open_jobs` returns."""
        self._queue.forget(lambda other: other is self)

    def disown(self) -> None:
        """Mark it as cancelled: in a child made by `fork` it is the parent's."""
        self.future = Future()  # the lock of the old one may be held forever
        self.future.cancel()


def start_job(save: Callable[[], Saved], model: object) -> Job:
    """Start a save whose outcome nobody collects; a failure is logged."""
    job = Job(save, id(model), _saves)
    _saves.put(job)
    return job


def _take(job: Job | None) -> tuple[Saved | None, Job | None]:
    """Return a job's outcome, and the job if it has not ended."""
    if job is None or not job.future.done():
        return None, job
    job.forget()
    return None if job.future.cancelled() else job.future.result(), None


class _Queue:
    """The jobs of a process in their order, and the thread that runs them while there are any."""

    def __init__(self, thread_name: str) -> None:
        self._thread_name = thread_name
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._open: list[Job] = []
        self._running = False

    def put(self, job: Job) -> None:
        """Run a job, once, on the thread; if no thread can be started, run it here."""
        with self._lock:
            if job not in self._open:
                self._waiting.append(job)
                self._open.append(job)
            if self._running or not self._waiting:
                return
        if not self._start_thread():
            self._run(nice=False)

    def _start_thread(self) -> bool:
        """Return whether a thread could be started that the interpreter waits for at its exit."""
        if not threading.main_thread().is_alive():  # it has waited for threads already
            return False
        try:
            threading.Thread(target=self._run, args=(True,), name=self._thread_name).start()
        except RuntimeError:  # too many threads
            return False
        return True

    def forget(self, which: Callable[[Job], bool]) -> None:
        """Remove jobs that have ended from those that `open_jobs` returns."""
        with self._lock:
            self._open = [job for job in self._open if not (job.future.done() and which(job))]

    def open_jobs(self) -> list[Job]:
        """Return the jobs whose outcome has not been collected."""
        with self._lock:
            return list(self._open)

    def start_again(self) -> None:
        """Start without jobs in a child made by `fork`, which has no thread of ours."""
        for job in self._open:
            job.disown()
        self._reset()

    def _run(self, nice: bool) -> None:
        with self._lock:
            if self._running:
                return
            self._running = True
        if nice:
            _lower_priority()
        while True:
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return
                job = self._waiting.popleft()
            job.run()


# Order matters between callbacks, so they share one queue.
_saves, _uploads = _Queue("keras_ratchet.save"), _Queue("keras_ratchet.upload")
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_saves.start_again)
    os.register_at_fork(after_in_child=_uploads.start_again)


def drain_all() -> None:
    """Wait until no save and no upload is running."""
    drain()
    for job in _uploads.open_jobs():
        job.wait()


def open_jobs(model: object) -> list[Job]:
    """Return the saves of a model's training whose outcome has not been collected."""
    return [job for job in _saves.open_jobs() if job.model_id == id(model)]


def drain() -> None:
    """Wait until no save is running."""
    for job in _saves.open_jobs():
        job.wait()


def discard_jobs(model: object) -> None:
    """Wait for what an earlier `fit` of a model left running, and discard the outcomes."""
    drain()
    for queue in (_saves, _uploads):
        for job in queue.open_jobs():
            if job.model_id == id(model):
                job.wait()
                job.forget()


def _lower_priority() -> None:
    """Lower the priority of this thread alone: on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
