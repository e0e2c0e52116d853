"""Moving averages of weights: the optimizer's, and `SwapEMAWeights`.

| name | for | checked on |
|---|---|---|
| `SwapEMAWeights._ema_weights_in_model` | swapping | 3.12 to 3.16 |
| `SwapEMAWeights._swap_variables` | swapping | 3.12 to 3.16 |
| `SwapEMAWeights._finalize_ema_values` | the end of the last epoch | 3.12 to 3.16 |
| `BaseOptimizer._trainable_variables` | the weights | 3.12 to 3.16 |
| `BaseOptimizer._model_variables_moving_average` | their averages, in this order | 3.12 to 3.16 |
"""

from __future__ import annotations

from typing import Any

from keras_ratchet.types import CallbackList


def swap_callback(callback_list: CallbackList) -> Any:
    """Return the `SwapEMAWeights` of a callback list, or None."""
    import keras

    callbacks = getattr(callback_list, "callbacks", ())
    return next((c for c in callbacks if isinstance(c, keras.callbacks.SwapEMAWeights)), None)


def is_swapped(swap: Any) -> bool:
    """Return whether the model holds the averaged weights now, and the slots the raw ones."""
    return bool(swap._ema_weights_in_model)


def forget_swap(swap: Any) -> None:
    """Make `is_swapped` false without swapping: the weights have been set from elsewhere."""
    swap._ema_weights_in_model = False


def finish_swap(swap: Any) -> None:
    """Do what SwapEMAWeights(swap_on_epoch=True) does at the end of the last planned epoch.

    `fit` copies the averages over the weights when it ends; if training stops early while the
    two are swapped, that would restore the raw weights.
    """
    if not swap._ema_weights_in_model:
        swap._swap_variables()
        swap._ema_weights_in_model = True
    swap._finalize_ema_values()


def ema_pairs(optimizer: Any) -> list[tuple[Any, Any]]:
    """Return (weight, slot of its moving average) for an optimizer with `use_ema=True`."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    pairs: list[tuple[Any, Any]] = []
    for one in getattr(inner, "optimizers", [inner]):
        averages = getattr(one, "_model_variables_moving_average", None)
        if getattr(one, "use_ema", False) and averages:
            pairs.extend(zip(one._trainable_variables, averages, strict=True))
    return pairs
