"""Containers that several places share: they are filled in place, so that they stay shared.

A list that a callback and the script have, or two callbacks, is one object before and after a
resume, if it was the same object all the time from the start of the run until it was saved.
"""

from __future__ import annotations

import weakref
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import Any

import numpy as np

_HOLDERS = (list, tuple, deque, dict)
_FILLED = (list, deque, dict, set, bytearray, array, np.ndarray)
_DEPTH = 4
_MANY = 64  # elements of a container that are looked into
Path = tuple[Any, ...]


class Containers:
    """The containers in a value when the run starts.

    Args:
        value: The value.
    """

    def __init__(self, value: Any) -> None:
        self._begun = {path: _reference(found) for path, found in _containers(value)}

    def kept(self, value: Any) -> list[Path]:
        """Return the paths at which there still is the same object."""
        return [
            p for p, found in _containers(value) if p in self._begun and self._begun[p]() is found
        ]


def filled(present: Any, value: Any, kept: Collection[Path], path: Path = ()) -> Any:
    """Return `value`, made of the present containers where these are to be kept.

    Args:
        present: What is there now.
        value: What is to be there.
        kept: The paths of containers that have to stay the same objects.
        path: Where this is.
    """
    if not kept or type(value) not in (*_HOLDERS, *_FILLED):
        return value
    same = type(present) is type(value)
    if isinstance(value, dict):
        now = present if same else {}
        value = {k: filled(now.get(k), v, kept, (*path, k)) for k, v in value.items()}
    elif isinstance(value, list | tuple | deque):
        there = list(present) if same else []
        there += [None] * (len(value) - len(there))
        items = [
            filled(there[i], v, kept, (*path, i)) if i < _MANY else v for i, v in enumerate(value)
        ]
        value = deque(items, value.maxlen) if isinstance(value, deque) else type(value)(items)
    return _fill(present, value) if same and path in kept and type(value) is not tuple else value


def _fill(present: Any, value: Any) -> Any:
    """Give a container the content of another one, where that is possible."""
    if isinstance(present, np.ndarray):
        if (present.shape, present.dtype) != (value.shape, value.dtype):
            return value
        if not present.flags.writeable:
            return value
        present[...] = value
    elif isinstance(present, dict | set):
        present.clear()
        present.update(value)
    elif isinstance(present, deque):
        if present.maxlen != value.maxlen:
            return value
        present.clear()
        present.extend(value)
    elif getattr(present, "typecode", "") == getattr(value, "typecode", ""):  # of array.array
        present[:] = value
    else:
        return value
    return present


def _containers(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, _FILLED):
        yield path, value
    if isinstance(value, _HOLDERS) and len(path) < _DEPTH:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in islice(items, _MANY):
            if isinstance(inner, (*_HOLDERS, *_FILLED)):
                yield from _containers(inner, (*path, key))


def _reference(found: Any) -> Callable[[], Any]:
    """Return a reference, a weak one where that is possible: to arrays, which may be large."""
    try:
        return weakref.ref(found)
    except TypeError:
        return lambda: found
