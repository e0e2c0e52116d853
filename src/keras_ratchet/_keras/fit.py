"""What the `fit` that is calling was given, and what it validates on.

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

Keras tells callbacks none of this. It makes the iterator of validation at the first validation and
keeps it; each validation resets it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from keras_ratchet._keras.callbacks import frames_from
from keras_ratchet.types import Model


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
        if isinstance(here.get("epoch_iterator"), EpochIterator) and here.keys() >= {*names}:
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
