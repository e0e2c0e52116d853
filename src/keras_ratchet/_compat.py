"""Every private Keras name that we touch, each with the versions it was checked on.

| name | for | checked on |
|---|---|---|
| `saving_lib.H5IOStore`, `._save_state` | `.weights.h5` into an open file | 3.12.0, 3.15.1 |
| `saving_lib.save_model(model, file)` | `.keras` into an open file | 3.12.0, 3.15.1 |
| `legacy_h5_format.save_model_to_hdf5` | `.h5` into an open `h5py.File` | 3.12.0, 3.15.1 |
| `Metric._direction`, `CompileMetrics`, `MetricsList` | `mode="auto"` | 3.12.0, 3.15.1 |
| `CallbackList._async_train` | batch hooks on the training thread | 3.12.0, 3.15.1 |
| `SwapEMAWeights._ema_weights_in_model`, `._swap_variables` | EMA | 3.12.0, 3.15.1 |
| `SwapEMAWeights._finalize_ema_values` | EMA | 3.12.0, 3.15.1 |
| `Optimizer._trainable_variables`, `._model_variables_moving_average` | EMA | 3.12.0, 3.15.1 |
| `io_utils.print_msg` | `verbose=1` prints as Keras does | 3.12.0, 3.15.1 |

`tests/test_compat.py` fails when one of them is gone. Keras is imported on call, never before.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any


def write_weights(model: Any, stream: Any) -> None:
    """Write what `model.save_weights` writes; `stream` passes for a `BytesIO`."""
    from keras.src.saving import saving_lib

    store = saving_lib.H5IOStore(stream, mode="w")
    try:
        saving_lib._save_state(
            model, weights_store=store, assets_store=None, inner_path="", visited_saveables=set()
        )
    finally:
        store.close()


def write_archive(model: Any, file: io.RawIOBase) -> None:
    """Write what `model.save("x.keras")` writes."""
    from keras.src.saving import saving_lib

    saving_lib.save_model(model, file)


def write_legacy(model: Any, h5: Any) -> None:
    """Write what `model.save("x.h5")` writes, into an open `h5py.File`."""
    from keras.src.legacy.saving import legacy_h5_format

    legacy_h5_format.save_model_to_hdf5(model, h5)


def has_own_saving(model: Any, method: str) -> bool:
    """Say whether the model's class overrides `save` or `save_weights`."""
    import keras

    return getattr(type(model), method, None) is not getattr(keras.Model, method)


def print_message(message: str) -> None:
    """Print as Keras's own callbacks do with `verbose=1`."""
    from keras.src.utils import io_utils

    io_utils.print_msg(message)


def metrics_are_known(model: Any) -> bool:
    """Say whether every metric object of the model exists by now."""
    from keras.src.trainers import compile_utils

    if not getattr(model, "compiled", False):
        return False
    return all(
        metric.built for metric in model.metrics if isinstance(metric, compile_utils.CompileMetrics)
    )


def metric_direction(model: Any, name: str) -> str | None:
    """Return "min" or "max" for a metric of the model by its name in the logs, or None.

    Per-output metrics are found too: `val_decoder_mae` is metric `mae` of output `decoder`.
    """
    name = name.removeprefix("val_")
    if name == "loss" or name.endswith("_loss"):
        return "min"
    known = {m.name: m for m in _metric_objects(model) if hasattr(m, "_direction")}
    fits = [key for key in known if name == key or name.endswith(f"_{key}")]
    if not fits:
        return None
    return "max" if known[max(fits, key=len)]._direction == "up" else "min"


def is_training_metric(model: Any, name: str) -> bool:
    """Say whether `name` is the loss or a compiled metric, averaged over the training epoch."""
    return name == "loss" or any(metric.name == name for metric in _metric_objects(model))


def _metric_objects(model: Any) -> Iterator[Any]:
    from keras.src.trainers import compile_utils

    for metric in getattr(model, "metrics", None) or ():
        if isinstance(metric, compile_utils.CompileMetrics | compile_utils.MetricsList):
            yield from metric.metrics
        else:
            yield metric


def calling_list() -> Any:
    """Return the `CallbackList` whose `set_model` is calling, or None.

    The list hands itself to nobody, so its frame is the one honest way to it for callbacks
    that users pass to `fit` in a plain Python list.
    """
    import keras

    frame = sys._getframe(1)
    for _ in range(8):
        if isinstance(frame.f_locals.get("self"), keras.callbacks.CallbackList):
            return frame.f_locals["self"]
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


def make_synchronous(callback_list: Any) -> None:
    """Make a list call batch hooks on the training thread.

    `CallbackList` looks for batch hooks only when it gets a Python list: with a bare
    `callbacks=cb` the hooks of torch and jax would run on pool threads.
    """
    callback_list._async_train = False


def swap_callback(callback_list: Any) -> Any:
    """Return the `SwapEMAWeights` of a callback list, or None."""
    import keras

    callbacks = getattr(callback_list, "callbacks", ())
    return next((c for c in callbacks if isinstance(c, keras.callbacks.SwapEMAWeights)), None)


def is_swapped(swap: Any) -> bool:
    """Say whether the model holds the averaged weights right now, and the slots the raw ones."""
    return bool(swap._ema_weights_in_model)


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
