"""What the arguments of the `fit` that is calling are, where no callback is told.

| name | for | checked on |
|---|---|---|
| `fit`'s locals `initial_epoch`, `epoch_iterator` | first epoch | 3.12.0, 3.15.1, 3.16 nightly |
| `model._initial_epoch` | the same, set by a BackupAndRestore | 3.12.0, 3.15.1, 3.16 nightly |
"""

from __future__ import annotations

import sys
from typing import Any

from keras_ratchet._keras.callback_list import frames_from


def locals_of_fit() -> dict[str, Any]:
    """Return the local variables of the `fit` that is calling; nothing in a custom loop.

    An `evaluate` or `predict` in between has an iterator too, but no `validation_data`.
    """
    from keras.src.trainers.epoch_iterator import EpochIterator

    for frame in frames_from(sys._getframe(1)):
        here: dict[str, Any] = frame.f_locals
        if isinstance(here.get("epoch_iterator"), EpochIterator) and "validation_data" in here:
            return here
    return {}


def first_epoch() -> int:
    """Return the `initial_epoch` that the `fit` that is calling was given; 0 in a custom loop."""
    return int(locals_of_fit().get("initial_epoch") or 0)


def initial_epoch(model: Any) -> int:
    """Return the epoch that the `fit` that is calling begins with, after a resume too."""
    restored = getattr(model, "_initial_epoch", None)
    return int(restored) if restored else first_epoch()


def set_initial_epoch(model: Any, epoch: int | None) -> None:
    """Tell `fit` where to begin; it reads this right after `on_train_begin`."""
    model._initial_epoch = epoch


def step_result(arguments: tuple[Any, ...], logs: dict[str, float]) -> Any:
    """Return what a step gives back to `fit`: on jax the logs and the state."""
    return (logs, arguments[0]) if len(arguments) == 2 else logs
