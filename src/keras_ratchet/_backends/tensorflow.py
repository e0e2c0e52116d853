"""TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.eager import context

from keras_ratchet._backends import Foreign, Resolve

_RANDOM_OPS = frozenset(
    {
        "AllCandidateSampler",
        "FixedUnigramCandidateSampler",
        "LearnedUnigramCandidateSampler",
        "LogUniformCandidateSampler",
        "Multinomial",
        "NonDeterministicInts",
        "ParameterizedTruncatedNormal",
        "RandomGamma",
        "RandomPoisson",
        "RandomPoissonV2",
        "RandomShuffle",
        "RandomStandardNormal",
        "RandomUniform",
        "RandomUniformInt",
        "SampleDistortedBoundingBox",
        "SampleDistortedBoundingBoxV2",
        "TruncatedNormal",
        "UniformCandidateSampler",
    }
)


def view(variable: Any) -> NDArray[Any]:
    """Return the value, read-only; assigning to the variable does not change it."""
    return _array(variable.value.read_value())


def is_on_host(variable: Any) -> bool:
    """Return whether it is one variable, on the CPU."""
    value = variable.value
    return isinstance(value, tf.Variable) and "CPU:" in str(value.device)


def capture(variables: Sequence[Any], buffers: list[Any]) -> Resolve:
    """Read the variables: an assignment copies a value that is still in use.

    Reading costs 50 us for each variable; the copies are made by the next step.
    """
    values = [variable.value.read_value() for variable in variables]
    return lambda: [_array(value) for value in values]


def _array(value: Any) -> NDArray[Any]:
    """Return a tensor as an array, which is not copied; a bfloat16 scalar is none by itself."""
    return np.asarray(value if value.shape.rank else value.numpy())


def assign(variable: Any, value: NDArray[Any]) -> None:
    """Set the variable; TensorFlow copies."""
    variable.assign(np.asarray(value))  # which may be in the slices of several processes


def strategy(model: Any) -> Any:
    """Return the strategy that a model was made under, or in whose scope this is called."""
    own = getattr(model, "distribute_strategy", None)
    return tf.distribute.get_strategy() if own is None else own


class _Variable(Foreign):
    """A `tf.Variable`: one of the user's, or a replica of a Keras variable."""

    def __init__(self, name: str, variable: Any, is_stream: bool = False) -> None:
        super().__init__(name, is_stream)
        self._variable = variable

    @property
    def value(self) -> Any:
        """The variable, which is read as a Keras variable is."""
        return self._variable

    @property
    def identity(self) -> Any:
        """The variable."""
        return id(self._variable)

    @property
    def trainable(self) -> bool:
        """Whether training changes it."""
        return bool(self._variable.trainable)

    def assign(self, value: NDArray[Any]) -> None:
        """Set it to a copy of `value`."""
        self._variable.assign(value)


def is_split(variable: Any) -> bool:
    """Return False: a process has whole variables."""
    return False


def state_of(thing: Any) -> list[Foreign] | None:
    """Return the variable that a `tf.Variable` or a `tf.random.Generator` is."""
    if isinstance(thing, tf.random.Generator):
        return [_Variable("state", thing.state, is_stream=True)]
    if isinstance(thing, tf.Variable):
        numbers = thing.dtype.is_floating or thing.dtype.is_integer or thing.dtype.is_bool
        return [_Variable("", thing)] if numbers else []
    return None


def replicas(variable: Any) -> list[Foreign]:
    """Return the value of each replica of a strategy; they may differ."""
    values = getattr(variable.value, "values", None)
    if not isinstance(values, tuple | list) or len(values) < 2:
        return []
    return [_Variable(f"replica {i}", value) for i, value in enumerate(values)]


def batch_norms(layers: Iterable[Any]) -> list[Any]:
    """Return nothing: only torch's modules have such statistics."""
    return []


def random_ops(function: Any) -> list[str]:
    """Return the names of stateful random ops in the graphs of a traced step.

    Each of their kernels counts what it has drawn, and nobody can read or set that count.
    """
    found: set[str] = set()
    for traced in _traced(function):
        for concrete in traced._list_all_concrete_functions():
            graph = concrete.graph.as_graph_def()
            bodies = [graph.node, *(inner.node_def for inner in graph.library.function)]
            found |= {node.name for body in bodies for node in body if node.op in _RANDOM_OPS}
    return sorted(found)


def _traced(function: Any) -> list[Any]:
    """Return the `tf.function`s that a function is, or has in its closure."""
    pending, seen, found = [function], set(), []
    while pending:
        one = pending.pop()
        if id(one) in seen or not callable(one):
            continue
        seen.add(id(one))
        if hasattr(one, "_list_all_concrete_functions"):
            found.append(one)
        pending += [cell.cell_contents for cell in getattr(one, "__closure__", None) or ()]
    return found


def unalias(variables: Iterable[Any], averages: Iterable[tuple[Any, Any]]) -> None:
    """Do nothing: TensorFlow copies on assignment."""


def no_gradients() -> contextlib.AbstractContextManager[Any]:
    """Return a block that does nothing: gradients are recorded only on request."""
    return contextlib.nullcontext()


def doubled(arguments: tuple[Any, ...], steps: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Draw the step's batches, and return two iterators over them.

    They are of the same kind as the one given, so that the step is not traced again for them.
    """
    (iterator,) = arguments
    batches = [batch for _, batch in zip(range(int(steps)), iterator, strict=False)]
    again = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=iterator.element_spec
    )
    return (iter(again),), (iter(again),)


def rng_state() -> dict[str, Any]:
    """Return the state from which ops that run eagerly are seeded, once there is a global seed.

    Ops in a graph have hidden states of their own, see `random_ops`.
    """
    stream = getattr(context.context(), "_rng", None)
    return {} if stream is None else {"eager": stream.getstate()}


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore that state."""
    stream = getattr(context.context(), "_rng", None)
    if stream is not None and "eager" in state:
        stream.setstate(state["eager"])
