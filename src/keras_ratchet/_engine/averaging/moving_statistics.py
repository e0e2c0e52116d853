"""Moving statistics of averaged weights: estimated again, since they belong to the weights.

The mean of two weights has activations of its own, so the moving statistics of neither fit (see
Izmailov et al. 2018, section 3.2). In a forward pass in training mode each layer does its own
updates; BatchNormalization drops its old values at the first batch, and takes the mean over all
batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_ratchet import _backends
from keras_ratchet._engine.averaging.validation import is_arrays
from keras_ratchet._keras.anatomy import batch_normalizations, layers_of
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Model

_MOMENTA = ("momentum", "renorm_momentum")


@dataclass(frozen=True, slots=True)
class StatisticsData:
    """Inputs from which statistics are estimated.

    Args:
        data: As `fit` takes it: `x`, `(x, y)`, or a dataset of batches; what is not `x` is ignored.
            It is read once for each average that is tried.
        batch_size: Of arrays.

    Raises:
        ConfigError: If the data can be read only once.
    """

    data: Any
    batch_size: int = 32

    def __post_init__(self) -> None:
        if hasattr(self.data, "__next__"):
            raise ConfigError(
                f"average_data is read once for each average that is tried, and a "
                f"{type(self.data).__name__} can be read only once. Pass arrays or a data set.",
                see="averages",
            )

    def inputs(self) -> Iterator[Any]:
        """Yield the inputs of one batch after the other."""
        x = keras.utils.unpack_x_y_sample_weight(self.data)[0]
        if is_arrays(x):
            rows = len(keras.tree.flatten(x)[0])
            for start in range(0, rows, self.batch_size):
                part = slice(start, start + self.batch_size)
                yield keras.tree.map_structure(lambda leaf, part=part: leaf[part], x)
            return
        for batch in _batches(x):
            yield keras.utils.unpack_x_y_sample_weight(batch)[0]


def _batches(source: Any) -> Iterator[Any]:
    if isinstance(source, keras.utils.PyDataset):  # its iterator may have no end
        for index in range(source.num_batches or 0):
            yield source[index]
        return
    yield from source


def reestimate(model: Model, data: StatisticsData) -> None:
    """Estimate the moving statistics of the weights that the model has now.

    Raises:
        ConfigError: If the data has no batch.
    """
    done = 0
    with _cumulative(model) as momenta, _backends.current().no_gradients():
        for x in data.inputs():
            momenta(done / (done + 1))  # so that it becomes the mean over all batches
            model(keras.tree.map_structure(_as_array, x), training=True)
            done += 1
    if not done:
        raise ConfigError(f"average_data has no batches: {data.data!r}.", see="averages")


@contextlib.contextmanager
def _cumulative(model: Model) -> Iterator[Callable[[float], None]]:
    """Yield a function that sets the momenta of the BatchNormalization layers; restore them."""
    layers = batch_normalizations(model)
    before = [(n, name, getattr(n, name)) for n in layers for name in _MOMENTA if hasattr(n, name)]
    # their momentum is the weight of the new batch
    modules = _backends.current().batch_norms(layers_of(model) or [model])
    before_in_modules = [(module, "momentum", module.momentum) for module in modules]

    def set_all(momentum: float) -> None:
        for layer, name, _ in before:
            setattr(layer, name, momentum)
        for module, name, _ in before_in_modules:
            setattr(module, name, 1 - momentum)

    try:
        yield set_all
    finally:
        for layer, name, momentum in (*before, *before_in_modules):
            setattr(layer, name, momentum)


def _as_array(leaf: Any) -> Any:
    """Return a batch of any framework as one that the current backend accepts."""
    if isinstance(leaf, np.ndarray) or keras.ops.is_tensor(leaf):
        return leaf
    if hasattr(leaf, "detach"):  # torch's, on another backend
        leaf = leaf.detach().cpu()
    return np.asarray(leaf)
