"""What `fit` draws its batches from: Keras's epoch iterator and its data adapters.

| name | for | checked on |
|---|---|---|
| `EpochIterator.data_adapter`, `EpochIterator.steps_per_epoch` | what the data is | 3.12 to 3.16 |
| `EpochIterator._num_batches` | the length of an epoch | 3.12 to 3.16 |
| `TFEpochIterator._distributed_dataset` | what iterators are made of | 3.12 to 3.16 |
| `ArrayDataAdapter._inputs` | the arrays | 3.12 to 3.16 |
| `ArrayDataAdapter._shuffle` | whether they are shuffled | 3.12 to 3.16 |
| `TFDatasetAdapter._dataset`, `TorchDataLoaderAdapter._dataloader` | the source | 3.12 to 3.16 |
| `PyDatasetAdapter.py_dataset`, `GeneratorDataAdapter.generator` | the source | 3.12 to 3.16 |
| `GrainDatasetAdapter._dataset` | the source | 3.12 to 3.16 |
| `ArrayDataAdapter._epoch` | seeds orders, and DistributedSampler's | 3.16 |
| `data_adapter_utils.super_batch_iterator` | what jax draws | 3.16 |
| `Trainer.train_function` | its arguments: what a step draws | 3.12 to 3.16 |

What decides the order of batches has changed in Keras while every name stayed, so the versions on
which exact resume is proved are listed in `_PROVED`.
"""

from __future__ import annotations

import types
from typing import Any

from keras_ratchet._keras.seeds import has_global_seed
from keras_ratchet.types import Model

_PROVED = ("3.12", "3.13", "3.14", "3.15", "3.16")


_KINDS = {
    "ArrayDataAdapter": ("array", ""),
    "PyDatasetAdapter": ("py_dataset", "py_dataset"),
    "TFDatasetAdapter": ("tf_dataset", "_dataset"),
    "TorchDataLoaderAdapter": ("torch_loader", "_dataloader"),
    "GeneratorDataAdapter": ("generator", "generator"),
    "GrainDatasetAdapter": ("grain", "_dataset"),
}


def data_source(iterator: Any) -> tuple[str, Any]:
    """Return the kind of the data that `fit` was given, and the source itself if it has one."""
    adapter = getattr(iterator, "data_adapter", None)
    kind, attribute = _KINDS.get(type(adapter).__name__, ("unknown", ""))
    if adapter is None:
        return "loop", None
    return kind, getattr(adapter, attribute, None) if attribute else None


def kind_of(x: Any) -> str:
    """Return the kind of a source, named as those of `data_source`."""
    import keras

    if isinstance(x, keras.utils.PyDataset):
        return "py_dataset"
    names = {f"{c.__module__.partition('.')[0]}.{c.__name__}" for c in type(x).__mro__}
    if names & {"tensorflow.DatasetV2"}:
        return "tf_dataset"
    if names & {"torch.DataLoader"}:
        return "torch_loader"
    if any(name.startswith("grain.") for name in names):
        return "grain"
    return "generator" if isinstance(x, types.GeneratorType) else "array"


def arrays_of(iterator: Any) -> list[Any]:
    """Return the NumPy arrays that `fit` draws its batches from; of other data there are none."""
    import keras
    import numpy as np

    adapter = getattr(iterator, "data_adapter", None)
    inputs = keras.tree.flatten(getattr(adapter, "_inputs", None))
    return [one for one in inputs if isinstance(one, np.ndarray)]


