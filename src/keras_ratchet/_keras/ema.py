"""Moving averages of weights: the optimizer's, and `SwapEMAWeights`.

| name | checked on |
|---|---|
| `SwapEMAWeights._ema_weights_in_model`, `._swap_variables` | 3.12.0 to nightly |
| `SwapEMAWeights._finalize_ema_values` | 3.12.0 to nightly |
| `Optimizer._trainable_variables`, `._model_variables_moving_average` | 3.12.0 to nightly |
"""

from __future__ import annotations

from typing import Any


def swap_callback(callback_list: Any) -> Any:
    """Return the `SwapEMAWeights` of a callback list, or None."""
    import keras

    callbacks = getattr(callback_list, "callbacks", ())
    return next((c for c in callbacks if isinstance(c, keras.callbacks.SwapEMAWeights)), None)


def is_swapped(swap: Any) -> bool:
    """Say whether the model holds the averaged weights right now, and the slots the raw ones."""
    return bool(swap._ema_weights_in_model)


def forget_swap(swap: Any) -> None:
    """Let `is_swapped` be false without swapping: somebody has set the weights."""
    swap._ema_weights_in_model = False


def finish_swap(swap: Any) -> None:
    """Do what SwapEMAWeights(swap_on_epoch=True) does at the end of the last planned epoch.

    `fit` copies the averages over the weights when it ends; if training stops early while the
    two are swapped, that would bring the raw weights back.
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
