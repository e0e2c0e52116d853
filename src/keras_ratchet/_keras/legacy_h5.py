"""Keras's legacy `.h5` files: their parts, and what Keras's loader and saver get wrong.

| name | for | checked on |
|---|---|---|
| `Trainer._compile_config` | saving a `.h5` takes the optimizer out of it | 3.12 to 3.16 |
| `legacy_h5_format.load_optimizer_weights_from_hdf5_group` | the optimizer's state | 3.12 to 3.16 |
| `legacy_h5_format.save_attributes_to_hdf5_group` | lists of names | 3.12 to 3.16 |
| `saving_utils.try_build_compiled_arguments` | the metrics, as Keras's loader | 3.12 to 3.16 |
| `saving_utils.model_metadata`, `saving_options.keras_option_scope` | attributes | 3.12 to 3.16 |
| `json_utils.get_json_type` | attributes | 3.12 to 3.16 |
| `Layer._trainable_variables` | the model's own weights | 3.12 to 3.16 |
| `Layer._non_trainable_variables` | the model's own weights | 3.12 to 3.16 |

Keras's loader builds the optimizer for the variables of the outermost layer alone, of which a
Sequential or functional model has none, so that the optimizer's state is dropped with a line in
the log. Keras 3.15.1 and before save `loss="mse"` and `metrics=["mae"]` as these words and do not
understand them when they load the file: they know the functions by their long names only.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py

from keras_ratchet.types import Model

_log = logging.getLogger("keras_ratchet")


@contextlib.contextmanager
def compile_config_kept(model: Model) -> Iterator[None]:
    """Preserve the arguments of `compile`, of which Keras's saver drops the optimizer."""
    repair_compile_config(model)
    arguments = _compile_arguments(model)
    before = dict(arguments)
    try:
        yield
    finally:
        arguments.clear()
        arguments.update(before)


def repair_compile_config(model: Model) -> None:
    """Restore the optimizer of a compiled model if Keras's `.h5` save has removed it."""
    arguments = _compile_arguments(model)
    optimizer = getattr(model, "optimizer", None)
    if arguments and "optimizer" not in arguments and optimizer is not None:
        rest = dict(arguments)
        arguments.clear()
        arguments.update({"optimizer": optimizer, **rest})


def _compile_arguments(model: Model) -> dict[str, Any]:
    config = getattr(getattr(model, "_compile_config", None), "config", None)
    return config if isinstance(config, dict) else {}


def compile_from_file(model: Model, path: str, custom_objects: Mapping[str, Any] | None) -> None:
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


@dataclass(frozen=True, slots=True)
class LegacyGroup:
    """A group of a legacy `.h5` file.

    Attributes:
        path: Its place in the file.
        variables: Its variables, in order; the datasets are named by the variables' paths.
    """

    path: str
    variables: tuple[Any, ...]


def groups_of(model: Any) -> list[LegacyGroup]:
    """Return the groups of a model's `.h5` file, in Keras's order."""
    import keras

    groups = [
        LegacyGroup(
            f"model_weights/{layer.name}", (*layer.trainable_weights, *layer.non_trainable_weights)
        )
        for layer in sorted(model.layers, key=lambda layer: layer.name)
    ]
    own = [*model._trainable_variables, *model._non_trainable_variables]
    top = tuple(v for v in own if any(v is weight for weight in model.weights))
    groups.append(LegacyGroup("model_weights/top_level_model_weights", top))
    if hasattr(model, "optimizer"):
        optimizer = model.optimizer
        is_keras = isinstance(optimizer, keras.optimizers.Optimizer)
        if slots := tuple(optimizer.variables if is_keras else optimizer.weights):
            groups.append(LegacyGroup("optimizer_weights", slots))
    return groups


def attributes_of(model: Model) -> list[tuple[str, Any]]:
    """Return the attributes of a `.h5` file: versions, and the configuration as JSON."""
    from keras.src.legacy.saving import json_utils, saving_options, saving_utils

    with saving_options.keras_option_scope(use_legacy_config=True), compile_config_kept(model):
        metadata = saving_utils.model_metadata(model, True)
        return [
            (key, json.dumps(value, default=json_utils.get_json_type).encode("utf8"))
            if isinstance(value, dict | list | tuple)
            else (key, value)
            for key, value in metadata.items()
        ]


def write_header(
    h5: Any, attributes: Iterable[tuple[str, Any]], layer_names: Iterable[str]
) -> None:
    """Write what a `.h5` file starts with into an open `h5py.File`."""
    import keras

    for key, value in attributes:
        h5.attrs[key] = value
    weights = h5.create_group("model_weights")
    write_names(weights, "layer_names", layer_names)
    weights.attrs["backend"] = keras.backend.backend().encode("utf8")
    weights.attrs["keras_version"] = str(keras.__version__).encode("utf8")


def write_names(group: Any, attribute: str, names: Iterable[str]) -> None:
    """Write a list of names as an attribute, in pieces where HDF5 needs that."""
    from keras.src.legacy.saving import legacy_h5_format

    encoded = [name.encode("utf8") for name in names]
    legacy_h5_format.save_attributes_to_hdf5_group(group, attribute, encoded)
