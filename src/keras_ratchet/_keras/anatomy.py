"""What a model is made of: its layers, variables, optimizers, and attributes of Keras's own.

| name | for | checked on |
|---|---|---|
| `Layer._flatten_layers` | all layers, at any depth | 3.12 to 3.16 |
| `Layer._trainable_variables` | what a layer owns itself | 3.12 to 3.16 |
| `Layer._non_trainable_variables` | what a layer owns itself | 3.12 to 3.16 |
| `Layer._seed_generators` | the seeds that a layer owns itself | 3.12 to 3.16 |
| `Layer._tracker` | looked into by no walk of ours | 3.12 to 3.16 |
| `TorchLayer._torch_params` | the same; where torch finds the variables | 3.12 to 3.16 |
| `BaseOptimizer._variables` | what an optimizer owns, without those inside it | 3.12 to 3.16 |
| `BaseOptimizer._trainable_variables` | what it was built for | 3.12 to 3.16 |
| `functional.Functional` | whose methods set an attribute | 3.12 to 3.16 |
| `saving_lib.get_attr_skipset` | the attributes that every layer has | 3.12 to 3.16 |

Which of the two lists of its layer a variable is in was settled when it was made: setting
`trainable = False` moves none. Keras has no list of the attributes that it sets itself; its
methods' bytecode is that list, right for every version.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import threading
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_ratchet.types import Model

_PREFIXES = ("_self_", "_keras_ratchet")  # TensorFlow's tracking of attributes; our own notes
_LIBRARIES = ("keras", "torch", "tensorflow", "flax")
_NO_SETTINGS = frozenset({"name", "dtype", "trainable", "seed", "autocast"})
_CONSTANT = ("int8", "int4", "gptq", "awq")  # modes of quantization
_STEPS = ("call", "train_step", "test_step", "compute_loss", "compute_metrics", "update_state")


_walks = threading.local()


@contextlib.contextmanager
def one_walk() -> Iterator[None]:
    """Walk over a model once inside this block, in which its layers and variables stay the same."""
    if getattr(_walks, "known", None) is not None:
        yield
        return
    _walks.known = {}
    try:
        yield
    finally:
        _walks.known = None


def _once(model: Model, what: str, walk: Callable[[], list[Any]]) -> list[Any]:
    known: dict[tuple[int, str], list[Any]] | None = getattr(_walks, "known", None)
    if known is None:
        return walk()
    key = id(model), what
    if key not in known:
        known[key] = walk()
    return list(known[key])


def layers_of(model: Model) -> list[Any]:
    """Return the model and all layers in it, each once; none if it is no Keras model."""
    flatten = getattr(model, "_flatten_layers", None)
    if flatten is None:
        return []
    return _once(model, "", lambda: list({id(layer): layer for layer in flatten()}.values()))


def listed(model: Model, name: str) -> list[Any]:
    """Return the `weights`, `variables` or `metrics` of a model, for each of which Keras walks."""
    return _once(model, name, lambda: list(getattr(model, name, None) or ()))


def own_variables(layer: Any) -> list[Any]:
    """Return the variables of a layer that belong to none of its sublayers, in a fixed order."""
    seeds = [generator.state for generator in layer._seed_generators]
    return [*layer._trainable_variables, *layer._non_trainable_variables, *seeds]


def own_weights(layer: Any) -> list[Any]:
    """Return the same without seeds: of what Keras's files hold, what the layer itself owns."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def changing_state(layer: Any) -> list[Any]:
    """Return the variables of a layer that training may change although they do not train.

    Such as moving statistics. Keras's layers leave them alone while they are frozen, all but
    SpectralNormalization; of the user's own that is not known. Quantized weights are constants.
    """
    import keras

    if isinstance(layer, keras.layers.SpectralNormalization) and layer.built:
        return [*own_weights(layer), layer.kernel]
    is_keras = type(layer).__module__.partition(".")[0] == "keras"
    may_change = layer.trainable or not is_keras
    is_quantized = getattr(layer, "quantization_mode", None) in _CONSTANT
    return list(layer._non_trainable_variables) if may_change and not is_quantized else []


