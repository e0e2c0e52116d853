"""Objects of Keras and torch that have values of their own, in what belongs to a callback.

Metrics, seeds, variables, models beside the one in training, optimizers, generators and modules of
torch: their values are saved by the place where the callback has them, and restored in place. What
the model in training has, too, is saved with it and left out here.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import keras
import numpy as np
import xxhash
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._backends import Foreign
from keras_ratchet._engine.capture import optimizers
from keras_ratchet._engine.capture.model_state import is_users, reach
from keras_ratchet._engine.resume.data_reach import Reach as DataReach
from keras_ratchet._engine.resume.state_codec import NO_DATA, fingerprint, owned
from keras_ratchet._keras import fit
from keras_ratchet._keras.anatomy import listed, own_attributes

_KINDS = (
    *(keras.Variable, keras.random.SeedGenerator, keras.layers.Layer, keras.metrics.Metric),
    keras.optimizers.Optimizer,
)
_SIMPLE = (type(None), bool, int, float, complex, str, bytes, np.ndarray, np.generic)
_CODE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_DEPTH = 4
_MANY = 64  # elements of a container that are looked into
_MOST = 2000  # objects that are looked at for one owner
_SMALL_BYTES = 1 << 20
_MOST_BYTES = 256 << 20  # of one object; what has more is named and not saved
_NUMBERS = (bool, int, float, str, type(None))


class Values:
    """The values of one object, without those that the model in training has.

    Args:
        thing: The object.
        spare: The identities of what is saved elsewhere.
        with_numbers: Whether plain attributes count, of a class of the user's.
    """

    def __init__(
        self, thing: Any, spare: Collection[Any] = (), *, with_numbers: bool = True
    ) -> None:
        self._thing = thing
        self._variables = {
            str(number): variable
            for number, variable in enumerate(_variables(thing))
            if _identity(variable) not in spare
        }
        self._is_torch = _is_torch_optimizer(thing) and _of_torch(thing) is not None
        counts = with_numbers and isinstance(thing, _KINDS) and is_users(thing)
        counts = counts and id(thing) not in spare
        own = own_attributes(thing) if counts else {}
        self._numbers = {n: v for n, v in own.items() if type(v) in _NUMBERS}

    def __bool__(self) -> bool:
        return bool(self._variables or self._is_torch or self._numbers)

    @property
    def layout(self) -> dict[str, list[int]]:
        """What has to be the same for values to be put back."""
        return {name: list(variable.shape) for name, variable in self._variables.items()}

    @property
    def size_bytes(self) -> int:
        """About how large they are."""
        sizes = (np.prod(v.shape, dtype=np.int64) for v in self._variables.values())
        return 4 * int(sum(sizes))

    def digest(self) -> str:
        """Return what differs once a value has changed."""
        hasher = xxhash.xxh3_128(fingerprint([self._numbers, self._torch()])[0].encode())
        for variable in self._variables.values():
            hasher.update(np.ascontiguousarray(_view(variable)).reshape(-1).view(np.uint8).data)
        return str(hasher.hexdigest())

    def _torch(self) -> Any:
        return _of_torch(self._thing) if self._is_torch else None

    def read(self) -> dict[str, Any]:
        """Return copies of the values, as plain data."""
        return {
            "variables": {name: np.array(_view(v)) for name, v in self._variables.items()},
            "numbers": self._numbers,
            "torch": owned(self._torch()),
        }

    def write(self, data: Mapping[str, Any]) -> bool:
        """Put values back; return False, and change nothing, if they are of another shape."""
        saved = data["variables"]
        if {name: list(value.shape) for name, value in saved.items()} != self.layout:
            return False
        try:
            if self._is_torch and data["torch"] is not None:
                self._thing.load_state_dict(_backends.torch_tensors(owned(data["torch"])))
        except ValueError:  # for other parameters
            return False
        for name, variable in self._variables.items():
            _assign(variable, saved[name])
        for name, number in data["numbers"].items():
            setattr(self._thing, name, number)
        return True


class HeldValues:
    """The values that the objects of some owners have, recorded when the run starts.

    Args:
        owners: The attributes that may hold such objects, by a key for each owner.
        model: The model in training, if it is known.
    """

    def __init__(self, owners: Mapping[str, Mapping[str, Any]], model: Any) -> None:
        self._model = model
        self._data = _of_data()
        self._begun = {
            key: {place: _Begun(values) for place, values in self._values(attributes)}
            for key, attributes in owners.items()
        }

    def capture(self, key: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return what has changed and can be saved, by its place."""
        begun = self._begun.get(key, {})
        return {
            place: values.read()
            for place, values in self._values(attributes)
            if values.size_bytes <= _MOST_BYTES
            and not (place in begun and begun[place].digest == values.digest())
        }

    def lost(self, key: str, attributes: Mapping[str, Any]) -> list[str]:
        """Return the places of what has changed and is not saved, or cannot be put back."""
        begun = self._begun.get(key, {})
        return [
            place
            for place, values in self._values(attributes)
            if place not in begun
            or (not begun[place].is_kept(values) and begun[place].digest != values.digest())
        ]

    def load(self, key: str, attributes: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
        """Put values back, those that had not changed too; return the places where that failed."""
        begun, written = self._begun.get(key, {}), set()
        for place, values in self._values(attributes):
            if place in saved:
                written |= {place} if values.write(saved[place]) else set()
            elif place in begun and (copied := begun[place].copied) is not None:
                values.write(copied)
        return [place for place in saved if place not in written]

    def _values(self, attributes: Mapping[str, Any]) -> Iterator[tuple[str, Values]]:
        spare: set[Any] | None = None
        for place, thing in things_in(attributes):
            if isinstance(thing, keras.callbacks.Callback) or id(thing) in self._data:
                continue
            spare = identities(self._model) if spare is None else spare
            if values := Values(thing, spare):
                yield place, values


class _Begun:
    """What the values were when the run started; a copy, too, if that costs little."""

    def __init__(self, values: Values) -> None:
        self.layout, self.digest = values.layout, values.digest()
        self.copied = values.read() if values.size_bytes <= _SMALL_BYTES else None

    def is_kept(self, values: Values) -> bool:
        return values.layout == self.layout and values.size_bytes <= _MOST_BYTES


def things_in(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the objects with values, and callbacks, in attributes, each once, with its place."""
    seen: set[int] = set()
    for name, value in attributes.items():
        yield from _things_in(value, name, seen, 0)


def _things_in(value: Any, place: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEPTH or len(seen) > _MOST or id(value) in seen or _is_no_place(value):
        return
    seen.add(id(value))
    if isinstance(value, keras.callbacks.Callback) or has_values(value):
        yield place, value
        return
    if isinstance(value, list | tuple | deque | dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        named: Iterable[Any] = ((f"{place}[{key!r}]", one) for key, one in islice(items, _MANY))
    elif is_users(value):
        named = [(f"{place}.{name}", inner) for name, inner in vars(value).items()]
    else:
        return
    for inner_place, inner in named:
        yield from _things_in(inner, inner_place, seen, depth + 1)


def _is_no_place(value: Any) -> bool:
    """Return whether a value is none that holds others, or is data, whose state is the data's."""
    if isinstance(value, (*_SIMPLE, *_CODE, keras.utils.PyDataset)):
        return True
    return any(kind.__module__.startswith("torch.utils.data") for kind in type(value).__mro__)


def _of_data() -> dict[int, Any]:
    """Return the objects that the data of `fit` has, by id: they are restored with the data."""
    validation = fit.validation_of_fit()
    sources = {
        "data": fit.data_source(fit.epoch_iterator())[1],
        "validation data": None if validation is None else validation.x,
    }
    return {id(thing): thing for thing in DataReach(sources).objects}


def has_values(thing: Any) -> bool:
    """Return whether an object is one of Keras or of the framework with values of its own."""
    if isinstance(thing, _KINDS) or _is_torch_generator(thing) or _is_torch_optimizer(thing):
        return True
    return _backends.current().state_of(thing) is not None


def identities(model: Any) -> set[Any]:
    """Return what tells the variables and parts of a model, saved with it, from others."""
    if model is None:
        return set()
    owners = map(id, [model, *reach(model).owners.values()])
    return {*owners, *(_identity(variable) for variable in _variables(model))}


def _variables(thing: Any) -> list[Any]:
    """Return the variables of an object, those of the framework too, each once."""
    if isinstance(thing, keras.Variable):
        found = [thing]
    elif isinstance(thing, keras.random.SeedGenerator):
        found = [thing.state]
    elif isinstance(thing, keras.layers.Layer):
        found = [*thing.variables, *(extra.variable for extra in reach(thing).extras)]
        found += listed(thing, "metrics_variables")
        found += [v for _, group in optimizers.grouped_variables(thing) for v in group]
    elif isinstance(thing, keras.metrics.Metric | keras.optimizers.Optimizer):
        inner = getattr(thing, "inner_optimizer", None)
        found = [*thing.variables, *(_variables(inner) if inner is not None else ())]
    elif _is_torch_generator(thing):
        found = [_backends.torch_loading().Stream(thing)]
    else:
        found = list(_backends.current().state_of(thing) or ())
        layers = thing.modules() if found and hasattr(thing, "modules") else ()
        found += [v for m in layers if isinstance(m, keras.layers.Layer) for v in _variables(m)]
    is_split = _backends.current().is_split
    whole = [v for v in found if isinstance(v, Foreign) or not is_split(v)]
    return list({_identity(variable): variable for variable in whole}.values())


def _is_torch_generator(thing: Any) -> bool:
    torch = _backends.torch_loading()
    return torch is not None and bool(torch.is_generator(thing))


def _is_torch_optimizer(thing: Any) -> bool:
    torch = _backends.torch_loading()
    return torch is not None and bool(torch.is_optimizer(thing))


def _of_torch(thing: Any) -> Any:
    """Return the state of an optimizer of torch, with arrays for tensors; None if it has others."""
    try:
        state = _backends.torch_plain(thing.state_dict())
    except NO_DATA:  # NumPy lacks its tensors' dtype
        return None
    return state if fingerprint(state)[0] else None


def _identity(variable: Any) -> Any:
    return variable.identity if isinstance(variable, Foreign) else id(variable)


def _is_stream(variable: Any) -> bool:
    """Return whether this is the state of a generator, which the backend need not know."""
    return isinstance(variable, Foreign) and variable.is_stream


def _view(variable: Any) -> NDArray[Any]:
    if _is_stream(variable):
        return np.asarray(variable.value)
    return np.asarray(_backends.current().view(variable))


def _assign(variable: Any, value: NDArray[Any]) -> None:
    if _is_stream(variable):
        variable.assign(value)
    else:
        _backends.current().assign(variable, np.array(value))
