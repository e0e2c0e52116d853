"""Releases the locks of a `fit` that has ended by an exception, for which there is no hook.

A traceback that somebody stores (a notebook, a debugger) keeps the callbacks alive, and with them
their locks: an idle process would lock others out of its directory. So a thread checks once a
second whether the `fit` that took a lock is still on its thread's stack; the next `fit` of the
process checks, too, when it starts. Under `guard` the callbacks clean up after `fit` has left the
stack, and keep their locks meanwhile. Locks of other loops are released with their objects only.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_ratchet.callbacks._signals import Loop
from keras_ratchet.types import CallbackList

POLL_S = 1.0


@dataclass(slots=True)
class _Entry:
    callback: weakref.ref[Any]
    loop: Loop
    thread: int
    is_visible: bool  # whether other threads can see it run: else they never take it for ended
    is_cleaning_up: bool = False  # and then releases its lock itself
    had_ended: bool = False  # when the thread looked last

    def runs(self) -> bool:
        """Return whether the loop is still running; from another thread any `fit` counts."""
        if self.thread == threading.get_ident():
            return self.loop.runs(sys._getframe())
        return not self.is_visible or self.loop.runs_in(self.thread)

    def is_one_of(self, callbacks: list[Any]) -> bool:
        """Return whether the lock is of one of these callbacks."""
        own = self.callback()
        return any(own is callback for callback in callbacks)


class _Leftovers:
    """The locks that are held, and a thread that ends when there are none."""

    def __init__(self) -> None:
        self.start_again()

    def start_again(self) -> None:
        """Forget everything, as in a child made by `fork`, which has neither thread nor locks."""
        self._mutex = threading.Lock()
        self._entries: list[_Entry] = []
        self._is_watched = False

    def add(self, callback: Any, loop: Loop) -> None:
        """Add a callback that has taken a lock; release those of loops that have ended."""
        with self._mutex:
            self._entries = [e for e in self._entries if e.callback() is not callback]
            self._sweep()
            if not loop.is_keras:
                return
            here = threading.get_ident()
            self._entries.append(_Entry(weakref.ref(callback), loop, here, loop.runs_in(here)))
            if not self._is_watched:
                self._is_watched = True
                threading.Thread(target=self._watch, name="ratchet-locks", daemon=True).start()

    def _watch(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(POLL_S)
            with self._mutex:
                self._sweep(after_two_looks=True)
                if not self._entries:
                    self._is_watched = False
                    return

    def _sweep(self, after_two_looks: bool = False) -> None:
        """Release the locks of loops that have ended, but not while a save is being written.

        An exception on its way from `fit` to `guard` is on neither's stack: the thread, which may
        look at any time, releases nothing at its first look.
        """
        kept = []
        for entry in self._entries:
            has_ended = not entry.is_cleaning_up and not entry.runs()
            is_due = has_ended and (entry.had_ended or not after_two_looks)
            entry.had_ended = has_ended
            if not (is_due and _released(entry.callback())):
                kept.append(entry)
        self._entries = kept

    @contextlib.contextmanager
    def cleaning_up(self, callbacks: list[Any]) -> Iterator[None]:
        """Keep the locks of callbacks in this block; those that they do not release stay listed."""
        with self._mutex:
            found = [e for e in self._entries if not e.is_cleaning_up and e.is_one_of(callbacks)]
            for entry in found:
                entry.is_cleaning_up = True
        try:
            yield
        finally:
            with self._mutex:
                for entry in found:
                    entry.is_cleaning_up = False


def _released(callback: Any) -> bool:
    return callback is None or bool(callback._release_lock())


_leftovers = _Leftovers()  # the process's, as are its locks
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leftovers.start_again)


def watch_lock(callback: Any, callback_list: CallbackList) -> None:
    """Release a callback's lock if the calling `fit` ends with an exception.

    Args:
        callback: In its `on_train_begin`; its `_release_lock` returns whether it was possible.
        callback_list: The `CallbackList` that it is in, or None.
    """
    _leftovers.add(callback, Loop(sys._getframe(1), callback_list))


def keep_locks(callbacks: list[Any]) -> contextlib.AbstractContextManager[None]:
    """Return a block in which callbacks keep their locks, though their `fit` has ended.

    Args:
        callbacks: Those that clean up in it, and release their locks.
    """
    return _leftovers.cleaning_up(callbacks)
