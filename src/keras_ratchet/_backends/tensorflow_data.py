"""Helpers for TensorFlow's objects on any backend: `tf.data` pipelines and variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework import config

_PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc")
_AHEAD = ("_Prefetch", "_Parallel")
_CUTS = ("_TakeDataset", "_TakeWhileDataset")
_SIEVES = ("_FilterDataset", "_ShardDataset")
_BATCHES = ("_BatchDataset", "_ParallelBatchDataset", "_PaddedBatchDataset")


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


def runs_python(dataset: Any) -> bool:
    """Return whether a pipeline calls Python code, which may draw from the host's streams."""
    graphs = (w.function.graph for stage in stages(dataset) for w in stage._functions())
    definitions = (graph.as_graph_def() for graph in graphs)
    return any(
        node.op in _PYTHON
        for definition in definitions
        for nodes in [definition.node, *(f.node_def for f in definition.library.function)]
        for node in nodes
    )


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
    if config.is_op_determinism_enabled():
        return False
    return any(_draws(s) for s in stages(dataset) if type(s).__name__.startswith("_Parallel"))


def draws_below_a_cut(dataset: Any, reads_to_end: bool = False) -> bool:
    """Return whether a pass over a pipeline may draw from a seed for rows that it leaves unused.

    A thread that reads ahead may have drawn for them or not.

    Args:
        dataset: The pipeline.
        reads_to_end: Whether a pass goes on after the last batch, until there is no more.
    """
    return any(
        draws(below)
        for stage in stages(dataset)
        for below in _cut(stage, type(stage).__name__, reads_to_end)
    )


def _cut(stage: Any, kind: str, reads_to_end: bool) -> list[Any]:
    """Return the data sets of which a stage may leave rows unused."""
    if kind == "_ZipDataset":
        lengths = [int(one.cardinality()) for one in stage._inputs()]
        shortest = min((length for length in lengths if length >= 0), default=-1)
        pairs = zip(stage._inputs(), lengths, strict=True)
        return [one for one, length in pairs if length != shortest]
    leaves = kind in _CUTS or (not reads_to_end and _leaves_rows(stage, kind))
    return [stage] if leaves else []


def _leaves_rows(stage: Any, kind: str) -> bool:
    """Return whether rows may be left over when a stage has given the last one that it gives."""
    if kind in _SIEVES:
        return True
    if kind not in _BATCHES or not bool(tf.get_static_value(stage._drop_remainder)):
        return False
    [below] = stage._inputs()
    rows = int(below.cardinality())
    return rows != tf.data.INFINITE_CARDINALITY and (
        rows < 0 or bool(rows % int(tf.get_static_value(stage._batch_size)))
    )


def reads_ahead(dataset: Any) -> bool:
    """Return whether a pipeline may draw more rows than it was asked for, on a thread of its own.

    Unless it is told not to, TensorFlow puts such stages into pipelines that have none: it joins
    `map` and `batch`, and prefetches.
    """
    if any(type(stage).__name__.startswith(_AHEAD) for stage in stages(dataset)):
        return True
    wishes = dataset.options().experimental_optimization
    default = wishes.apply_default_optimizations is not False
    named = [getattr(wishes, name, None) for name in ("map_and_batch_fusion", "inject_prefetch")]
    return any(default if wish is None else wish for wish in named) or bool(wishes.parallel_batch)


def starts_early(dataset: Any) -> bool:
    """Return whether an iterator over a pipeline starts to read before it is asked for a row."""
    return bool(getattr(dataset.options(), "experimental_warm_start", False))


def caches_what_varies(dataset: Any) -> bool:
    """Return whether a pipeline keeps in memory what was drawn or shuffled in its first pass."""
    caches = [s for s in stages(dataset) if type(s).__name__ == "CacheDataset"]
    in_memory = [s for s in caches if tf.get_static_value(s._filename) == b""]
    return any(draws(cache) or shuffles(cache) for cache in in_memory)


def shuffles(dataset: Any) -> list[Any]:
    """Return the stages of a pipeline that draw a new order for each iterator."""
    return [
        stage
        for stage in stages(dataset)
        if type(stage).__name__ == "_ShuffleDataset"
        and stage._reshuffle_each_iteration is not False
    ]


def is_distributed(model: Any) -> bool:
    """Return whether a model is trained under a strategy of `tf.distribute`."""
    strategy = getattr(model, "distribute_strategy", None)
    return strategy is not None and not type(strategy).__name__.startswith("_Default")


def draws(dataset: Any) -> bool:
    """Return whether a function of a pipeline draws from a seed."""
    return any(_draws(stage) for stage in stages(dataset))


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
