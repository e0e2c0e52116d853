"""Every private Keras name that we touch, each with the versions it was checked on.

| name | for | checked on |
|---|---|---|
| `Metric._direction`, `CompileMetrics`, `MetricsList` | `mode="auto"` | 3.12.0, 3.15.1 |
| `CompileMetrics._user_metrics`, `._user_weighted_metrics` | `mode="auto"` | 3.12.0, 3.15.1 |
| `CallbackList._async_train` | batch hooks on the training thread | 3.12.0, 3.15.1 |
| `SwapEMAWeights._ema_weights_in_model`, `._swap_variables` | EMA | 3.12.0, 3.15.1 |
| `SwapEMAWeights._finalize_ema_values` | EMA | 3.12.0, 3.15.1 |
| `Optimizer._trainable_variables`, `._model_variables_moving_average` | EMA | 3.12.0, 3.15.1 |
| `global_state`'s `global_seed_generator` | seeds | 3.12.0, 3.15.1 |
| `model._initial_epoch`, `model.train_function` | where `fit` begins | 3.12.0, 3.15.1 |
| `PyDatasetAdapter.enqueuer.ready_queue` | what workers drew too early | 3.12.0, 3.15.1 |
| `Layer._flatten_layers` | BatchNormalization layers at any depth | 3.15.1 |
| `model._symbolic_build(data_batch=)` | variables before the first step | 3.12.0, 3.15.1 |
| `io_utils.print_msg` | `verbose=1` prints as Keras does | 3.12.0, 3.15.1 |

`tests/test_compat.py` fails when one of them is gone. Keras is imported on call, never before.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any

_log = logging.getLogger("keras_ratchet")


def print_message(message: str) -> None:
    """Print as Keras's own callbacks do with `verbose=1`."""
    from keras.src.utils import io_utils

    io_utils.print_msg(message)


def metrics_are_known(model: Any, names: Iterable[str] | None = None) -> bool:
    """Say whether every metric object of the model exists by now that `names` may stand for.

    On TensorFlow they are made in the first batch.

    Args:
        model: The model.
        names: Names in the logs; None stands for every metric.
    """
    from keras.src.trainers import compile_utils

    if not getattr(model, "compiled", False):
        return False
    compiled = [m for m in model.metrics if isinstance(m, compile_utils.CompileMetrics)]
    unbuilt = [metric for metric in compiled if not metric.built]
    if names is None:
        return not unbuilt
    return not any(_is_asked_for(name, metric) for metric in unbuilt for name in names)


def _is_asked_for(name: str, unbuilt: Any) -> bool:
    """Say whether one of the metrics given to `compile` may get this name."""
    import keras

    for given in keras.tree.flatten([unbuilt._user_metrics, unbuilt._user_weighted_metrics]):
        key = given if isinstance(given, str) else getattr(given, "name", None)
        key = key or getattr(given, "__name__", None)
        if given is not None and (key is None or _may_be(name, key)):
            return True
    return False


def _may_be(name: str, key: str) -> bool:
    """Say whether `name` in the logs may be metric `key`, with or without output and `val_`."""
    return name == key or name.endswith(f"_{key}")


def metric_direction(model: Any, name: str) -> str | None:
    """Return "min" or "max" for a metric of the model by its name in the logs, or None.

    Per-output metrics are found too: `val_decoder_mae` is metric `mae` of output `decoder`.
    """
    name = name.removeprefix("val_")
    if name == "loss" or name.endswith("_loss"):
        return "min"
    known = {m.name: m for m in _metric_objects(model) if hasattr(m, "_direction")}
    fits = [key for key in known if _may_be(name, key)]
    if not fits:
        return None
    return "max" if known[max(fits, key=len)]._direction == "up" else "min"


def is_metric(model: Any, name: str) -> bool:
    """Say whether `name` in the logs may be a loss or a metric of the model, once these exist."""
    name = name.removeprefix("val_")
    return name.endswith("loss") or any(_may_be(name, m.name) for m in _metric_objects(model))


