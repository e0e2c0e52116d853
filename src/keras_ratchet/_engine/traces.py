"""Has an object changed that cannot be copied?

Loggers and tuners hold objects of their libraries for as long as they live; these count as changed
only when others take their place. What a class of the user's own holds counts, too, and so does
what is in a container.
"""

from __future__ import annotations

import sys
from typing import Any

_LIBRARIES = ("site-packages", "dist-packages")


def trace_of(value: Any) -> Any:
    """Return something that compares equal as long as an object has not changed."""
    return id(value), _content(value)


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
