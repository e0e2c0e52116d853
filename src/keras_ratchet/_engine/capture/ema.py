"""Which weights did the last validation score? With SwapEMAWeights: the averages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_ratchet import _backends
from keras_ratchet._keras.ema import ema_pairs, forget_swap, is_swapped


def averages_are_meant(swap: Any, metric: str) -> bool:
    """Say whether `metric` was measured on averaged weights."""
    return swap is not None and (metric.startswith("val_") or swap.swap_on_epoch)


def scored_sources(model: Any, swap: Any, metric: str) -> dict[int, Any]:
    """Return, for each variable whose kept value lies elsewhere, its id and that variable.

    The scored value of a weight lies in the slot of its average, or, while the two are swapped,
    the other way round. So weights and slots are kept as if nothing had been swapped.

    Args:
        model: The model, at the end of an epoch.
        swap: The `SwapEMAWeights` of the callback list, or None.
        metric: Name of the metric that the score is.
    """
    if not averages_are_meant(swap, metric):
        return {}
    pairs = ema_pairs(model.optimizer)
    if is_swapped(swap):
        return {id(average): weight for weight, average in pairs}
    return {id(weight): average for weight, average in pairs}


def restored(swap: Any) -> None:
    """Tell SwapEMAWeights that the model holds weights to go on from, not swapped ones."""
    if swap is not None:
        forget_swap(swap)


def follow(model: Any) -> None:
    """Let the averages start anew from the weights.

    On JAX `fit` copies the averages over the weights also when it is left by an exception.
    """
    backend = _backends.current()
    for weight, average in ema_pairs(getattr(model, "optimizer", None)):
        backend.assign(average, np.array(backend.view(weight)))


@contextlib.contextmanager
def holding_averages(model: Any, swap: Any) -> Iterator[None]:
    """Let the model hold the averaged weights for as long as a save takes.

    The slots hold them too meanwhile, so that training can go on from the file (Keras's own
    swap would leave the raw weights in the averages' place there).
    """
    backend = _backends.current()
    pairs = ema_pairs(model.optimizer)
    before = [(v, np.array(backend.view(v))) for pair in pairs for v in pair]
    swapped = is_swapped(swap)
    try:
        for weight, slot in pairs:
            averages = np.array(backend.view(weight if swapped else slot))
            backend.assign(weight, averages)
            backend.assign(slot, averages)
        yield
    finally:
        for variable, value in before:
            backend.assign(variable, value)
