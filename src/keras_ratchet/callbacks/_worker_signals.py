"""What a worker that was forked during training does with a signal to the whole process group.

A forked worker inherits the handler. If it just died, the batch that it is making, or the lock
of the queue that it waits at, would be lost, and the training process would wait for them for
ever. So it lets the training process end first:

| the worker | what it does |
|---|---|
| waits for work, or makes a batch | continues until the training process ends it |
| the same, and the training process got no signal | ends after `_PATIENCE_S` |
| is no worker of `multiprocessing`, or the run has ended | the signal's default, at once |
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from keras_ratchet._keras.callbacks import frames_from

_RUNS, _ASKED, _OVER = 0, 1, 2
_PATIENCE_S = 5.0  # until the training process, in the middle of a step, has taken the signal


class Workers:
    """The part of the handler that runs in processes which inherited it.

    They read in shared memory whether the training process got a signal, or has ended its run.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._shared = mmap.mmap(-1, 1)

    def __reduce__(self) -> Any:
        return Workers, ()

    def notify(self, over: bool = False) -> None:
        """Notify the workers that training ends soon, or that the run is over."""
        if not self.is_worker():
            self._shared[0] = _OVER if over else _ASKED

    def is_worker(self) -> bool:
        """Return whether this is another process than the one that trains."""
        return os.getpid() != self._process

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in a worker."""
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
    """Return whether a function of a module is running in this thread."""
    return any(
        above.f_code.co_name == function and above.f_globals.get("__name__") == module
        for above in frames_from(frame)
    )
