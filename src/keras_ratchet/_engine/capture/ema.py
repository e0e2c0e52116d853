"""Which weights the last validation scored: under SwapEMAWeights the moving averages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from keras_ratchet import _backends
from keras_ratchet._engine.capture.best_weights import preserved
from keras_ratchet._keras.ema import ema_pairs, forget_swap, is_swapped
from keras_ratchet.types import Model


def scores_averages(swap: Any, metric: str) -> bool:
    """Return whether `metric` was measured on averaged weights."""
    return swap is not None and (metric.startswith("val_") or swap.swap_on_epoch)


def scored_sources(model: Model, swap: Any, metric: str) -> dict[int, Any]:
    """Return where to capture variables from whose scored value lies elsewhere, by their ids.

    The scored value of a weight lies in the slot of its average, or, while the two are swapped,
    the other way round. So weights and slots are captured as if nothing had been swapped.

    Args:
        model: The model, at the end of an epoch.
        swap: The `SwapEMAWeights` of the callback list, or None.
        metric: Name of the metric that the score is.
    """
    if not scores_averages(swap, metric):
        return {}
    pairs = ema_pairs(model.optimizer)
    if is_swapped(swap):
        return {id(average): weight for weight, average in pairs}
    return {id(weight): average for weight, average in pairs}


def mark_not_swapped(swap: Any) -> None:
    """Mark a SwapEMAWeights, if there is one, as not swapped: the weights were set."""
    if swap is not None:
        forget_swap(swap)


def reset_averages(model: Model) -> None:
    """Set the averages to the weights.

    On JAX `fit` copies the averages over the weights when an exception leaves it, too.
    """
    backend = _backends.current()
    for weight, average in ema_pairs(getattr(model, "optimizer", None)):
        backend.assign(average, backend.view(weight).copy())


@contextlib.contextmanager
def averages_as_weights(model: Model, swap: Any) -> Iterator[None]:
    """Give the model the averaged weights for as long as a save takes.

    The slots have them too meanwhile, so that training can continue from the file (Keras's own
    swap would leave the raw weights in the averages' place there).
    """
    backend = _backends.current()
    pairs = ema_pairs(model.optimizer)
    swapped = is_swapped(swap)
    with preserved(variable for pair in pairs for variable in pair):
        for weight, slot in pairs:
            averages = backend.view(weight if swapped else slot).copy()
            backend.assign(weight, averages)
            backend.assign(slot, averages)
        yield