def torch_buffers(layer: Any) -> dict[str, Any]:
    """Return the buffers of a wrapped torch module, which training changes; else nothing."""
    import keras

    if not isinstance(layer, keras.layers.TorchModuleWrapper):
        return {}
    parameters = {name for name, _ in layer.module.named_parameters(remove_duplicate=False)}
    state = layer.module.state_dict().items()
    return {k: keras.ops.convert_to_numpy(v) for k, v in state if k not in parameters}


def saves_itself(layer: Any) -> bool:
    """Return whether a layer's class overrides Keras's `save_own_variables`."""
    import keras

    return type(layer).save_own_variables is not keras.layers.Layer.save_own_variables


def is_variable(thing: Any) -> bool:
    """Return whether something is a Keras variable."""
    import keras

    return isinstance(thing, keras.Variable)


def value_of(variable: Any) -> NDArray[Any]:
    """Return a copy of the value of a Keras variable."""
    import keras

    return np.array(keras.ops.convert_to_numpy(variable))


def is_layer(thing: Any) -> bool:
    """Return whether something is a Keras layer or model."""
    import keras

    return isinstance(thing, keras.layers.Layer)


def is_metric(thing: Any) -> bool:
    """Return whether something is a Keras metric."""
    import keras

    return isinstance(thing, keras.metrics.Metric)


def is_optimizer(thing: Any) -> bool:
    """Return whether something is a Keras optimizer."""
    import keras

    return isinstance(thing, keras.optimizers.Optimizer)


def with_inner(optimizer: Any) -> Iterator[tuple[str, Any]]:
    """Yield an optimizer, and those inside it (loss scale, one of several), with their paths."""
    yield "", optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    if inner is not None:
        yield from ((f"/inner_optimizer{path}", one) for path, one in with_inner(inner))
    for i, each in enumerate(getattr(optimizer, "optimizers", ())):
        yield from ((f"/optimizers/{i}{path}", one) for path, one in with_inner(each))


def optimizer_variables(optimizer: Any) -> list[Any]:
    """Return the variables of an optimizer that belong to none inside it."""
    return list(optimizer._variables)


def built_for(optimizer: Any) -> list[Any]:
    """Return the variables that an optimizer was built for, in its order."""
    return list(optimizer._trainable_variables) if optimizer.built else []


def has_own_train_step(model: Model) -> bool:
    """Return whether the model has a `train_step` that differs from Keras's."""
    import keras

    return getattr(type(model), "train_step", None) is not keras.Model.train_step


def is_whole(model: Model) -> bool:
    """Return whether every layer of a model is built."""
    return all(layer.built for layer in layers_of(model))


def batch_normalizations(model: Any) -> list[Any]:
    """Return the BatchNormalization layers of a model, nested ones too."""
    import keras

    layers = model._flatten_layers(include_self=False, recursive=True)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def own_attributes(thing: Any) -> dict[str, Any]:
    """Return the attributes of a Keras object, or any other, that Keras does not set itself."""
    values = vars(thing)
    kind: Any = type(thing)
    return {name: values[name] for name in _own(kind, tuple(values))}


def attributes_beyond_base(thing: Any) -> dict[str, Any]:
    """Return the attributes of a Keras object that every layer or model does not have."""
    values = vars(thing)
    kind: Any = type(thing)
    return {name: values[name] for name in _beyond_base(kind, tuple(values))}


def settings(thing: Any) -> dict[str, Any]:
    """Return the numbers and switches that a class of Keras's took as arguments and reads.

    Such as `rate` of Dropout and `clipnorm` of an optimizer: a callback may change them.
    """
    kind: Any = type(thing)
    kinds = (bool, int, float, type(None))
    values = vars(thing)
    names = _settings(kind, tuple(values))
    return {name: values[name] for name in names if isinstance(values[name], kinds)}


