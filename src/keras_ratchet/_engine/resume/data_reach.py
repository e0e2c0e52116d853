"""Everything that is reachable from a source of data, as places that hold values.

Followed are attributes of objects that are not a library's own, lists, tuples, deques and dicts,
the functions of `tf.data` pipelines, what functions have closed over, and the random generators
and layers among the global names that they use. Cycles, and how much of it, are bounded.
"""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_ratchet import _backends
from keras_ratchet._engine.resume.state_codec import RANDOM
from keras_ratchet.types import Stateful

MISSING = object()
_DEPTH = 12
_MOST = 2000  # objects whose attributes are looked at
_MANY = 64  # elements of a container that are looked into; all of them are known by their place
_LIBRARIES = {
    *sys.stdlib_module_names,
    *("numpy", "scipy", "pandas", "polars", "pyarrow", "h5py", "zarr", "PIL", "cv2", "sklearn"),
    *("keras", "tensorflow", "torch", "jax", "jaxlib", "grain", "keras_ratchet"),
}
_OPEN = ("torch.utils.data", "keras.src.legacy.preprocessing", "__main__")
_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value is: an attribute, a cell of a function, or a whole object with a state."""

    name: str
    holder: Any
    key: str

    def get(self) -> Any:
        """Return the value, or MISSING."""
        if isinstance(self.holder, types.CellType):
            try:
                return self.holder.cell_contents
            except ValueError:
                return MISSING
        if not self.key:
            return self.holder
        return vars(self.holder).get(self.key, MISSING)

    def put(self, value: Any) -> None:
        """Store a value here."""
        if isinstance(self.holder, types.CellType):
            self.holder.cell_contents = value
        elif self.key:
            setattr(self.holder, self.key, value)


class Reach:
    """What is reachable from some roots when the run starts.

    Args:
        roots: The sources, by a name for people.

    Attributes:
        places: The places, in an order that is the same whenever the script is run.
        objects: Objects that values may refer to, in such an order.
        holders: Those whose attributes are places, with their names.
        opaque: Those of which nothing can be saved, with their names.
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self.places: list[Place] = []
        self.objects: list[Any] = []
        self.holders: list[tuple[str, Any]] = []
        self.opaque: list[tuple[str, Any]] = []
        self._seen: dict[int, Any] = {}
        for name, root in roots.items():
            self._visit(root, name, 0)

    def new(self) -> Iterator[Place]:
        """Yield the places of attributes that were not there when the run started."""
        known = {(id(place.holder), place.key) for place in self.places}
        for name, holder in self.holders:
            for key in vars(holder):
                if (id(holder), key) not in known and not key.startswith("__"):
                    yield Place(f"{name}.{key}", holder, key)

    def _visit(self, value: Any, name: str, depth: int, has_place: bool = False) -> None:
        if depth > _DEPTH or id(value) in self._seen or _is_simple(value):
            return
        self._seen[id(value)] = value
        if isinstance(value, list | tuple | deque | dict):
            self._visit_all(value, name, depth)
        elif isinstance(value, _FUNCTIONS):
            self._visit_function(value, name, depth)
        elif _is_pipeline(value):
            self._visit_pipeline(value, name, depth)
        elif keeps_itself(value):
            self.objects.append(value)
            if not has_place:
                self.places.append(Place(name, value, ""))
        elif (not depth or _is_open(value)) and hasattr(value, "__dict__"):
            self._visit_object(value, name, depth)
        else:
            self.objects.append(value)
            if depth:  # of the source itself its kind says enough
                self.opaque.append((name, value))

    def _visit_object(self, value: Any, name: str, depth: int) -> None:
        self.objects.append(value)
        if isinstance(value, Stateful) and depth:
            self.places.append(Place(name, value, ""))
            return
        if len(self.holders) >= _MOST:
            return
        if is_open := _is_open(value):
            self.holders.append((name, value))
        for key, inner in list(vars(value).items()):
            if not (key.startswith("__") or _is_model(inner)):
                if is_open:
                    self.places.append(Place(f"{name}.{key}", value, key))
                self._visit(inner, f"{name}.{key}", depth + 1, has_place=is_open)
        kinds = [kind for kind in type(value).__mro__ if _is_open(kind)]
        for method in [method for kind in kinds for method in vars(kind).values()]:
            if isinstance(method, types.FunctionType):
                self._visit_globals(method, depth)

    def _visit_all(self, values: Any, name: str, depth: int) -> None:
        items = values.items() if isinstance(values, dict) else enumerate(values)
        for i, (key, inner) in enumerate(items):
            if i < _MANY:
                self._visit(inner, f"{name}[{key!r}]", depth + 1)
            elif not _is_simple(inner) and id(inner) not in self._seen:
                self._seen[id(inner)] = inner
                self.objects.append(inner)

    def _visit_function(self, function: Any, name: str, depth: int) -> None:
        if isinstance(function, functools.partial):
            for inner in (function.func, *function.args, *function.keywords.values()):
                self._visit(inner, name, depth + 1)
        elif isinstance(function, types.MethodType):
            self._visit(function.__self__, name, depth + 1)
            self._visit(function.__func__, name, depth + 1)
        else:
            names = function.__code__.co_freevars
            for key, cell in zip(names, function.__closure__ or (), strict=True):
                place = Place(key, cell, "cell")
                if place.get() is not MISSING and not _is_model(place.get()):
                    self.places.append(place)
                    self._visit(place.get(), key, depth + 1, has_place=True)
            self._visit_globals(function, depth)

    def _visit_globals(self, function: types.FunctionType, depth: int) -> None:
        for key in function.__code__.co_names:
            value = function.__globals__.get(key)
            if keeps_itself(value) and not _is_model(value):
                self._visit(value, key, depth + 1)

    def _visit_pipeline(self, dataset: Any, name: str, depth: int) -> None:
        tensorflow = _backends.tensorflow_loading()
        for variable in tensorflow.variables(dataset):
            self._visit(variable, f"{name}'s {variable.name}", depth + 1)
        for function in tensorflow.functions(dataset):
            self._visit(function, name, depth + 1)


def keeps_itself(value: Any) -> bool:
    """Return whether a value's state is restored in place: random generators, layers."""
    kinds = (*RANDOM, keras.random.SeedGenerator, keras.layers.Layer, keras.Variable)
    if isinstance(value, kinds):
        return True
    torch, tensorflow = _backends.torch_loading(), _backends.tensorflow_loading()
    if torch is not None and torch.is_generator(value):
        return True
    return tensorflow is not None and bool(tensorflow.is_variable(value))


def _is_pipeline(value: Any) -> bool:
    tensorflow = _backends.tensorflow_loading()
    return tensorflow is not None and bool(tensorflow.is_pipeline(value))


def _is_model(value: Any) -> bool:
    """Return whether a value is the model in training, or another one with an optimizer."""
    return isinstance(value, keras.Model) and getattr(value, "optimizer", None) is not None


def _is_simple(value: Any) -> bool:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | type):
        return True
    return hasattr(value, "shape") and hasattr(value, "dtype") and not keeps_itself(value)


def _is_open(value: Any) -> bool:
    """Return whether an object's attributes, or a class's methods, are the user's own."""
    kind = value if isinstance(value, type) else type(value)
    module = str(kind.__module__)
    if module.startswith(_OPEN) or kind.__name__ == "_GeneratorState":
        return True
    return module.partition(".")[0] not in _LIBRARIES and not isinstance(value, types.ModuleType)
