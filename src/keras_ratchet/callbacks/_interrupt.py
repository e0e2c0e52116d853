"""Ctrl-C, without losing the best weights.

`fit` has no hook for an exception, and on JAX it puts the training state back into the model
after one. So the first Ctrl-C does not raise where it falls: it sets `model.stop_training`,
which `fit` looks at after each batch, and the next hook of ours does its work and raises the
KeyboardInterrupt. The second Ctrl-C is immediate.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import weakref
from types import FrameType
from typing import Any

from keras_ratchet.callbacks._loop import Loop

_log = logging.getLogger("keras_ratchet")


class CtrlC:
    """Turns the first Ctrl-C of a training loop into a request to stop.

    Attributes:
        requested: Whether Ctrl-C was pressed.
        epoch_is_whole: Whether all batches of this epoch were done before it was.
    """

    def __init__(self) -> None:
        self.requested = False
        self.epoch_is_whole = False
        self._users: set[int] = set()
        self._model: Any = None
        self._loop: Loop | None = None
        self._process = 0
        self._before: Any = None

    def release(self, user: Any) -> None:
        """Give SIGINT back to whoever had it, once the last user has released it."""
        self._users.discard(id(user))
        if not self._users:
            self._uninstall()

    def _install(self, model: Any, loop: Loop) -> None:
        self._model = weakref.ref(model)
        self._loop = loop
        self._process = os.getpid()
        self._before = signal.signal(signal.SIGINT, self._handle)

    def _uninstall(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        model = self._model()
        if model is None or not self._runs(frame):
            self._uninstall()
            self._before(number, frame)
        elif self.requested:
            self._uninstall()
            signal.default_int_handler(number, frame)
        else:
            self.requested = True
            model.stop_training = True
            if os.getpid() == self._process:  # a data loading worker hears the same Ctrl-C
                _log.warning("Ctrl-C: training ends after this batch; press again to stop at once.")

    def _runs(self, frame: FrameType | None) -> bool:
        return self._loop is not None and self._loop.runs(frame)


def watch(model: Any, callback_list: Any, user: Any) -> CtrlC:
    """Take over SIGINT until `release`; the callbacks of one loop share what is returned.

    Outside the main thread, or where somebody else handles SIGINT already, the CtrlC that is
    returned never hears of it.

    Args:
        model: The model, whose `stop_training` the loop looks at.
        callback_list: The `CallbackList` that `user` is in, or None.
        user: The callback, in its `on_train_begin`.
    """
    ctrl_c = CtrlC()
    if threading.current_thread() is not threading.main_thread():
        return ctrl_c
    frame = sys._getframe(1)
    loop = Loop(frame, callback_list)
    current = _in_charge()
    while current is not None and (id(user) in current._users or not current._runs(frame)):
        current._uninstall()  # left over from a loop that ended by an exception
        current = _in_charge()
    if current is not None and current._loop is not None and current._loop.same_as(loop):
        ctrl_c = current
    elif current is not None or signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        ctrl_c._install(model, loop)
    ctrl_c._users.add(id(user))
    return ctrl_c


def _in_charge() -> CtrlC | None:
    owner = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return owner if isinstance(owner, CtrlC) else None
