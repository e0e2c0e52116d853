"""What a model holds, with names that are the same in every build of it.

| collection | variables | name |
|---|---|---|
| `model` | of the layers, SeedGenerators among them | `model/<path of the layer>/<number>` |
| `optimizer` | of all Keras optimizers | `optimizer/<name of the optimizer>/<number>` |
| `metrics` | of the metrics | `metrics/<path of the metric>/<number>` |

The path of a layer is that of Keras's own files: attributes, and classes in containers. It depends
neither on names that were made up nor on what is trainable; the number is the variable's place
among those that the layer itself owns.

Extra state is what is no Keras variable of the model's own: buffers and parameters of torch
modules, a `tf.Variable`, each replica's statistics under a strategy, states of stateful RNNs, seeds
of metrics and losses. It is found by following the attributes of layers, metrics and losses,
containers in them, and objects of the user's own classes; objects of libraries are not followed.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

import keras_ratchet
from keras_ratchet import _backends
from keras_ratchet._backends import Foreign
from keras_ratchet._engine.capture import optimizers
from keras_ratchet._keras import anatomy, saving
from keras_ratchet._keras.anatomy import attributes_beyond_base, layers_of
from keras_ratchet._keras.marks import are_same
from keras_ratchet.types import Model

_DEPTH = 5
_ITEMS = 1000  # of a container; longer ones hold data
_LEAVES = (str, bytes, int, float, complex, bool, type(None), np.ndarray, np.generic)
_CODE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
_FOLLOWED = (keras.layers.Layer, keras.metrics.Metric, keras.losses.Loss)
# `compile` stores them next to the losses and metrics that it is given, which are followed
_NOT_FOLLOWED = (keras.optimizers.Optimizer, keras.callbacks.Callback, keras.Variable)
_empty: set[type] = set()  # classes in whose objects nothing is ever found, to be fast
EXTRA = "extra/"
_REST = "more"  # the place of variables that no layer owns
COLLECTIONS = ("model", "optimizer", "metrics")


@dataclass(frozen=True, slots=True)
class Extra:
    """A variable that is none of the model's, its metrics' or its optimizer's.

    Attributes:
        key: Where it was found.
        variable: A Keras variable, or a Foreign.
        is_weight: Whether the model computes with it; False for the states of random generators.
    """

    key: str
    variable: Any
    is_weight: bool


@dataclass(slots=True)
class Reach:
    """What was found.

    Attributes:
        owners: Whatever has attributes of the user's, by its place.
        extras: The variables.
        containers: What else was looked into.
        is_plain: Whether only layers, metrics, losses and containers were looked into, and
            nothing in them is a framework's own.
    """

    owners: dict[str, Any] = field(default_factory=dict)
    extras: list[Extra] = field(default_factory=list)
    containers: list[Any] = field(default_factory=list)
    is_plain: bool = True
    _known: dict[int, Any] = field(default_factory=dict)  # the objects too, or ids are used again
    _values_due: list[Any] = field(default_factory=list)  # known variables, their values not yet
    _seen: set[int] = field(default_factory=set)
    _layers: set[int] = field(default_factory=set)
    _state_of: Any = field(default_factory=lambda: _backends.current().state_of)

    def follow(self, key: str, thing: Any, depth: int = 0, top: bool = False) -> None:
        """Add an object if it is a variable, else follow its attributes; `top`: a layer itself."""
        if type(thing) in _empty or id(thing) in self._seen:
            return
        if isinstance(thing, (*_LEAVES, *_CODE)):
            _note_empty(thing)
        elif isinstance(thing, keras.random.SeedGenerator):
            self._add(key, thing.state, is_weight=False)
        elif isinstance(thing, keras.Variable):
            self._add(key, thing, is_weight=True)
        elif isinstance(thing, list | tuple | Mapping | deque):
            self._seen.add(id(thing))
            self.containers.append(thing)
            for name, item in items_of(thing) if depth < _DEPTH else ():
                self.follow(f"{key}/{name}", item, depth + 1)
        elif not isinstance(thing, _NOT_FOLLOWED) and (top or id(thing) not in self._layers):
            self._look_into(key, thing, depth)

    def _look_into(self, key: str, thing: Any, depth: int) -> None:
        """Add the state of a framework's own object, and follow attributes."""
        held = self._state_of(thing)
        for foreign in held or ():
            foreign.path = f"{key.partition('.')[2]}.{foreign.name}".strip(".")
            self._add(f"{key}.{foreign.name}".rstrip("."), foreign, not foreign.is_stream)
        is_keras = isinstance(thing, _FOLLOWED)
        self.is_plain = self.is_plain and (not held if is_keras else held is None)
        if not is_keras and (held is not None or depth > _DEPTH or not is_users(thing)):
            if held is None and not is_users(thing):
                _note_empty(thing)
            return
        self._seen.add(id(thing))
        self.is_plain = self.is_plain and is_keras
        self.owners[key] = thing
        if isinstance(thing, keras.metrics.Metric):  # the model's as soon as they are built
            self.know(thing.variables, [])
        for name, value in attributes_beyond_base(thing).items():
            if type(value) not in _empty:
                self.follow(f"{key}.{name}", value, 0 if is_keras else depth + 1)
        if isinstance(thing, keras.layers.Layer) and id(thing) not in self._layers:
            for i, variable in enumerate(thing.variables):
                self._add(f"{key}#{i}", variable, not is_seed(variable))

    def _add(self, key: str, variable: Any, is_weight: bool) -> None:
        thing = variable
        if isinstance(variable, Foreign):  # made for this call, its tensor is not
            thing = variable.value
            self._known |= {id(v): v for v in (one.value for one in self._values_due)}
            self._values_due.clear()
        if id(thing) not in self._known:
            self._known[id(thing)] = thing
            self.extras.append(Extra(key, variable, is_weight))

    def know(self, variables: list[Any], layers: list[Any]) -> None:
        """Leave out what is captured elsewhere."""
        self._known |= {id(variable): variable for variable in variables}
        self._values_due += variables
        self._layers |= {id(layer) for layer in layers}


