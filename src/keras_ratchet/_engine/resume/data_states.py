"""The state of the data from epoch to epoch, wherever in it that is.

Saved is what has changed since the run started: plain data, random generators, the seeds and other
small variables of layers, tensors, and how lists and attributes refer to the objects that were
there at the start. A warning names what cannot be saved and has changed in the first epoch, and
what has become too large for every snapshot, such as a cache of images, when it is left out.
"""

from __future__ import annotations

import copy
import itertools
import operator
import pathlib
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from keras_ratchet import _backends
from keras_ratchet._engine.resume.data_reach import MISSING, Place, Reach, keeps_itself
from keras_ratchet._engine.resume.state_codec import (
    RANDOM,
    fingerprint,
    owned,
    random_state,
    set_random_state,
)
from keras_ratchet._engine.resume.traces import has_no_state, is_as_seen, look, sight
from keras_ratchet._warn import warn
from keras_ratchet.types import Stateful

_TAG = "keras_ratchet"
_SMALL_BYTES = 1 << 20
_MOST_BYTES = 64 << 20  # that every snapshot may hold of the data, all together
_TOO_LARGE = object()
_CONSTANTS = frozenset({str, int, float, bool, bytes, type(None), type(pathlib.Path())})


class DataStates:
    """The state of everything that is reachable from sources of data.

    Args:
        roots: The sources, by a name for people.
        spare: Variables that are saved elsewhere.
    """

    def __init__(self, roots: Mapping[str, Any], spare: list[Any]) -> None:
        self._reach = Reach(roots)
        self._codec = _Codec(self._reach.objects, spare)
        self._begun: dict[str, _Begun] = {}
        self._places: dict[str, Place] = {}
        for place in self._reach.places:
            name = place.name
            while name in self._places:
                name += "'"
            self._places[name] = place
            self._begun[name] = _Begun(self._codec, place.get())
        self._watched: dict[str, Any] = {}
        self._opaque: list[tuple[str, Any, Any]] = []
        self._told: set[str] = set()

    def capture(self) -> dict[str, Any]:
        """Return what has changed since the run started, by place; warn of what is too large.

        What random numbers are drawn from is always in it: before the run started, Keras drew a
        batch to learn shapes, and a pipeline that reads ahead may have drawn more, each time a
        different number of rows.
        """
        kept = {}
        for name, place in self._all().items():
            if self._stands(name, place):
                continue
            flat = self._flat(name, place)
            if flat is MISSING:
                continue
            if _draws(place.get()) or not self._is_as_begun(name, flat):
                kept[name] = flat
        self._leave_out(kept)
        return {name: owned(flat) for name, flat in kept.items()}

    def _leave_out(self, kept: dict[str, Any]) -> None:
        """Remove the largest until the rest fits into every snapshot, and warn of each once.

        What an object returns as its state_dict() stays.
        """
        sizes = {name: 0 if _is_in_place(flat) else _bytes_in(flat) for name, flat in kept.items()}
        left_out = [name for name, flat in kept.items() if flat is _TOO_LARGE]
        rest = sum(sizes.values())
        for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if rest > _MOST_BYTES:
                left_out.append(name)
                rest -= sizes[name]
        for name in set(left_out):
            del kept[name]
        if untold := [name for name in left_out if name not in self._told]:
            self._told.update(untold)
            warn(
                f"Resume may not be exact: training has changed {', '.join(untold)}, too large "
                "for every snapshot, so it is not saved. A cache that is filled again loses "
                "nothing. Otherwise, give the data set state_dict() and load_state_dict()."
            )

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore states; what is in none of them gets the value that it had at the start."""
        places = self._all()
        for name, begun in self._begun.items():
            if name not in state and begun.flat is not MISSING:
                if self._stands(name, places[name]):
                    continue
                flat = self._flat(name, places[name])
                if flat is not MISSING and not self._is_as_begun(name, flat):
                    self._codec.put(places[name], begun.flat)
        for name, flat in state.items():
            if name in places:
                self._codec.put(places[name], flat)
            elif (place := self._attribute(name)) is not None:
                self._codec.put(place, flat)

    def watch(self) -> None:
        """Record what can be seen of values that cannot be saved, before an epoch."""
        self._watched = {
            name: sight(place.get())
            for name, place in self._all().items()
            if not self._stands(name, place) and self._flat(name, place) is MISSING
        }
        self._opaque = [(name, value, look(value)) for name, value in self._reach.opaque]

    def lost(self) -> dict[str, bool]:
        """Return the names of what cannot be saved and has changed since `watch`: is it a table?"""
        replaced = [
            (name, place.get())
            for name, place in self._all().items()
            if not self._stands(name, place)
            and self._flat(name, place) is MISSING
            and not is_as_seen(self._watched.get(name), place.get())
            and not has_no_state(place.get())
        ]
        changed = [
            (name, value)
            for name, value, seen in self._opaque
            if seen != look(value) and not has_no_state(value)
        ]
        return {name: hasattr(value, "iloc") for name, value in [*replaced, *changed]}

    def _all(self) -> dict[str, Place]:
        return {**self._places, **{place.name: place for place in self._reach.new()}}

    def _attribute(self, name: str) -> Place | None:
        """Return the place of an attribute that is set only during training."""
        for above, holder in self._reach.holders:
            if name.startswith(f"{above}.") and name[len(above) + 1 :].isidentifier():
                return Place(name, holder, name[len(above) + 1 :])
        return None

    def _flat(self, name: str, place: Place) -> Any:
        """Return plain data, MISSING if there is none, or _TOO_LARGE at little cost."""
        value = place.get()
        begun = self._begun[name].bytes_in if name in self._begun else 0
        try:
            size_bytes = self._codec.bytes_in(value)
            if size_bytes > _MOST_BYTES and size_bytes != begun:
                return _TOO_LARGE
            return self._codec.flat(value)
        except (TypeError, ValueError, RecursionError):
            return MISSING

    def _stands(self, name: str, place: Place) -> bool:
        """Return whether a container of constants has the very objects that it started with."""
        return name in self._begun and self._begun[name].holds(place.get())

    def _is_as_begun(self, name: str, flat: Any) -> bool:
        return name in self._begun and self._begun[name].digest == fingerprint(flat)[0]


class _Begun:
    """The value of a place when the run started: a digest, and a copy if that costs little."""

    def __init__(self, codec: _Codec, value: Any) -> None:
        self.digest: str | None = None
        self.flat: Any = MISSING
        self.bytes_in = 0
        self._same = copy.copy(value) if _is_of_constants(value) else None
        try:
            self.bytes_in = codec.bytes_in(value)
            flat = codec.flat(value)
        except (TypeError, ValueError, RecursionError):
            return
        self.digest, size_bytes = fingerprint(flat)
        if size_bytes <= _SMALL_BYTES:
            self.flat = owned(flat)

    def holds(self, value: Any) -> bool:
        """Return whether a container of constants has the same objects; False does not tell."""
        same = self._same
        if same is None or type(value) is not type(same) or len(value) != len(same):
            return False
        if isinstance(value, dict) and not all(map(operator.is_, value.values(), same.values())):
            return False
        return all(map(operator.is_, value, same))


class _Codec:
    """Values as plain data, in which objects that were there at the start are numbers.

    Args:
        objects: Those objects.
        spare: Variables that are saved elsewhere.
    """

    def __init__(self, objects: list[Any], spare: list[Any]) -> None:
        self._objects = objects
        self._numbers = {id(value): i for i, value in enumerate(objects)}
        self._spare = {id(variable) for variable in spare}

    def flat(self, value: Any) -> Any:
        """Return plain data.

        Raises:
            TypeError: If the value, or one in it, cannot be saved.
        """
        if value is MISSING:
            raise TypeError("nothing is there")
        if isinstance(value, np.memmap):
            return None
        if keeps_itself(value):
            return {_TAG: "in place", "value": self._inner(value)}
        if isinstance(value, Stateful) and id(value) in self._numbers:
            return {_TAG: "state", "value": dict(value.state_dict())}
        if id(value) in self._numbers:
            return {_TAG: "object", "value": self._numbers[id(value)]}
        if keras.ops.is_tensor(value) or _is_torch(value):
            return _tensor(value)
        if _is_of_constants(value):
            return value
        if type(value) in (list, tuple, deque):
            return self._sequence(value)
        if type(value) is dict:
            return {key: self.flat(inner) for key, inner in value.items()}
        if not fingerprint(value)[0]:
            raise TypeError(f"a {type(value).__name__} cannot be saved")
        return value

    def bytes_in(self, value: Any) -> int:
        """Return about how much memory `flat` would need, without making it."""
        return 0 if isinstance(value, np.memmap) else _bytes_in(value, self._numbers)

    def _sequence(self, values: Any) -> Any:
        if values and isinstance(values[0], int | float | str) and fingerprint(values)[0]:
            return values
        numbers = [self._numbers.get(id(inner), -1) for inner in values]
        if numbers and min(numbers) >= 0:
            return {_TAG: type(values).__name__, "value": np.array(numbers)}
        if fingerprint(values)[0]:
            return values
        flat = [self.flat(inner) for inner in values]
        return deque(flat, values.maxlen) if isinstance(values, deque) else type(values)(flat)

    def _inner(self, value: Any) -> Any:
        if isinstance(value, RANDOM):
            return random_state(value)
        if (torch := _backends.torch_loading()) and torch.is_generator(value):
            return torch.generator_state(value)
        return [np.array(_read(v)) for v in self._variables(value)]

    def _variables(self, value: Any) -> list[Any]:
        found = [value]
        if isinstance(value, keras.layers.Layer):
            found = list(value.variables)
        elif isinstance(value, keras.random.SeedGenerator):
            found = [value.state]
        small = [v for v in found if _size_bytes(v) <= _SMALL_BYTES]
        return [v for v in small if id(v) not in self._spare]

    def put(self, place: Place, flat: Any) -> None:
        """Store in a place the value of what `flat` returned."""
        if isinstance(flat, dict) and flat.get(_TAG) == "in place":
            self._put_inner(place.get(), flat["value"])
        elif isinstance(flat, dict) and flat.get(_TAG) == "state":
            place.get().load_state_dict(owned(flat["value"]))
        else:
            place.put(self.value(flat))

    def _put_inner(self, present: Any, inner: Any) -> None:
        if isinstance(present, RANDOM):
            set_random_state(present, *inner)
        elif (torch := _backends.torch_loading()) and torch.is_generator(present):
            torch.set_generator(present, np.array(inner))
        else:
            for variable, value in zip(self._variables(present), inner, strict=False):
                _write(variable, value)

    def value(self, flat: Any) -> Any:
        """Return what `flat` was given."""
        if isinstance(flat, dict):
            kind = flat.get(_TAG)
            if kind is None:
                return {key: self.value(inner) for key, inner in flat.items()}
            if kind == "object":
                return self._objects[flat["value"]]
            if kind == "tensor":
                return _tensor_of(flat)
            makers: dict[str, Any] = {"list": list, "tuple": tuple, "deque": deque}
            return makers[kind](self._objects[i] for i in flat["value"])
        if type(flat) in (list, tuple):
            return type(flat)(self.value(inner) for inner in flat)
        if isinstance(flat, deque):
            return deque((self.value(inner) for inner in flat), flat.maxlen)
        return owned(flat)


def _is_of_constants(value: Any) -> bool:
    """Return whether a container holds constants only, or tuples of them: paths, labels, rows."""
    if type(value) not in (list, tuple, deque, dict):
        return False
    if isinstance(value, dict) and not _CONSTANTS.issuperset(map(type, value)):
        return False
    kinds = set(map(type, value.values() if isinstance(value, dict) else value))
    if tuple in kinds:
        items = value.values() if isinstance(value, dict) else value
        rows = (item for item in items if type(item) is tuple)
        kinds = (kinds - {tuple}) | set(map(type, itertools.chain.from_iterable(rows)))
    return kinds <= _CONSTANTS


def _bytes_in(value: Any, known: Collection[int] = ()) -> int:
    """Return about how much memory data takes; of objects that are known, their numbers' only."""
    if value is None or isinstance(value, bool | int | float) or id(value) in known:
        return 8
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(_bytes_in(k) + _bytes_in(inner, known) for k, inner in value.items())
    if isinstance(value, list | tuple | deque | set | frozenset):
        return sum(_bytes_in(inner, known) for inner in value)
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if keras.ops.is_tensor(value) or _is_torch(value):
        return int(getattr(value, "nbytes", 0)) or _size_bytes(value)
    return 0


