"""State that functions keep where nobody looks: in their closures, and in globals of the script."""

from __future__ import annotations

import dis
import functools
import os
import types
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import xxhash

from keras_ratchet._engine.capture.model_state import is_users

_CODE = (type, types.ModuleType, types.FunctionType)
_GLOBALS = ("LOAD_GLOBAL", "STORE_GLOBAL")
_SHORT = 60  # characters of a value that are shown as they are
_MANY = 256  # items of a container, inner ones included, of which only the number counts
_MOST_CHARACTERS = 1 << 16  # of a text, of which only the number counts: it may be a corpus
_CONTAINERS = (list, dict, set, tuple)
_PLAIN = (bool, int, float, str, *_CONTAINERS)
_WATCHED_ELSEWHERE = (keras.callbacks.Callback, keras.layers.Layer, keras.optimizers.Optimizer)


class Closures:
    """Tells which variables of functions have changed since it was made.

    Args:
        owners: Callbacks, a model, layers: what has functions as attributes, and methods.
    """

    def __init__(self, owners: list[Any]) -> None:
        self._owners = owners
        self._begun = dict(self._look())

    def changed(self) -> dict[str, str]:
        """Return what is another value now, by a name that says where it is."""
        return {name: value for name, value in self._look() if self._begun.get(name) != value}

    def _look(self) -> Iterator[tuple[str, str]]:
        """Yield each variable once; those that have one name, as a factory makes, are numbered."""
        seen, counts = set(), Counter[str]()
        for attribute, what in self._attributes():
            for key, value, label in _inside(attribute, what):
                if key not in seen:
                    seen.add(key)
                    counts[label] += 1
                    number = f" (number {counts[label]})" if counts[label] > 1 else ""
                    yield from _held(value, f"{label}{number}")

    def _attributes(self) -> Iterator[tuple[Any, str]]:
        for owner in self._owners:
            classes = vars(type(owner)) if is_users(owner) else {}
            for name, value in [*vars(owner).items(), *classes.items()]:
                yield value, f"{name} of {type(owner).__name__}"


def _shown(value: Any) -> str:
    """Return a plain value, of a long one a digest; of objects only how many they are."""
    if not _is_small(value):
        return f"a {type(value).__name__} of {len(value)}"
    try:
        return _cut(repr(value))
    except Exception:  # of a class of the user's, or an int of thousands of digits
        return f"a {type(value).__name__}"


def _is_small(value: Any) -> bool:
    """Return whether there is little in a value, at all depths, and all of it is plain."""
    waiting, count = [value], 0
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, _CONTAINERS):
            count += len(inner)
            if count > _MANY:
                return False
            waiting += [*inner, *inner.values()] if isinstance(inner, dict) else inner
        elif isinstance(inner, str):
            if len(inner) > _MOST_CHARACTERS:
                return False
        elif inner is not None and not isinstance(inner, _PLAIN):
            return False
    return True


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else str(xxhash.xxh3_64_hexdigest(text.encode()))


def _inside(value: Any, what: str) -> Iterator[tuple[tuple[int, str], Any, str]]:
    """Yield the variables of a function of the user's: which it is, its value, its name."""
    while isinstance(value, functools.partial):
        value = value.func
    function = getattr(value, "__func__", value)
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, types.FunctionType) or not _is_users(function):
        return
    code = function.__code__
    place = f"{code.co_name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            held = cell.cell_contents
        except ValueError:  # empty
            continue
        yield (id(cell), name), held, f"{name}, in the closure of {place}, {what}"
    module = function.__globals__
    for name in _globals_of(code):
        if name in module:
            yield (id(module), name), module[name], f"{name}, a global that {place} uses"


@functools.cache
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    """Return the global names that a function reads or sets."""
    steps = dis.get_instructions(code)
    return tuple(dict.fromkeys(step.argval for step in steps if step.opname in _GLOBALS))


def _held(value: Any, label: str) -> Iterator[tuple[str, str]]:
    """Yield a plain value, or the plain attributes of an object of the user's."""
    if isinstance(value, _PLAIN):
        yield label, _shown(value)
    elif is_users(value) and not isinstance(value, (*_CODE, *_WATCHED_ELSEWHERE)):
        for name, inner in list(vars(value).items()):
            if isinstance(inner, _PLAIN):
                yield f"{name} of {label}", _shown(inner)


def _is_users(function: types.FunctionType) -> bool:
    file = function.__code__.co_filename
    return not any(x in file for x in ("site-packages", "dist-packages", "keras_ratchet"))
