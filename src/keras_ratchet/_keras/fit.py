"""What the `fit` that is calling was given: its data, its validation, its first epoch.

| name | for | checked on |
|---|---|---|
| `epoch_iterator.EpochIterator` | which frame is the one of `fit` | 3.12 to 3.16 |
| `fit:epoch_iterator`, `fit:self` | the iterator, the model | 3.12 to 3.16 |
| `fit:initial_epoch`, `Trainer._initial_epoch` | the first epoch | 3.12 to 3.16 |
| `fit:validation_data` | validation | 3.12 to 3.16 |
| `fit:val_x` | validation | 3.12 to 3.16 |
| `fit:val_y` | validation | 3.12 to 3.16 |
| `fit:val_sample_weight` | validation | 3.12 to 3.16 |
| `fit:validation_batch_size`, `fit:batch_size` | validation | 3.12 to 3.16 |
| `fit:validation_steps`, `fit:validation_freq` | validation | 3.12 to 3.16 |
| `Trainer._eval_epoch_iterator` | the iterator of validation | 3.12 to 3.16 |
| `TFEpochIterator._distribute_strategy` | an argument of it | 3.12 to 3.16 |
| `EpochIterator.data_adapter`, `EpochIterator.steps_per_epoch` | what the data is | 3.12 to 3.16 |
| `EpochIterator._num_batches` | the length of an epoch | 3.12 to 3.16 |
| `EpochIterator._current_iterator`, `EpochIterator._steps_seen` | iterators made | 3.12 to 3.16 |
| `TFEpochIterator._distributed_dataset` | what iterators are made of | 3.12 to 3.16 |
| `ArrayDataAdapter._inputs` | the arrays | 3.12 to 3.16 |
| `ArrayDataAdapter._shuffle` | whether they are shuffled | 3.12 to 3.16 |
| `TFDatasetAdapter._dataset`, `TorchDataLoaderAdapter._dataloader` | the source | 3.12 to 3.16 |
| `PyDatasetAdapter.py_dataset`, `GeneratorDataAdapter.generator` | the source | 3.12 to 3.16 |
| `GrainDatasetAdapter._dataset` | the source | 3.12 to 3.16 |
| `ArrayDataAdapter._epoch` | seeds orders, and DistributedSampler's | 3.16 |
| `data_adapter_utils.super_batch_iterator` | what jax draws | 3.16 |
| `Trainer.train_function` | its arguments: what a step draws | 3.12 to 3.16 |

Keras tells callbacks none of this. It makes the iterator of validation at the first validation and
keeps it; each validation resets it. What decides the order of batches has changed in Keras while
every name stayed, so the versions on which exact resume is proved are listed in `_PROVED`.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from keras_ratchet._keras.callbacks import frames_from
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


def epoch_iterator() -> Any:
    """Return the `EpochIterator` of the `fit` that is calling, or None in a custom loop.

    During an `evaluate` or `predict` it is the iterator of that.
    """
    return _caller().get("epoch_iterator")


def locals_of_fit() -> dict[str, Any]:
    """Return the local variables of the `fit` that is calling; nothing in a custom loop.

    An `evaluate` or `predict` in between has an iterator too, but no `validation_data`.
    """
    return _caller("validation_data")


def _caller(*names: str) -> dict[str, Any]:
    """Return the locals of the innermost caller that has an epoch iterator and these names."""
    from keras.src.trainers.epoch_iterator import EpochIterator

    for frame in frames_from(sys._getframe(2)):
        here: dict[str, Any] = frame.f_locals
        is_fit = isinstance(here.get("epoch_iterator"), EpochIterator)
        if is_fit and all(name in here for name in names):  # from Python 3.13 on it is no dict
            return here
    return {}


def first_epoch() -> int:
    """Return the `initial_epoch` that the `fit` that is calling was given; 0 in a custom loop."""
    return int(locals_of_fit().get("initial_epoch") or 0)


def initial_epoch(model: Model) -> int:
    """Return the epoch that the `fit` that is calling starts with, after a resume too."""
    restored = getattr(model, "_initial_epoch", None)
    return int(restored) if restored else first_epoch()


def set_initial_epoch(model: Any, epoch: int | None) -> None:
    """Set the epoch that `fit` starts with; it reads this right after `on_train_begin`."""
    model._initial_epoch = epoch


def step_result(arguments: tuple[Any, ...], logs: dict[str, float]) -> Any:
    """Return what a step returns to `fit`: on jax the logs and the state.

    Args:
        arguments: Those that `fit` called the step with.
        logs: The logs.
    """
    return (logs, arguments[0]) if len(arguments) == 2 else logs


def evaluate_arguments() -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True)
class FitValidation:
    """How the `fit` that is calling validates.

    Attributes:
        model: The model.
        x: What `validation_data` starts with: arrays, or a source of batches.
        arguments: Those of the iterator that `fit` makes.
        freq: The argument `validation_freq`.
    """

    model: Any
    x: Any
    arguments: dict[str, Any]
    freq: int | Collection[int]

    def follows(self, epoch: int) -> bool:
        """Return whether a validation follows an epoch, given by its index."""
        if isinstance(self.freq, int):
            return (epoch + 1) % self.freq == 0
        return epoch + 1 in self.freq

    def iterator(self, like: Any) -> Any:
        """Return the iterator that `fit` uses, made as `fit` makes it if it has none yet.

        Args:
            like: `fit`'s iterator of the training data.
        """
        if getattr(self.model, "_eval_epoch_iterator", None) is None:
            arguments = dict(self.arguments)
            if hasattr(like, "_distribute_strategy"):
                arguments["distribute_strategy"] = like._distribute_strategy
            self.model._eval_epoch_iterator = type(like)(**arguments)
        return self.model._eval_epoch_iterator


def validation_of_fit() -> FitValidation | None:
    """Return how the `fit` that is calling validates, or None if it does not."""
    here = locals_of_fit()
    if here.get("validation_data") is None:
        return None
    arguments = {
        "x": here["val_x"],
        "y": here["val_y"],
        "sample_weight": here["val_sample_weight"],
        "batch_size": here["validation_batch_size"] or here["batch_size"],
        "steps_per_execution": here["self"].steps_per_execution,
        "steps_per_epoch": here["validation_steps"],
        "shuffle": False,
    }
    return FitValidation(here["self"], here["val_x"], arguments, here["validation_freq"])


def never_validates() -> bool:
    """Return whether a `fit` that was given no validation is calling; False in a custom loop."""
    here = locals_of_fit()
    return bool(here) and here["validation_data"] is None


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


def iterators_made(iterator: Any) -> int:
    """Return how many iterators of its data `fit` has made up to the end of an epoch: 1 or 2.

    On tensorflow Keras makes another one when an epoch ends after as many batches as it expects:
    those of the data, where their number is known, or one more than in the first epoch. It is
    never used, but with `steps_per_epoch`, where it is that of the next epoch.

    Args:
        iterator: The `EpochIterator` of `fit`, at the end of an epoch, or None in a custom loop.
    """
    if not hasattr(iterator, "_distributed_dataset") or iterator.steps_per_epoch:
        return 1
    has_another = iterator._current_iterator is not None and iterator._steps_seen == 0
    return 2 if has_another else 1


def advance_dataset(iterator: Any, dataset: Any, made: int) -> None:
    """Advance a `tf.data.Dataset` to the iterators that earlier epochs made of it.

    A shuffled one draws a new order for each iterator.

    Args:
        iterator: The `EpochIterator` of `fit`.
        dataset: The dataset.
        made: How many there were.
    """
    source = getattr(iterator, "_distributed_dataset", dataset)
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


def synced(model: Any) -> Any:
    """Return a model with its variables up to date: on JAX `fit` has their values elsewhere."""
    if sync := getattr(model, "jax_state_sync", None):
        sync()
    return model