def is_training_metric(model: Any, name: str) -> bool:
    """Say whether `name` is the loss or a compiled metric, averaged over the training epoch."""
    return name == "loss" or any(metric.name == name for metric in _metric_objects(model))


def is_running_mean(model: Any, name: str) -> bool:
    """Say whether `name` in the logs of a batch is the mean over the epoch so far.

    So it is if the model's metric of this name is a mean that has counted something; a
    `train_step` of one's own may log the batch's loss itself.
    """
    import keras

    means = (m for m in _metric_objects(model) if m.name == name and hasattr(m, "count"))
    return any(float(keras.ops.convert_to_numpy(metric.count)) > 0 for metric in means)


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
    callback_list._async_test = False


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


def global_seed_state(create: bool = False) -> Any:
    """Return the state variable of Keras's global seed generator, or None if there is none yet."""
    from keras.src.backend.common import global_state
    from keras.src.random import seed_generator

    if create:
        return seed_generator.global_seed_generator().state
    name = getattr(seed_generator, "GLOBAL_SEED_GENERATOR", "global_seed_generator")
    generator = global_state.get_global_attribute(name)
    return None if generator is None else generator.state


def set_initial_epoch(model: Any, epoch: int | None) -> None:
    """Tell `fit` where to begin; it reads this right after `on_train_begin`."""
    model._initial_epoch = epoch


def batch_normalizations(model: Any) -> list[Any]:
    """Return the BatchNormalization layers of a model, nested ones too."""
    import keras

    layers = model._flatten_layers(include_self=False, recursive=True)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def build(model: Any, iterator: Any, variables: bool = True) -> None:
    """Create what Keras's own `train_step` creates in the first step, before it.

    torch and jax have done so by now; tensorflow defers it to the first step. Where it cannot be
    done without data (a `call` that only runs eagerly) it is left to that step, which would fail
    in the same way if there is more to it. Batches that were drawn for it, and would be trained
    on a second time, are thrown away.

    Args:
        model: The model.
        iterator: The `EpochIterator` of `fit`, or None.
        variables: Whether there is anything to create.
    """
    _drop_drawn(iterator)
    if not variables:
        return
    optimizer = getattr(model, "optimizer", None)
    dataset = getattr(iterator, "_distributed_dataset", None)
    if dataset is not None and not (model.built and metrics_are_known(model)):
        try:
            _build_symbolically(model, dataset)
        except Exception as error:
            _log.debug("%s is built by its first step: %r", model.name, error)
            return
    layers: Any = getattr(model, "_flatten_layers", list)()
    if optimizer is not None and not optimizer.built and all(layer.built for layer in layers):
        optimizer.build(model.trainable_variables)


def _build_symbolically(model: Any, dataset: Any) -> None:
    import keras

    spec = keras.tree.map_structure(
        lambda t: keras.KerasTensor(tuple(t.shape), keras.backend.standardize_dtype(t.dtype)),
        dataset.element_spec,
    )
    model._symbolic_build(data_batch=spec)


def _drop_drawn(iterator: Any) -> None:
    """Throw away the batches that a PyDataset's workers prepared while the model was built.

    torch and jax draw one batch to learn shapes. Keras stops the workers then, but keeps what
    they had prepared, and would begin training with it, before and beside a whole epoch.
    """
    enqueuer = getattr(getattr(iterator, "data_adapter", None), "enqueuer", None)
    if enqueuer is not None and iterator.data_adapter.num_batches is not None:
        enqueuer.ready_queue.queue.clear()


def step_result(arguments: tuple[Any, ...], logs: dict[str, float]) -> Any:
    """Return what a step gives back to `fit`: on jax the logs and the state."""
    return (logs, arguments[0]) if len(arguments) == 2 else logs


def without_callbacks(callback_list: Any, callbacks: list[Any]) -> Any:
    """Put `callbacks` in the place of a list's own, on the training thread; return the undo."""
    before = callback_list.callbacks, callback_list._async_train, callback_list._async_test
    callback_list.callbacks = callbacks
    make_synchronous(callback_list)

    def undo() -> None:
        callback_list.callbacks, callback_list._async_train, callback_list._async_test = before

    return undo
