"""Has an object changed that cannot be copied?

Loggers and tuners hold objects of their libraries for as long as they live; these count as changed
only when others take their place. What a class of the user's own holds counts, too, and so does
what is in a container. Of an iterator counts where it stands, of an object with `__slots__` what is
in these.
"""

from __future__ import annotations

import operator
import sys
import types
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

_MANY = 64  # elements of a container that are looked into
_LIBRARIES = ("site-packages", "dist-packages")


def trace_of(value: Any) -> Any:
    """Return something that compares equal as long as an object has not changed."""
    return id(value), _content(value), inside(value)


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
    """Return where an iterator stands, as far as Python tells."""
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


def _content(value: Any) -> str:
    if type(value).__module__ in ("builtins", "collections"):
        return repr(value)
    if _is_of_a_library(type(value)) or not hasattr(value, "__dict__"):
        return ""
    return repr({name: _shown(held) for name, held in vars(value).items()})


def _shown(held: Any) -> Any:
    """Return what is held, or which object it is."""
    plain = held is None or isinstance(held, bool | int | float | str | list | tuple | dict | set)
    return held if plain else id(held)


def _is_of_a_library(kind: type) -> bool:
    name = kind.__module__
    file = str(getattr(sys.modules.get(name), "__file__", "") or "")
    return name.partition(".")[0] in sys.stdlib_module_names or any(x in file for x in _LIBRARIES)