def reach(model: Model) -> Reach:
    """Follow the attributes of a Keras model; of other models nothing is found."""
    found = Reach()
    layers = layers_of(model)
    if not layers:
        return found
    variables = {kind: anatomy.listed(model, kind) for kind in ("variables", "metrics_variables")}
    found.know([v for group in variables.values() for v in group], layers)
    for i, layer in enumerate(layers):
        found.follow(f"{i:04d}", layer, top=True)
    for i, metric in enumerate(anatomy.listed(model, "metrics")):
        found.follow(f"metric {i:02d}", metric)
    found.follow("loss", getattr(model, "loss", None))
    for kind, group in variables.items():
        for i, variable in enumerate(group):
            found.extras += _replicas(f"{kind} {i:05d}", variable, kind == "variables")
    is_copied = any(_backends.current().replicas(v) for g in variables.values() for v in g)
    found.is_plain = found.is_plain and not is_copied
    return found


def _note_empty(thing: Any) -> None:
    """Remember that such objects contain nothing; a proxy's class does not tell."""
    if thing.__class__ is type(thing):
        _empty.add(type(thing))


def is_seed(variable: Any) -> bool:
    """Return whether a Keras variable is the state of a SeedGenerator."""
    return str(variable.name) == "seed_generator_state"


def _replicas(key: str, variable: Any, is_weight: bool) -> Iterator[Extra]:
    """Yield each replica's value; what is trained is the same in all of them."""
    if not variable.trainable:
        for foreign in _backends.current().replicas(variable):
            yield Extra(f"{key}/{foreign.name}", foreign, is_weight and not is_seed(variable))


def items_of(container: Any) -> Iterator[tuple[Any, Any]]:
    items = container.items() if isinstance(container, Mapping) else enumerate(container)
    return itertools.islice(iter(items), _ITEMS)


def is_users(thing: Any) -> bool:
    """Return whether an object is of a class of the user's own, with attributes."""
    return hasattr(thing, "__dict__") and is_users_module(type(thing).__module__)


@functools.cache
def is_users_module(name: str) -> bool:
    """Return whether a module belongs neither to Python nor to an installed package."""
    if name == "__main__":
        return True
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is None:
        return name not in sys.builtin_module_names
    places = {sysconfig.get_path(place) for place in ("stdlib", "purelib", "platlib")}
    ours = os.path.dirname(keras_ratchet.__file__)
    return not os.path.realpath(path).startswith(
        tuple(os.path.realpath(place) + os.sep for place in (*places, ours))
    )


def named_extras(model: Model, found: Reach | None = None) -> dict[str, Any]:
    """Return all of it, each with a name that is the same in the next run of the script.

    Args:
        model: The model.
        found: What is reachable in it, if that is known.
    """
    extras = (reach(model) if found is None else found).extras
    return {f"{EXTRA}{extra.key}": extra.variable for extra in extras}


def weights_beyond(model: Model) -> list[Any]:
    """Return what the model computes with that is none of its weights."""
    return [extra.variable for extra in reach(model).extras if extra.is_weight]