def advance_dataset(iterator: Any, dataset: Any, epochs: int, batches: int | None) -> None:
    """Advance a `tf.data.Dataset` to the iterators that earlier epochs made of it.

    A shuffled one draws a new order for each iterator. `fit` makes one for each epoch, and on
    tensorflow another one, never used, when an epoch of known length ends.

    Args:
        iterator: The `EpochIterator` of `fit`.
        dataset: The dataset.
        epochs: How many epochs are done.
        batches: Batches of an epoch, as known when the last of them ended.
    """
    source = getattr(iterator, "_distributed_dataset", dataset)
    made = epochs
    if hasattr(iterator, "_distributed_dataset") and batches is not None and epochs:
        unknown_at_first = iterator.data_adapter.num_batches is None
        made = 2 * epochs - (1 if unknown_at_first else 0)
    for _ in range(made):
        iter(source)


def advance_validation(iterator: Any, dataset: Any, validations: int) -> None:
    """Advance a `tf.data.Dataset` to the iterators that earlier validations made of it.

    Each makes one, and on tensorflow another one, never used, when a set of known length ends.
    """
    source = getattr(iterator, "_distributed_dataset", dataset)
    batches, steps = iterator.data_adapter.num_batches, iterator.steps_per_epoch
    ends = batches is not None and (steps is None or steps >= batches)
    each = 2 if hasattr(iterator, "_distributed_dataset") and ends else 1
    for _ in range(each * validations):
        iter(source)


def set_num_batches(iterator: Any, batches: int) -> None:
    """Set the length of an epoch, which `fit` finds out in its first one only."""
    if iterator is not None and iterator.num_batches is None:
        iterator._num_batches = batches


def passes(iterator: Any) -> int | None:
    """Return the count that seeds the orders of `fit`, or None before Keras 3.16.

    It counts the passes over the data of one call of `fit`: a new process starts again at 0.
    """
    counted = getattr(getattr(iterator, "data_adapter", None), "_epoch", None)
    return None if counted is None else int(counted)


def set_passes(iterator: Any, counted: int) -> None:
    """Make `fit` draw the order of its next pass as after `counted` passes."""
    if passes(iterator) is not None:
        iterator.data_adapter._epoch = counted


def draws_unseeded(iterator: Any) -> bool:
    """Return whether `fit` shuffles arrays on tensorflow by a seed that nobody can read.

    Before Keras 3.16 it does so unless there is a global seed; since then it needs none.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or passes(iterator) is not None:
        return False
    return bool(getattr(iterator.data_adapter, "_shuffle", False)) and not has_global_seed()


def steps_at_once(model: Model) -> int:
    """Return how many batches one step of `fit` stands for, in its count of batches."""
    return int(getattr(model, "steps_per_execution", None) or 1)


def draw(model: Model, arguments: tuple[Any, ...]) -> int:
    """Draw the batches of one step without training on them; return for how many it counts.

    `fit` calls `train_function(data)` on torch, with a list of batches, `(iterator)` on
    tensorflow and `(state, iterator)` on jax, where one `next` gives all batches of a step from
    Keras 3.16 on. The last step of an epoch may hold fewer batches, and counts as the others.
    """
    import keras

    steps = steps_at_once(model)
    backend = keras.backend.backend()
    if backend != "torch":
        next(arguments[-1])
        for _ in range(0 if backend == "jax" and _gives_super_batches() else steps - 1):
            if next(arguments[-1], None) is None:
                break
    return steps


def _gives_super_batches() -> bool:
    """Return whether the iterator of jax gives all batches of a step at once."""
    from keras.src.trainers.data_adapters import data_adapter_utils

    return hasattr(data_adapter_utils, "super_batch_iterator")


def unproved() -> str:
    """Return why exactness is not proved on this Keras, or nothing if it is.

    The tests of exact resume passed on 3.12.0, 3.13.2, 3.14.1, 3.15.1 and keras-nightly
    3.16.0.dev2026102704. They look at what is trained on, and not at names.
    """
    import keras

    if ".".join(keras.__version__.split(".")[:2]) in _PROVED:
        return ""
    return (
        f"it is not tested with Keras {keras.__version__}, only with {_PROVED[0]} to "
        f"{_PROVED[-1]}. A different order of batches would go unnoticed."
    )
