"""Keras's legacy `.h5` files: what its own loader and saver get wrong, done here.

| name | for | checked on |
|---|---|---|
| `model._compile_config.config` | saving a `.h5` takes the optimizer out of it | 3.12.0 to 3.15.1 |
| `legacy_h5_format.load_optimizer_weights_from_hdf5_group` | its state | 3.12.0, 3.15.1 |
| `saving_utils.try_build_compiled_arguments` | the metrics, as Keras's loader | 3.12.0, 3.15.1 |

Its loader builds the optimizer for the variables of the outermost layer alone, of which a
Sequential or functional model has none, so that the optimizer's state is dropped with a line in
the log. Keras 3.15.1 and before save `loss="mse"` and `metrics=["mae"]` as these words and do not
understand them when they load the file: it knows the functions by their long names only.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import h5py

_log = logging.getLogger("keras_ratchet")


@contextlib.contextmanager
def compile_config_kept(model: Any) -> Iterator[None]:
    """Keep what `compile` was called with, of which Keras's saver forgets the optimizer."""
    repair_compile_config(model)
    arguments = _compile_arguments(model)
    before = dict(arguments)
    try:
        yield
    finally:
        arguments.clear()
        arguments.update(before)


def repair_compile_config(model: Any) -> None:
    """Give a compiled model its optimizer back if a `.h5` save of Keras's has taken it."""
    arguments = _compile_arguments(model)
    optimizer = getattr(model, "optimizer", None)
    if arguments and "optimizer" not in arguments and optimizer is not None:
        rest = dict(arguments)
        arguments.clear()
        arguments.update({"optimizer": optimizer, **rest})


def _compile_arguments(model: Any) -> dict[str, Any]:
    config = getattr(getattr(model, "_compile_config", None), "config", None)
    return config if isinstance(config, dict) else {}


def compile_from_file(model: Any, path: str, custom_objects: Mapping[str, Any] | None) -> None:
    """Compile a model that was loaded uncompiled from a `.h5` file, and restore its optimizer.

    Args:
        model: The model.
        path: The file.
        custom_objects: Classes and functions by name.
    """
    import keras
    from keras.src.legacy.saving import legacy_h5_format, saving_utils

    with h5py.File(path, "r") as h5, keras.saving.custom_object_scope(dict(custom_objects or {})):
        text = h5.attrs.get("training_config")
        if text is None:
            _log.warning("%s does not say how its model was compiled: compile it", path)
            return
        config = json.loads(text)
        model.compile(
            optimizer=keras.optimizers.deserialize(config["optimizer_config"]),
            loss=_revived(config.get("loss"), keras.losses.deserialize),
            metrics=_revived(config.get("metrics"), keras.metrics.deserialize),
            weighted_metrics=_revived(config.get("weighted_metrics"), keras.metrics.deserialize),
            loss_weights=config.get("loss_weights"),
        )
        saving_utils.try_build_compiled_arguments(model)
        if "optimizer_weights" in h5:
            model.optimizer.build(model.trainable_variables)
            values = legacy_h5_format.load_optimizer_weights_from_hdf5_group(h5)
            model.optimizer.set_weights(values)


def _revived(config: Any, deserialize: Callable[[Any], Any]) -> Any:
    """Return what was given to `compile`; words stay words, which `compile` understands."""
    if config is None or isinstance(config, str):
        return config
    if isinstance(config, dict) and "class_name" in config:
        return deserialize(config)
    if isinstance(config, dict):
        return {name: _revived(inner, deserialize) for name, inner in config.items()}
    return [_revived(inner, deserialize) for inner in config]
