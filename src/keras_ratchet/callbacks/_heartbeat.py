"""Notes that training moves on, for `ratchet run`."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any

import keras

from keras_ratchet._storage import heartbeats
from keras_ratchet._storage.heartbeats import Beat

_EVERY_S = 1.0
_fits = 0  # of this process


class Heartbeat(keras.callbacks.Callback):
    """Notes that training moves on, for `ratchet run`.

    A beat is written where a `fit` begins, ends and goes into an epoch, and at ends of batches
    about once a second; in between a batch costs a look at the clock.

    Args:
        directory: Where.
        callback_list: The list that it stands in.
    """

    def __init__(self, directory: str, callback_list: Any) -> None:
        super().__init__()
        self._directory = directory
        self._list = callback_list
        self._beat = Beat(os.getpid())
        self._written_s = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Note that a `fit` begins, and where it saves."""
        global _fits  # noqa: PLW0603  lists of several fits have a Heartbeat each
        _fits += 1
        self._beat = Beat(
            os.getpid(), fit=_fits, directories=self._directories(), stacks=_stacks_signal()
        )
        self._write()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch; what the run resumes from is known by now."""
        resumed, snapshots = self._resumed()
        self._beat = replace(self._beat, epoch=epoch, batch=0, resumed=resumed, snapshots=snapshots)
        self._write()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note the batch, if it is time."""
        is_first = self._beat.state == "begun"
        if is_first or time.monotonic() - self._written_s >= _EVERY_S:
            self._beat = replace(self._beat, batch=batch + 1, state="training")
            self._write()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note that a validation moves on, if it is time."""
        if time.monotonic() - self._written_s >= _EVERY_S:
            self._write()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Note that the epoch is done."""
        self._beat = replace(self._beat, epoch=epoch + 1, batch=0)
        self._write()

    def on_train_end(self, logs: Any = None) -> None:
        """Note that the `fit` ends."""
        self._beat = replace(self._beat, state="ended")
        self._write()

    def on_train_abort(self, error: BaseException) -> None:
        """Note that the `fit` was left by an exception."""
        self.on_train_end()

    def _write(self) -> None:
        heartbeats.write(self._directory, self._beat)
        self._written_s = time.monotonic()

    def _directories(self) -> tuple[str, ...]:
        journals = [getattr(c, "_run_journal", None) for c in self._list.callbacks]
        return tuple(sorted({os.path.abspath(j.directory) for j in filter(None, journals)}))

    def _resumed(self) -> tuple[tuple[int, int] | None, bool]:
        """Return the place of the snapshot that the run resumes from, and whether it saves any."""
        for callback in self._list.callbacks:
            if hasattr(callback, "resumed_from"):  # BackupAndRestore, which imports this module
                place = callback.resumed_from
                return (None if place is None else (place.epoch, place.batch)), True
        return None, False


_stacks: int | None = None  # of this process


def _stacks_signal() -> int | None:
    """Return a signal at which this process prints the stacks of all threads, or None."""
    global _stacks  # noqa: PLW0603
    if _stacks is None and hasattr(faulthandler, "register"):
        _stacks = next(filter(_prints_stacks_at, _free_signals()), None)
    return _stacks


def _free_signals() -> list[int]:
    """Return signals that nobody handles: real-time ones, or SIGQUIT where there are none."""
    last = getattr(signal, "SIGRTMAX", None)
    numbers = [int(signal.SIGQUIT)] if last is None else list(range(last - 2, last - 12, -1))
    return [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]


def _prints_stacks_at(number: int) -> bool:
    """Print stacks at a signal from now on; return whether that is possible."""
    try:
        faulthandler.register(number, file=sys.__stderr__ or 2, all_threads=True)
    except (OSError, ValueError, RuntimeError):
        return False
    return True
