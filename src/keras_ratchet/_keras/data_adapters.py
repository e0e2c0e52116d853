"""What `fit` draws its batches from: Keras's epoch iterator and its data adapters.

| name | for | checked on |
|---|---|---|
| `fit`'s local `epoch_iterator`, its `data_adapter` | what the data is | 3.12.0, 3.15.1 |
| `ArrayDataAdapter._inputs` | have the arrays changed? | 3.12.0 to 3.16 nightly |
| `EpochIterator._num_batches`, `._distributed_dataset` | length; iterators made | 3.12.0, 3.15.1 |
| `fit`'s locals `val_x`, `val_y`, `val_sample_weight` and sizes | its validation | 3.15.1 |
| `data_adapter._epoch` | seeds orders, and DistributedSampler's | none before 3.16; 3.16 dev |
| `data_adapter_utils.super_batch_iterator` | what jax draws | none before 3.16; 3.16 dev |
| arguments of `model.train_function` | what a step draws | 3.12.0 to 3.15.1, 3.16 dev |

`tests/keras/test_names.py` fails when one of them is gone. Keras is imported on call, never before.
"""

from __future__ import annotations

import sys
from typing import Any

from keras_ratchet._keras.fit import locals_of_fit


def epoch_iterator() -> Any:
    """Return the `EpochIterator` of the `fit` that is calling, or None in a custom loop."""
    from keras.src.trainers.epoch_iterator import EpochIterator

    frame: Any = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("epoch_iterator")
        if isinstance(found, EpochIterator):
            return found
        frame = frame.f_back
    return None


def fit_validation() -> dict[str, Any]:
    """Return the arguments with which the `fit` that is calling evaluates; empty outside of `fit`.

    Without validation there is only its `batch_size`.
    """
    here = locals_of_fit()
    if not here:
        return {}
    size = {"batch_size": here["validation_batch_size"] or here["batch_size"]}
    if here["validation_data"] is None:
        return size
    data = {name: here[f"val_{name}"] for name in ("x", "y", "sample_weight")}
    return {**data, **size, "steps": here["validation_steps"]}


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


def arrays_of(iterator: Any) -> list[Any]:
    """Return the NumPy arrays that `fit` draws its batches from; of other data there are none."""
    import keras
    import numpy as np

    adapter = getattr(iterator, "data_adapter", None)
    inputs = keras.tree.flatten(getattr(adapter, "_inputs", None))
    return [one for one in inputs if isinstance(one, np.ndarray)]


def advance_dataset(iterator: Any, dataset: Any, epochs: int, batches: int | None) -> None:
    """Let a tf.data set count the iterators that were made of it in earlier epochs.

    A shuffled set draws a new order for each iterator. `fit` makes one for each epoch, and on
    tensorflow another one, never used, when an epoch of known length ends.

    Args:
        iterator: The `EpochIterator` of `fit`.
        dataset: The set.
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


def set_num_batches(iterator: Any, batches: int) -> None:
    """Tell `fit` the length of an epoch, which it finds out by itself in the first one only."""
    if iterator is not None and iterator.num_batches is None:
        iterator._num_batches = batches


def passes(iterator: Any) -> int | None:
    """Return the count that seeds the orders of `fit`, or None before Keras 3.16.

    It counts the passes over the data of one call of `fit`, so that a new process begins anew.
    """
    counted = getattr(getattr(iterator, "data_adapter", None), "_epoch", None)
    return None if counted is None else int(counted)


def set_passes(iterator: Any, counted: int) -> None:
    """Let `fit` draw the order of its next pass as after `counted` passes."""
    if passes(iterator) is not None:
        iterator.data_adapter._epoch = counted


def draws_unseeded(iterator: Any) -> bool:
    """Say whether `fit` shuffles arrays on tensorflow by a seed that nobody can read.

    Before Keras 3.16 it does so unless there is a global seed; since then it needs none.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or passes(iterator) is not None:
        return False
    if not getattr(iterator.data_adapter, "_shuffle", False):
        return False
    from keras.src.backend.common import global_state
    from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED

    return global_state.get_global_attribute(GLOBAL_RANDOM_SEED) is None


def steps_at_once(model: Any) -> int:
    """Return how many batches one step of `fit` stands for, in its count of batches."""
    return int(getattr(model, "steps_per_execution", None) or 1)


def draw(model: Any, arguments: tuple[Any, ...]) -> int:
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
    """Say whether the iterator of jax gives all batches of a step at once."""
    from keras.src.trainers.data_adapters import data_adapter_utils

    return hasattr(data_adapter_utils, "super_batch_iterator")
