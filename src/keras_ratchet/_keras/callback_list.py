"""The `CallbackList` that calls us, and how it dispatches hooks.

| name | checked on |
|---|---|
| `CallbackList._async_train`, `._async_test` | 3.12.0 to nightly |
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from types import FrameType
from typing import Any


def frames_from(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and those that it was called from, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def calling_list() -> Any:
    """Return the `CallbackList` whose `set_model` is calling, or None.

    A `CallbackList` does not pass itself to callbacks, so it is found in its own frame.
    """
    import keras

    for frame in islice(frames_from(sys._getframe(1)), 8):
        if isinstance(frame.f_locals.get("self"), keras.callbacks.CallbackList):
            return frame.f_locals["self"]
    return None


def make_synchronous(callback_list: Any) -> None:
    """Make a list call batch hooks on the training thread.

    `CallbackList` looks for batch hooks only when it gets a Python list: with a bare
    `callbacks=cb` the hooks of torch and jax would run on pool threads.
    """
    callback_list._async_train = False
    callback_list._async_test = False


def without_callbacks(callback_list: Any, callbacks: list[Any]) -> Any:
    """Put `callbacks` in the place of a list's own, on the training thread; return the undo."""
    before = callback_list.callbacks, callback_list._async_train, callback_list._async_test
    callback_list.callbacks = callbacks
    make_synchronous(callback_list)

    def undo() -> None:
        callback_list.callbacks, callback_list._async_train, callback_list._async_test = before

    return undo