def streams_beyond(model: Model) -> list[Any]:
    """Return states of random generators that are none of the model's variables."""
    return [extra.variable for extra in reach(model).extras if not extra.is_weight]


def restore_extras(model: Model, saved: Mapping[str, NDArray[Any]]) -> None:
    """Restore what was saved and is there, and what follows from variables that were restored."""
    backend = _backends.current()
    for name, variable in named_extras(model).items():
        if name in saved:
            dtype = backend.view(variable).dtype
            backend.assign(variable, saved[name].astype(dtype, copy=False))
    finalize(model)


def missing_extras(model: Model, saved: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return a sentence if something was saved and has no place now, else nothing."""
    here = named_extras(model)
    gone = sorted(name for name in saved if name.startswith(EXTRA) and name not in here)
    if not gone:
        return []
    names = ", ".join(name.removeprefix(EXTRA) for name in gone)
    return [f"saved state outside the model's variables has no place in this model: {names}"]


def finalize(model: Model) -> None:
    """Recompute what layers derive from their variables (Normalization)."""
    for layer in layers_of(model):
        if layer.built and layer.variables and hasattr(layer, "finalize_state"):
            layer.finalize_state()


class Places:
    """Names the variables of one model; walks over it again only when it is made of other parts."""

    def __init__(self) -> None:
        self._made_of: list[int] = []
        self._layers: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}
        self._of_layers, self._of_optimizers, self._of_metrics = map(_Numbered, COLLECTIONS)

    def variables(self, model: Model, collections: Iterable[str] = COLLECTIONS) -> dict[str, Any]:
        """Return the variables that training changes, by name, in a fixed order.

        Args:
            model: The model.
            collections: Which of them.
        """
        self._look(model)
        named: dict[str, Any] = {}
        if "model" in collections:
            layers = [(path, anatomy.own_variables(one)) for path, one in self._layers.items()]
            named |= self._of_layers.of([*layers, (_REST, anatomy.listed(model, "variables"))])
        if "optimizer" in collections:
            named |= self._of_optimizers.of(optimizers.grouped_variables(model))
        if "metrics" in collections:
            named |= self._of_metrics.of([(p, one.variables) for p, one in self._metrics.items()])
        return named

    def layers(self, model: Model) -> dict[str, Any]:
        """Return the layers by path, those above others first; "" is the model."""
        self._look(model)
        return self._layers

    def _look(self, model: Model) -> None:
        layers = anatomy.layers_of(model)
        metrics = anatomy.listed(model, "metrics")
        made_of = [id(model), *map(id, layers), 0, *map(id, metrics)]
        if made_of == self._made_of:
            return
        found = saving.parts_of(model).found if layers else ()
        self._layers = _by_path(found, anatomy.is_layer, layers)
        self._metrics = _by_path(found, anatomy.is_metric, metrics)
        self._made_of = made_of


def _by_path(found: Iterable[Any], is_kind: Any, known: Iterable[Any]) -> dict[str, Any]:
    """Return the objects of a kind that Keras's saver comes to, and those that it does not."""
    by_path = {part.path: part.owner for part in found if is_kind(part.owner)}
    seen = {id(thing) for thing in by_path.values()}
    rest = [thing for thing in known if id(thing) not in seen]
    return by_path | {f"more/{i}": thing for i, thing in enumerate(rest)}


class _Numbered:
    """Variables of one collection by name; the names are made again only if there are others.

    Args:
        collection: Name of the collection.
    """

    def __init__(self, collection: str) -> None:
        self._collection = collection
        self._groups: list[tuple[str, Sequence[Any]]] = []
        self._named: dict[str, Any] = {}

    def of(self, groups: list[tuple[str, Sequence[Any]]]) -> dict[str, Any]:
        """Return the variables by name, each once.

        Args:
            groups: Variables by the place of their owner.
        """
        same = len(groups) == len(self._groups) and all(
            place == place_before and are_same(variables, before)
            for (place, variables), (place_before, before) in zip(groups, self._groups, strict=True)
        )
        if not same:
            self._groups, self._named = groups, dict(self._names(groups))
        return self._named

    def _names(self, groups: list[tuple[str, Sequence[Any]]]) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for place, variables in groups:
            above = f"{self._collection}/{place}/" if place else f"{self._collection}/"
            fresh = [(i, v) for i, v in enumerate(variables) if id(v) not in seen]
            if place == _REST:
                fresh = list(enumerate(v for _, v in fresh))
            # of a variable that is there twice, the first place counts
            own = {id(v): (f"{above}{i:05d}", v) for i, v in reversed(fresh)}
            yield from reversed(own.values())
            seen |= own.keys()
