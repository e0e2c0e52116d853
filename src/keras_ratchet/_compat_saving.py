"""The private Keras names that saving stands on, each with the versions it was checked on.

| name | for | checked on |
|---|---|---|
| `saving_lib._save_state`, its local `saveable` | what a model is made of | 3.12.0, 3.15.1 |
| `saving_lib.H5IOStore`, `.DiskIOStore`, their `make` | the same | 3.12.0, 3.15.1 |
| `saving_lib._serialize_model_as_json` | `config.json`, `metadata.json` | 3.12.0, 3.15.1 |
| `saving_utils.model_metadata`, `keras_option_scope` | attributes of `.h5` | 3.12.0, 3.15.1 |
| `legacy_h5_format.save_attributes_to_hdf5_group` | lists of names in `.h5` | 3.12.0, 3.15.1 |

Keras's saver reads a model and writes a file in one go. Here its walk only notes what lies where,
and the file is written later, perhaps on another thread; `tests/test_zoo.py` compares the files
byte for byte with Keras's own, on every version that is tested. Keras is imported on call.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


def has_own_saving(model: Any, method: str) -> bool:
    """Say whether the model's class overrides `save` or `save_weights`."""
    import keras

    return getattr(type(model), method, None) is not getattr(keras.Model, method)


@dataclass(frozen=True, slots=True)
class Part:
    """An object of a model that saves variables of its own: a layer, an optimizer.

    Attributes:
        path: Its place in the file; "" for the model itself.
        name: Its name, which the file tells too, if it has one.
        owner: The object.
        values: What it saves, variables by their keys; None if it has to be asked each time.
    """

    path: str
    name: str | None
    owner: Any
    values: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Parts:
    """What Keras's saver finds in a model, in its order."""

    savers: tuple[Part, ...]
    with_assets: tuple[tuple[str, Any], ...]


def parts_of(model: Any) -> Parts:
    """Let Keras's saver walk over a model, and note what it comes to.

    On this one walk objects are asked for their values, which are thrown away.
    """
    from keras.src.saving import saving_lib

    class Weights(saving_lib.H5IOStore):  # type: ignore[misc]
        """Takes the place of the file; the saver asks for its kind."""

        def __init__(self) -> None:
            self.found: list[tuple[str, Any]] = []

        def __bool__(self) -> bool:
            return True

        def make(self, path: str, metadata: Any = None) -> dict[str, Any]:
            self.found.append((path, _calling_object()))
            return {}

    class Assets(saving_lib.DiskIOStore):  # type: ignore[misc]
        """Takes the place of the directory of assets."""

        def __init__(self, directory: str) -> None:
            self.found: list[tuple[str, Any]] = []
            self._directory = directory

        def make(self, path: str) -> str:
            self.found.append((path, _calling_object()))
            return _made(self._directory, path)

    with tempfile.TemporaryDirectory() as directory:
        weights, assets = Weights(), Assets(directory)
        saving_lib._save_state(model, weights, assets, "", set())
    return Parts(tuple(_part(*each) for each in weights.found), tuple(assets.found))


def _calling_object() -> Any:
    """Return the object that `_save_state` has come to: its frame called the store's `make`."""
    return sys._getframe(2).f_locals["saveable"]


def _made(directory: str, path: str) -> str:
    target = os.path.join(directory, *path.split("/")) if path else directory
    os.makedirs(target, exist_ok=True)
    return target


def _part(path: str, owner: Any) -> Part:
    import keras

    name = getattr(owner, "name", None)
    values: dict[str, Any] | None = own_values(owner)
    by_keras = type(owner).save_own_variables.__module__.startswith("keras.src.")
    if not (by_keras and all(isinstance(v, keras.Variable) for v in (values or {}).values())):
        values = None
    return Part(path, name if isinstance(name, str) else None, owner, values)


def own_values(owner: Any) -> dict[str, Any]:
    """Return what an object saves of its own, by key: variables, tensors, arrays."""
    import keras

    values: dict[str, Any] = {}
    base = getattr(keras.optimizers.Optimizer, "save_own_variables", None)
    if getattr(type(owner), "save_own_variables", None) is base:
        return {str(i): v for i, v in enumerate(owner.variables)}  # Keras's would copy each
    owner.save_own_variables(values)
    return values


def assets_of(parts: Parts) -> dict[str, bytes]:
    """Return the files that a model's objects save beside variables (vocabularies), by path."""
    if not parts.with_assets:
        return {}
    with tempfile.TemporaryDirectory() as directory:
        for path, owner in parts.with_assets:
            owner.save_assets(_made(directory, path))
        return dict(_files_below(directory))


def _files_below(directory: str) -> Iterator[tuple[str, bytes]]:
    for above, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(above, name)
            with open(path, "rb") as file:
                yield os.path.relpath(path, directory).replace(os.sep, "/"), file.read()


def configuration(model: Any) -> dict[str, bytes]:
    """Return the JSON members of a `.keras` archive, by name."""
    from keras.src.saving import saving_lib

    config, metadata = saving_lib._serialize_model_as_json(model)
    return {"metadata.json": metadata.encode(), "config.json": config.encode()}


@dataclass(frozen=True, slots=True)
class LegacyGroup:
    """A group of a legacy `.h5` file.

    Attributes:
        path: Its place in the file.
        variables: What it holds, in order; the data sets have the variables' paths for names.
    """

    path: str
    variables: tuple[Any, ...]


def legacy_groups(model: Any) -> list[LegacyGroup]:
    """Return what a `.h5` file holds beside its attributes, in Keras's order."""
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


def legacy_attributes(model: Any) -> list[tuple[str, Any]]:
    """Return the attributes of a `.h5` file: versions, and the configuration as JSON."""
    from keras.src.legacy.saving import json_utils, saving_options, saving_utils

    with saving_options.keras_option_scope(use_legacy_config=True):
        metadata = saving_utils.model_metadata(model, True)
        return [
            (key, json.dumps(value, default=json_utils.get_json_type).encode("utf8"))
            if isinstance(value, dict | list | tuple)
            else (key, value)
            for key, value in metadata.items()
        ]


def begin_legacy(
    h5: Any, attributes: Iterable[tuple[str, Any]], layer_names: Iterable[str]
) -> None:
    """Write what a `.h5` file begins with into an open `h5py.File`."""
    import keras

    for key, value in attributes:
        h5.attrs[key] = value
    weights = h5.create_group("model_weights")
    put_names(weights, "layer_names", layer_names)
    weights.attrs["backend"] = keras.backend.backend().encode("utf8")
    weights.attrs["keras_version"] = str(keras.__version__).encode("utf8")


def put_names(group: Any, attribute: str, names: Iterable[str]) -> None:
    """Write a list of names as an attribute, in pieces where HDF5 needs that."""
    from keras.src.legacy.saving import legacy_h5_format

    encoded = [name.encode("utf8") for name in names]
    legacy_h5_format.save_attributes_to_hdf5_group(group, attribute, encoded)
