"""Which training loop is this, and does it still run?"""

from __future__ import annotations

import weakref
from types import CodeType, FrameType
from typing import Any


class Loop:
    """A training loop, told by its code and by the callback list that it holds, if any.

    Args:
        frame: Where `on_train_begin` was called, or a frame below; the loop is the first frame
            above that is no callback's.
        callback_list: The `CallbackList`, or None in a loop that calls its callbacks by itself.

    Attributes:
        is_keras: Whether it is Keras's own `fit`.
    """

    def __init__(self, frame: FrameType | None, callback_list: Any) -> None:
        while frame is not None and frame.f_back is not None:
            if not hasattr(frame.f_locals.get("self"), "on_train_batch_end"):
                break
            frame = frame.f_back
        assert frame is not None
        self._code: CodeType = frame.f_code
        self.is_keras = str(frame.f_globals.get("__name__")).startswith("keras.")
        self._list = None if callback_list is None else weakref.ref(callback_list)

    def same_as(self, other: Loop) -> bool:
        """Say whether the two are one loop."""
        return self._code is other._code and self._list == other._list

    def runs(self, frame: FrameType | None) -> bool:
        """Say whether the loop is above `frame`: it may have ended by an exception."""
        while frame is not None:
            if frame.f_code is self._code and (self._list is None or _holds(frame, self._list())):
                return True
            frame = frame.f_back
        return False

    def is_above(self, frame: FrameType | None) -> bool:
        """Say whether such a loop, this or another one, is above `frame`, in any thread."""
        while frame is not None and frame.f_code is not self._code:
            frame = frame.f_back
        return frame is not None


def _holds(frame: FrameType, callback_list: Any) -> bool:
    held = frame.f_locals.values()
    return callback_list is not None and any(value is callback_list for value in held)
