"""Whether an object that cannot be saved has changed.

Loggers and tuners hold objects of their libraries for as long as they live; these count as changed
only when others take their place. What a class of the user's own holds counts, too, and so does
what is in a container. Of an iterator its position counts, of an object with `__slots__` what is
in these.
"""

from __future__ import annotations

import inspect
import operator
import sys
import types
import weakref
from collections import deque
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

import numpy as np

from keras_ratchet._engine.resume.data_reach import MISSING
from keras_ratchet._engine.resume.state_codec import fingerprint

_CONTAINERS = (list, tuple, deque, dict)
_KNOWN = "looked at elsewhere"
_MANY = 64  # elements of a container that are looked into
_LIBRARIES = ("site-packages", "dist-packages")
_NO_STATE = (
    *("threading", "_thread", "queue", "concurrent", "multiprocessing", "subprocess", "asyncio"),
    *("logging", "_io", "io", "socket", "selectors", "weakref", "contextlib", "keras"),
)


def trace_of(value: Any, known: Collection[int] = ()) -> Any:
    """Return something that compares equal as long as an object has not changed.

    Args:
        value: The object.
        known: The ids of objects that are looked at elsewhere, whatever is in them.
    """
    if id(value) in known:
        return _KNOWN
    return id(value), _content(value, known), inside(value)


def inside(value: Any) -> Any:
    """Return what can be seen of iterators and `__slots__`, also of those in a container."""
    if isinstance(value, Iterator):
        return _stand(value)
    if isinstance(value, list | tuple | deque | dict):
        items = value.values() if isinstance(value, dict) else value
        return [inside(item) for item in islice(items, _MANY)]
    kind = type(value)
    if isinstance(value, type) or _is_of_a_library(kind):
        return None
    slots = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = [n for s in slots for n in ((s,) if isinstance(s, str) else s)]
    return repr([_shown(getattr(value, n, None)) for n in names if not n.startswith("__")])


def _stand(iterator: Any) -> Any:
    """Return the position of an iterator, as far as Python tells."""
    if isinstance(iterator, types.GeneratorType):
        frame = iterator.gi_frame
        if frame is None:
            return "over"
        held = frame.f_locals.values()
        stands = [_stand(v) if isinstance(v, Iterator) else _shown(v) for v in held]
        return frame.f_lasti, repr(stands)
    if type(iterator).__module__ == "itertools":
        return repr(iterator)  # count(3)
    return operator.length_hint(iterator, -1) if type(iterator).__module__ == "builtins" else None


def _content(value: Any, known: Collection[int]) -> str:
    if type(value).__module__ in ("builtins", "collections"):
        return repr(_shown(value, known) if known and isinstance(value, _CONTAINERS) else value)
    if _is_of_a_library(type(value)) or not hasattr(value, "__dict__"):
        return ""
    return repr({name: _shown(held, known) for name, held in vars(value).items()})


def _shown(held: Any, known: Collection[int] = ()) -> Any:
    """Return a plain value, or which object it is."""
    if id(held) in known:
        return _KNOWN
    if known and isinstance(held, list | tuple | deque):
        return [_shown(inner, known) for inner in held]
    if known and isinstance(held, dict):
        return {repr(key): _shown(inner, known) for key, inner in held.items()}
    plain = held is None or isinstance(held, bool | int | float | str | list | tuple | dict | set)
    return held if plain else id(held)


def _is_of_a_library(kind: type) -> bool:
    name = kind.__module__
    file = str(getattr(sys.modules.get(name), "__file__", "") or "")
    return name.partition(".")[0] in sys.stdlib_module_names or any(x in file for x in _LIBRARIES)


def look(value: Any) -> Any:
    """Return what can be read of an object at little cost: an iterator's position, an index."""
    if isinstance(value, types.GeneratorType):  # once started, its position cannot be read
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
    """Return whether a value is a lock, a file, a thread, a function: not what data is made of."""
    if value is MISSING or isinstance(value, types.ModuleType | types.FunctionType | type):
        return True
    if type(value).__name__.endswith("DataLoaderIter"):
        return True
    return type(value).__module__.partition(".")[0] in _NO_STATE