@functools.cache
def _arguments(kind: Hashable) -> frozenset[str]:
    """Return the names of the arguments of Keras's constructors among the bases of a class."""
    makers = [vars(base).get("__init__") for base in _mro(kind) if _library(base) == "keras"]
    codes = [code for maker in makers if (code := next(codes_of(maker), None)) is not None]
    return frozenset(n for code in codes for n in code.co_varnames[: _count(code)]) - _NO_SETTINGS


def _count(code: types.CodeType) -> int:
    return code.co_argcount + code.co_kwonlyargcount


# objects of one class mostly have the same attributes, so that a model has few such lists of names
@functools.lru_cache(maxsize=1024)
def _settings(kind: Hashable, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name in _arguments(kind))


@functools.lru_cache(maxsize=1024)
def _own(kind: Hashable, names: tuple[str, ...]) -> tuple[str, ...]:
    known = set_by_libraries(kind) | _base() if _is_keras(kind) else frozenset()
    return _without(names, known)


@functools.lru_cache(maxsize=1024)
def _beyond_base(kind: Hashable, names: tuple[str, ...]) -> tuple[str, ...]:
    return _without(names, _base() if _is_keras(kind) else frozenset())


def _without(names: tuple[str, ...], known: frozenset[str]) -> tuple[str, ...]:
    return tuple(n for n in names if n not in known and not n.startswith(_PREFIXES))


@functools.cache
def _is_keras(kind: Hashable) -> bool:
    return any(_library(base) == "keras" for base in _mro(kind))


def _mro(kind: Any) -> tuple[type, ...]:
    return tuple(kind.__mro__)


def _library(kind: type) -> str:
    return kind.__module__.partition(".")[0]


@functools.cache
def keras_attributes() -> frozenset[str]:
    """Return the attributes that Keras sets on every layer."""
    from keras.src.saving import saving_lib

    return frozenset(saving_lib.get_attr_skipset("Layer"))


@functools.cache
def _base() -> frozenset[str]:
    """Return the names of what every layer or model has."""
    import keras
    from keras.src.models.functional import Functional

    kinds = (keras.Model, keras.Sequential, Functional, keras.metrics.Metric, keras.losses.Loss)
    names = [set_by_libraries(kind) for kind in kinds]
    return frozenset().union(*names, vars(keras.layers.Layer(name="attributes")))


@functools.cache
def set_by_libraries(kind: Hashable) -> frozenset[str]:
    """Return the names of attributes that methods of Keras and its backends set."""
    bases = [base for base in _mro(kind) if _library(base) in _LIBRARIES]
    return frozenset(name for base in bases for name in _set_by(base))


@functools.cache
def names_read_by_steps(kind: Hashable) -> frozenset[str]:
    """Return the names that a user's class reads in what a compiled step runs."""
    own = [base for base in _mro(kind) if _library(base) not in (*_LIBRARIES, "builtins")]
    methods = {name: member for base in reversed(own) for name, member in vars(base).items()}
    pending, read = list(_STEPS), set[str]()
    while pending:
        for code in codes_of(methods.get(pending.pop())):
            fresh = set(code.co_names) - read
            read |= fresh
            pending += fresh & methods.keys()
    return frozenset(read)


@functools.cache
def _set_by(kind: type) -> frozenset[str]:
    found = (code for member in vars(kind).values() for code in codes_of(member))
    return frozenset(
        instruction.argval
        for code in found
        for instruction in dis.get_instructions(code)
        if instruction.opname == "STORE_ATTR"
    )


def codes_of(member: Any) -> Iterator[types.CodeType]:
    """Yield the code of a method or property, and of the functions in it."""
    if isinstance(member, property):
        members = [member.fget, member.fset]
    else:
        members = [getattr(member, "__func__", member)]
    pending = [getattr(inspect.unwrap(m), "__code__", None) for m in members if callable(m)]
    while pending:
        code = pending.pop()
        if isinstance(code, types.CodeType):
            yield code
            pending += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