def _draws(value: Any) -> bool:
    """Return whether random numbers are drawn from a value; layers are not looked into."""
    if isinstance(value, (*RANDOM, keras.random.SeedGenerator)):
        return True
    torch = _backends.torch_loading()
    if torch is not None and torch.is_generator(value):
        return True
    return _is_tensorflow(value) and bool(value.dtype.is_integer) and not value.trainable


def _is_in_place(flat: Any) -> bool:
    return isinstance(flat, dict) and flat.get(_TAG) in ("in place", "state")


def _is_torch(value: Any) -> bool:
    torch = _backends.torch_loading()
    return torch is not None and bool(torch.is_tensor(value))


def _tensor(value: Any) -> dict[str, Any]:
    array = _backends.torch_plain(value)[1] if _is_torch(value) else np.asarray(value)
    return {_TAG: "tensor", "torch": _is_torch(value), "value": array}


def _tensor_of(flat: Mapping[str, Any]) -> Any:
    if flat["torch"]:
        return _backends.torch_loading().tensor(flat["value"])
    return keras.ops.convert_to_tensor(flat["value"])


def _size_bytes(variable: Any) -> int:
    return 8 * int(np.prod(tuple(variable.shape), dtype=np.int64))


def _is_tensorflow(variable: Any) -> bool:
    tensorflow = _backends.tensorflow_loading()
    return tensorflow is not None and bool(tensorflow.is_variable(variable))


def _read(variable: Any) -> Any:
    if _is_tensorflow(variable):
        return _backends.tensorflow_loading().read(variable)
    return keras.ops.convert_to_numpy(variable)


def _write(variable: Any, value: Any) -> None:
    if _is_tensorflow(variable):
        _backends.tensorflow_loading().write(variable, np.array(value))
    else:
        variable.assign(np.array(value))
