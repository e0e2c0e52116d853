"""Threads or processes that compute batches before they are asked for."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

Compute = Callable[[int, int], Any]


class Prefetcher:
    """Computes batches in advance, on threads or in processes.

    Args:
        compute: A pure function of epoch and index.
        workers: Number of threads or processes.
        processes: Which of the two.
        depth: How many batches in advance.
    """

    def __init__(self, compute: Compute, workers: int, processes: bool, depth: int) -> None:
        self._depth = depth
        self._waiting: dict[tuple[int, int], Future[Any]] = {}
        self._executor: Executor
        if processes:
            self._task: Compute = _compute
            self._executor = ProcessPoolExecutor(
                workers, initializer=_start, initargs=(compute, os.getpid())
            )
        else:
            self._task = compute
            self._executor = ThreadPoolExecutor(workers, thread_name_prefix="keras_ratchet.data")
        weakref.finalize(self, self._executor.shutdown, wait=False, cancel_futures=True)

    def get(self, epoch: int, index: int, batches: int) -> Any:
        """Return a batch, and start computing those after it.

        Args:
            epoch: The epoch.
            index: The batch's index.
            batches: Number of batches of the epoch.

        Raises:
            Exception: What `compute` raised, wherever it ran.
        """
        for key in [key for key in self._waiting if key[0] != epoch]:
            self._waiting.pop(key).cancel()
        for i in range(index, min(index + 1 + self._depth, batches)):
            if (epoch, i) not in self._waiting:
                self._waiting[epoch, i] = self._executor.submit(self._task, epoch, i)
        return self._waiting.pop((epoch, index)).result()


class _Process:
    """The task of a worker process."""

    compute: Compute


def _start(compute: Compute, parent: int) -> None:
    _Process.compute = staticmethod(compute)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, as after a SIGKILL."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _compute(epoch: int, index: int) -> Any:
    return _Process.compute(epoch, index)
