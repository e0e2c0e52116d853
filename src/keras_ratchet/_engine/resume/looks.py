"""What can be seen of objects that cannot be kept: are they as they were?"""

from __future__ import annotations

import inspect
import operator
import types
import weakref
from typing import Any

import numpy as np

from keras_ratchet._engine.resume.callback_states import fingerprint
from keras_ratchet._engine.resume.data_reach import MISSING

_NO_STATE = (
    *("threading", "_thread", "queue", "concurrent", "multiprocessing", "subprocess", "asyncio"),
    *("logging", "_io", "io", "socket", "selectors", "weakref", "contextlib", "keras"),
)


def look(value: Any) -> Any:
    """Return what can be read of an object at little cost: where an iterator stands, an index."""
    if isinstance(value, types.GeneratorType):  # once begun, nobody can tell where it is
        over_or_new = (inspect.GEN_CLOSED, inspect.GEN_CREATED)
        state = inspect.getgeneratorstate(value)
        return state if state in over_or_new else object()
    found: list[Any] = [operator.length_hint(value, -1) if hasattr(value, "__iter__") else -1]
    if hasattr(value, "index") and not callable(value.index):  # a table's
        found.append(fingerprint(np.asarray(value.index))[0] or list(value.index))
    return found


def sight(value: Any) -> tuple[Any, Any]:
    """Return a reference to a value, weak where possible, and what can be read of it."""
    try:
        return weakref.ref(value), look(value)
    except TypeError:
        return (lambda: value), look(value)


def is_as_seen(sight: tuple[Any, Any] | None, value: Any) -> bool:
    return sight is not None and sight[0]() is value and sight[1] == look(value)


def has_no_state(value: Any) -> bool:
    """Say whether a value is a lock, a file, a thread, a function: not what data is made of."""
    if value is MISSING or isinstance(value, types.ModuleType | types.FunctionType | type):
        return True
    if type(value).__name__.endswith("DataLoaderIter"):
        return True
    return type(value).__module__.partition(".")[0] in _NO_STATE
