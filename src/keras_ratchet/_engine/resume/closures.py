"""State that functions keep where nobody looks: in their closures, and in globals of the script."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Iterator
from typing import Any

import keras
import xxhash

from keras_ratchet._engine.capture.model_state import is_users

_CODE = (type, types.ModuleType, types.FunctionType)
_SHORT = 60  # characters of a value that are shown as they are
_MANY = 256  # items of a container, of which only the number counts
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
        for owner in self._owners:
            kind = type(owner).__name__
            for name, value in list(vars(owner).items()):
                yield from _inside(value, f"{name} of {kind}")
            if is_users(owner):
                for name, value in vars(type(owner)).items():
                    yield from _inside(value, f"{name} of {kind}")


def _shown(value: Any) -> str:
    """Return a plain value, of a long one a digest; of objects only how many they are."""
    if not isinstance(value, _CONTAINERS):
        return _cut(repr(value))
    items = [*value, *value.values()] if isinstance(value, dict) else value
    if len(value) > _MANY or not all(item is None or isinstance(item, _PLAIN) for item in items):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return f"a {type(value).__name__} of {len(value)}" if " at 0x" in text else _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else str(xxhash.xxh3_64_hexdigest(text.encode()))


def _inside(value: Any, what: str) -> Iterator[tuple[str, str]]:
    """Yield the variables of a function of the user's."""
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
        yield from _held(held, f"{name}, in the closure of {place}, {what}")
    for name in code.co_names:
        if name in function.__globals__:
            yield from _held(function.__globals__[name], f"{name}, a global that {place} uses")


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
