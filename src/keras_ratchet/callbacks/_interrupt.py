"""Ctrl-C, without losing the best weights.

`fit` has no hook for an exception, and on JAX it puts the training state back into the model
after one. So the first Ctrl-C does not raise where it falls: it sets `model.stop_training`,
which `fit` looks at after each batch, and the next hook of ours does its work and raises the
KeyboardInterrupt. The second Ctrl-C is immediate.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import weakref
from types import CodeType, FrameType
from typing import Any

_log = logging.getLogger("keras_ratchet")


class CtrlC:
    """Turns the first Ctrl-C of a training loop into a request to stop.

    Does nothing outside the main thread, or where somebody else handles SIGINT already.
    """

    def __init__(self) -> None:
        self.requested = False
        self._model: Any = None
        self._loop: tuple[CodeType, Any] | None = None

    def arm(self, model: Any, callback_list: Any) -> None:
        """Take over SIGINT until `disarm`."""
        self.requested = False
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGINT)
        ours = isinstance(getattr(handler, "__self__", None), CtrlC)
        if handler is not signal.default_int_handler and not ours:
            return
        self._model = model
        self._loop = (_loop_code(), weakref.ref(callback_list) if callback_list else None)
        signal.signal(signal.SIGINT, self._handle)

    def disarm(self) -> None:
        """Give SIGINT back to Python."""
        self._model = None
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self._in_loop(frame):
            self.disarm()
            signal.default_int_handler(number, frame)
        self.requested = True
        self._model.stop_training = True
        _log.warning("Ctrl-C: training ends after this batch; press again to stop at once.")

    def _in_loop(self, frame: FrameType | None) -> bool:
        """Say whether the loop that armed us still runs (it may have ended by an exception)."""
        if self._loop is None:
            return False
        code, reference = self._loop
        callback_list = reference() if reference else None
        while frame is not None:
            if frame.f_code is code:
                return callback_list is None or _holds(frame, callback_list)
            frame = frame.f_back
        return False


def _holds(frame: FrameType, callback_list: Any) -> bool:
    return any(value is callback_list for value in frame.f_locals.values())


def _loop_code() -> CodeType:
    """Return the code of the loop that called `on_train_begin`: the first that is no callback."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_back is not None:
        if not hasattr(frame.f_locals.get("self"), "on_train_batch_end"):
            break
        frame = frame.f_back
    assert frame is not None
    return frame.f_code
