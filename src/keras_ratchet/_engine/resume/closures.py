"""State that functions and classes keep where nobody looks.

In closures, in globals of the script, in attributes of functions and of classes.
"""

from __future__ import annotations

import dis
import functools
import os
import types
from collections import Counter, deque
from collections.abc import Collection, Iterator
from typing import Any

import keras
import numpy as np
import xxhash

from keras_ratchet._engine.capture.model_state import is_users, is_users_module
from keras_ratchet._engine.resume.held_values import Values, has_values, identities
from keras_ratchet._engine.resume.state_codec import RANDOM, fingerprint

_CODE = (type, types.ModuleType, types.FunctionType)
_GLOBALS = ("LOAD_GLOBAL", "STORE_GLOBAL")
_SHORT = 60  # characters of a value that are shown as they are
_MANY = 256  # items of a container, inner ones included, of which only the number counts
_MOST_CHARACTERS = 1 << 16  # of a text, of which only the number counts: it may be a corpus
_MOST_BYTES = 1 << 20  # of an array, which is not looked at if it has more: it may be data
_MOST_OF_MODELS = 256 << 20
_CONTAINERS = (list, dict, set, tuple, deque)
_PLAIN = (bool, int, float, str, *_CONTAINERS)
_PARTS = (keras.layers.Layer, keras.metrics.Metric, keras.optimizers.Optimizer)
_DEPTH = 3  # of functions that call one another, and of containers with functions in them
_Variable = tuple[tuple[int, str], Any, str]  # which it is, its value, its name for people


class Closures:
    """Tells which variables of functions have changed since it was made.

    Args:
        owners: Callbacks, a model, layers: what has functions as attributes, and methods.
        model: The model in training, whose own variables are saved, if it is known.
    """

    def __init__(self, owners: list[Any], model: Any = None) -> None:
        self._owners, self._model = owners, model
        self._begun = dict(self._look())

    def changed(self) -> dict[str, str]:
        """Return what is another value now, by a name that says where it is."""
        return {name: value for name, value in self._look() if self._begun.get(name) != value}

    def _look(self) -> Iterator[tuple[str, str]]:
        """Yield each variable once; those that have one name, as a factory makes, are numbered."""
        seen, counts = set(), Counter[str]()
        spare: set[Any] | None = None
        for key, value, label in self._variables():
            if key in seen:
                continue
            seen.add(key)
            counts[label] += 1
            number = f" (number {counts[label]})" if counts[label] > 1 else ""
            if spare is None and has_values(value):
                spare = identities(self._model)
            yield from _held(value, f"{label}{number}", spare or ())

    def _variables(self) -> Iterator[_Variable]:
        functions: set[int] = set()
        for owner in self._owners:
            name = type(owner).__name__
            kinds = [k for k in type(owner).__mro__ if is_users_class(k)] if is_users(owner) else []
            for kind in kinds:
                yield from _of_class(kind)
            members = [item for kind in kinds for item in vars(kind).items()]
            for attribute, value in [*vars(owner).items(), *members]:
                for function in _functions(value):
                    yield from _inside(function, f"{attribute} of {name}", functions)


def _functions(value: Any, depth: int = 0) -> Iterator[Any]:
    """Yield a function, or those in a container."""
    if isinstance(value, list | tuple | dict) and depth < _DEPTH and len(value) <= _MANY:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _functions(inner, depth + 1)
    elif callable(value) or isinstance(value, property):
        yield value


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


def _inside(value: Any, what: str, seen: set[int], depth: int = 0) -> Iterator[_Variable]:
    """Yield the variables of a function of the user's, and of those that it calls."""
    while isinstance(value, functools.partial):
        value = value.func
    value = value.fget if isinstance(value, property) else value
    function = getattr(value, "__func__", value)
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, types.FunctionType) or not _is_users(function):
        return
    if id(function) in seen or depth > _DEPTH:
        return
    seen.add(id(function))
    code = function.__code__
    place = f"{code.co_name} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"
    for name, held in vars(function).items():
        yield (id(function), name), held, f"{name}, an attribute of {place}"
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            held = cell.cell_contents
        except ValueError:  # empty
            continue
        yield (id(cell), name), held, f"{name}, in the closure of {place}, {what}"
        yield from _inside(held, what, seen, depth + 1)
    module = function.__globals__
    for name in _globals_of(code):
        held = module.get(name)
        yield (id(module), name), held, f"{name}, a global that {place} uses"
        yield from _of_class(held) if is_users_class(held) else ()
        yield from _inside(held, what, seen, depth + 1)


def _of_class(kind: Any) -> Iterator[_Variable]:
    """Yield the attributes of a class."""
    for name, held in list(vars(kind).items()):
        if not name.startswith("__"):
            yield (id(kind), name), held, f"{name}, an attribute of the class {kind.__name__}"


def is_users_class(kind: Any) -> bool:
    """Return whether this is a class of the user's own."""
    return isinstance(kind, type) and is_users_module(kind.__module__)


@functools.cache
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    """Return the global names that a function, or one that is defined in it, reads or sets."""
    steps = [step.argval for step in dis.get_instructions(code) if step.opname in _GLOBALS]
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return tuple(dict.fromkeys([*steps, *(name for c in inner for name in _globals_of(c))]))


def _held(value: Any, label: str, spare: Collection[Any]) -> Iterator[tuple[str, str]]:
    """Yield a plain value, that of a generator or variable, or an object's plain attributes."""
    if isinstance(value, _PLAIN):
        yield label, _shown(value)
    elif isinstance(value, (*RANDOM, np.ndarray)):
        if getattr(value, "nbytes", 0) <= _MOST_BYTES:
            yield label, fingerprint(value)[0]
    elif isinstance(value, (*_CODE, keras.callbacks.Callback)):
        return
    elif has_values(value):
        values = Values(value, spare, with_numbers=not isinstance(value, _PARTS))
        if values and values.size_bytes <= _MOST_OF_MODELS:
            yield label, values.digest()
    elif is_users(value):
        for name, inner in list(vars(value).items()):
            if isinstance(inner, _PLAIN):
                yield f"{name} of {label}", _shown(inner)


def _is_users(function: types.FunctionType) -> bool:
    file = function.__code__.co_filename
    return not any(x in file for x in ("site-packages", "dist-packages", "keras_ratchet"))
