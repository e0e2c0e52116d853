"""What `fit` validates on: Keras makes its iterator at the first validation, and keeps it.

| name | for | checked on |
|---|---|---|
| `fit`'s locals `val_*`, `validation_*`, `batch_size` | what it validates on | 3.15.1 |
| `model._eval_epoch_iterator` | the iterator that it keeps | 3.15.1 |
| `EpochIterator(x=...)`, `._distribute_strategy` | to make one as `fit` would | 3.15.1 |

Each validation resets the iterator, so that it begins a pass of its own. Keras is imported on
call, never before.
"""

from __future__ import annotations

import types
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from keras_ratchet._keras.fit import locals_of_fit


@dataclass(frozen=True, slots=True)
class FitValidation:
    """How the `fit` that is calling validates.

    Attributes:
        model: The model.
        x: What `validation_data` begins with: arrays, or a source of batches.
        arguments: Those of the iterator that `fit` makes.
        freq: The argument `validation_freq`.
    """

    model: Any
    x: Any
    arguments: dict[str, Any]
    freq: int | Collection[int]

    def follows(self, epoch: int) -> bool:
        """Say whether an epoch, by its index, is followed by a validation."""
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


def of_fit() -> FitValidation | None:
    """Return how the `fit` that is calling validates, or None if it does not."""
    here = locals_of_fit()
    return _found(here) if here.get("validation_data") is not None else None


def _found(here: dict[str, Any]) -> FitValidation:
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


def kind_of(x: Any) -> str:
    """Return the kind of a source, named as those of `data_adapters.data_source`."""
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


def advance(iterator: Any, dataset: Any, validations: int) -> None:
    """Let a tf.data set count the iterators that were made of it in earlier validations.

    Each makes one, and on tensorflow another one, never used, when a set of known length ends.
    """
    source = getattr(iterator, "_distributed_dataset", dataset)
    batches, steps = iterator.data_adapter.num_batches, iterator.steps_per_epoch
    ends = batches is not None and (steps is None or steps >= batches)
    each = 2 if hasattr(iterator, "_distributed_dataset") and ends else 1
    for _ in range(each * validations):
        iter(source)
