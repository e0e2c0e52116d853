"""Helpers for TensorFlow's objects on any backend: `tf.data` pipelines and variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework import config


def is_pipeline(value: Any) -> bool:
    """Return whether a value is a `tf.data.Dataset`."""
    return isinstance(value, tf.data.Dataset)


def stages(dataset: Any) -> list[Any]:
    """Return a pipeline's data sets, the last one first, each once."""
    found: dict[int, Any] = {}
    left = [dataset]
    while left:
        stage = left.pop()
        if id(stage) not in found:
            found[id(stage)] = stage
            left.extend(stage._inputs())
    return list(found.values())


def functions(dataset: Any) -> Iterator[Any]:
    """Yield the Python functions of a pipeline."""
    for stage in stages(dataset):
        for wrapper in stage._functions():
            yield wrapper._func


def variables(dataset: Any) -> list[Any]:
    """Return the variables that a pipeline's functions read or write, each once.

    The seeds of Keras's augmentation layers are among them, on any backend, and the state of a
    `tf.random.Generator`.
    """
    found: dict[int, Any] = {}
    for stage in stages(dataset):
        for wrapper in stage._functions():
            found |= {id(variable): variable for variable in wrapper.function.graph.variables}
    return list(found.values())


def races(dataset: Any) -> bool:
    """Return whether several calls of a function that draws from a seed may run in parallel."""
    if not is_pipeline(dataset) or config.is_op_determinism_enabled():
        return False
    return any(_draws(s) for s in stages(dataset) if type(s).__name__.startswith("_Parallel"))


def draws_for(dataset: Any, kinds: tuple[str, ...]) -> bool:
    """Return whether a function draws from a seed for a stage of one of these kinds.

    Such a stage may leave unused what was drawn: nobody knows how much.
    """
    if not is_pipeline(dataset):
        return False
    unsteady = [s for s in stages(dataset) if type(s).__name__ in kinds]
    return any(_draws(below) for stage in unsteady for below in stages(stage))


def draws(dataset: Any) -> bool:
    """Return whether a function of a pipeline draws from a seed."""
    return is_pipeline(dataset) and any(_draws(stage) for stage in stages(dataset))


def _draws(stage: Any) -> bool:
    """Return whether a function of this stage uses a seed: a variable of integers."""
    return any(
        variable.dtype.is_integer and not variable.trainable
        for wrapper in stage._functions()
        for variable in wrapper.function.graph.variables
    )


def read(variable: Any) -> NDArray[Any]:
    """Return a variable's value."""
    return np.asarray(variable.read_value())


def write(variable: Any, value: NDArray[Any]) -> None:
    """Set a variable."""
    variable.assign(value)


def is_variable(value: Any) -> bool:
    """Return whether a value is a `tf.Variable`."""
    return isinstance(value, tf.Variable)
