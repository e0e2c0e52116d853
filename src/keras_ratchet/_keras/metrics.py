"""What a model's metrics are called, which way is better, and what weighs its losses.

| name | for | checked on |
|---|---|---|
| `Accuracy._direction` | min or max | 3.12 to 3.16 |
| `compile_utils.CompileMetrics` | metrics inside others | 3.12 to 3.16 |
| `compile_utils.MetricsList` | metrics inside others | 3.12 to 3.16 |
| `CompileMetrics._user_metrics` | their names | 3.12 to 3.16 |
| `CompileMetrics._user_weighted_metrics` | their names | 3.12 to 3.16 |
| `CompileMetrics._flat_metrics`, `MetricsList.output_name` | names in the logs | 3.12 to 3.16 |
| `CompileMetrics._flat_weighted_metrics` | names in the logs | 3.12 to 3.16 |
| `Trainer._compile_config` | the weights of several losses | 3.12 to 3.16 |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from keras_ratchet.types import Model


def metrics_are_known(model: Model, names: Iterable[str] | None = None) -> bool:
    """Return whether every metric object of the model exists by now that `names` may stand for.

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
    """Return whether one of the metrics given to `compile` may get this name."""
    import keras

    for given in keras.tree.flatten([unbuilt._user_metrics, unbuilt._user_weighted_metrics]):
        key = given if isinstance(given, str) else getattr(given, "name", None)
        key = key or getattr(given, "__name__", None)
        if given is not None and (key is None or _may_be(name, key)):
            return True
    return False


def _may_be(name: str, key: str) -> bool:
    """Return whether `name` in the logs may be metric `key`, with or without output and `val_`."""
    return name == key or name.endswith(f"_{key}")


def names_in_logs(model: Model) -> set[str]:
    """Return the names that the logs of `fit` will have, as far as they are known by now."""
    from keras.src.trainers import compile_utils

    names = {"loss"}
    for metric in getattr(model, "metrics", None) or ():
        if isinstance(metric, compile_utils.CompileMetrics):
            names |= _names_by_output(metric)
        else:
            names |= {each.name for each in getattr(metric, "metrics", [metric])}
    return names | {f"val_{name}" for name in names}


def _names_by_output(compiled: Any) -> set[str]:
    """Return the names in the logs of what `compile` was given; none before they are built."""
    if not compiled.built:
        return set()
    lists = [*compiled._flat_metrics, *compiled._flat_weighted_metrics]
    return {
        f"{each.output_name}_{metric.name}" if each.output_name else metric.name
        for each in lists
        if each is not None
        for metric in each.metrics
    }


def metric_direction(model: Model, name: str) -> str | None:
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


def is_metric(model: Model, name: str) -> bool:
    """Return whether `name` in the logs may be a loss or a metric of the model, once they exist."""
    name = name.removeprefix("val_")
    return name.endswith("loss") or any(_may_be(name, m.name) for m in _metric_objects(model))


def is_training_metric(model: Model, name: str) -> bool:
    """Return whether `name` is the loss or a compiled metric, averaged over the training epoch."""
    return name == "loss" or any(metric.name == name for metric in _metric_objects(model))


def is_running_mean(model: Model, name: str) -> bool:
    """Return whether `name` in the logs of a batch is the mean over the epoch so far.

    So it is if the model's metric of this name is a mean that has counted something; a
    `train_step` of one's own may log the batch's loss itself.
    """
    import keras

    means = (m for m in _metric_objects(model) if m.name == name and hasattr(m, "count"))
    return any(float(keras.ops.convert_to_numpy(metric.count)) > 0 for metric in means)


def sample_counts(model: Model) -> dict[str, float]:
    """Return on how many samples the model's means were measured so far, by the metric's name."""
    import keras

    counted = (m for m in _metric_objects(model) if isinstance(m, keras.metrics.Mean))
    return {m.name: float(keras.ops.convert_to_numpy(m.count)) for m in counted}


def _metric_objects(model: Model) -> Iterator[Any]:
    from keras.src.trainers import compile_utils

    for metric in getattr(model, "metrics", None) or ():
        if isinstance(metric, compile_utils.CompileMetrics | compile_utils.MetricsList):
            yield from metric.metrics
        else:
            yield metric


def loss_weights(model: Model) -> Any:
    """Return the `loss_weights` that `compile` was given, or None."""
    config = getattr(getattr(model, "_compile_config", None), "config", None) or {}
    return config.get("loss_weights")
