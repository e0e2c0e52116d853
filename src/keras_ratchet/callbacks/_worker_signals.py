"""What a signal to the whole process group means in a worker that was forked while training.

A forked worker inherits the handler. If it just died, the batch that it had in hand, or the lock
of the queue that it was waiting at, would be gone with it, and the training process would wait
for them for ever. So it lets the training process make room first:

| the worker | what it does |
|---|---|
| waits for work, or has a batch in hand | goes on until the training process ends it |
| the same, and the training process was not asked to make room | ends after `_PATIENCE_S` |
| is no worker of `multiprocessing`, or training is over | the signal's default, at once |
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

_RUNS, _ASKED, _OVER = 0, 1, 2
_PATIENCE_S = 5.0  # until the training process, in the middle of a step, has taken the signal


class Workers:
    """The handler's other half, in the processes that inherit it.

    How far the training process is stands in memory that all of them share.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._shared = mmap.mmap(-1, 1)

    def __reduce__(self) -> Any:
        return Workers, ()

    def are_told(self, over: bool = False) -> None:
        """Let the workers know that training makes room, or that it is over."""
        if not self.is_worker():
            self._shared[0] = _OVER if over else _ASKED

    def is_worker(self) -> bool:
        """Whether this is another process than the one that trains."""
        return os.getpid() != self._process

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Take a signal in a worker."""
        if self._shared[0] == _OVER or not _runs(frame, "multiprocessing.process", "_bootstrap"):
            _die(number)
        elif number == signal.SIGTERM:  # the others are for the training process only
            signal.signal(number, signal.SIG_DFL)  # pools end their workers with this one
            threading.Thread(target=self._wait, args=(number,), daemon=True).start()

    def _wait(self, number: int) -> None:
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            if self._shared[0] == _ASKED:
                return
            if self._shared[0] == _OVER:
                break
            time.sleep(0.02)
        os.kill(os.getpid(), number)


def _die(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _runs(frame: FrameType | None, module: str, function: str) -> bool:
    """Say whether a function of a module is at work in this thread."""
    while frame is not None:
        if frame.f_code.co_name == function and frame.f_globals.get("__name__") == module:
            return True
        frame = frame.f_back
    return False
