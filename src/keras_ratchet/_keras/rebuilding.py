"""Whether the layers in a model's file can be made again from what the file says of them.

| name | for | checked on |
|---|---|---|
| `global_state.get_global_attribute` | numbers in layers' names | 3.12 to 3.16 |
| `global_state.set_global_attribute` | numbers in layers' names | 3.12 to 3.16 |
| `naming['object_name_uids']` | numbers in layers' names | 3.12 to 3.16 |
| `Layer._flatten_layers` | the layers of a config | 3.12 to 3.16 |

Keras tells only when a file is loaded, which may be after the weeks that training took.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from keras_ratchet.types import Model

_MOST_WEIGHTS = 1_000_000  # a layer that is larger may load a network of its own when it is made
RUNS_CODE = ("Lambda", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer")


def own_layers(model: Model) -> list[Any]:
    """Return one layer of each class that is not Keras's, small ones only."""
    found: dict[type, Any] = {}
    for layer in _in_config(model):
        if not _is_of_keras(layer) and _size(layer) <= _MOST_WEIGHTS:
            found.setdefault(type(layer), layer)
    return list(found.values())


def layers_that_run_code(model: Model) -> list[str]:
    """Return the classes of layers that Keras makes again only with `safe_mode=False`."""
    names = dict.fromkeys(type(layer).__name__ for layer in _in_config(model))
    return [name for name in names if name in RUNS_CODE]


def _in_config(model: Any) -> Iterator[Any]:
    """Yield the layers that a model's config tells of; a user's class makes its own by itself."""
    if _is_of_keras(model):
        for layer in model._flatten_layers(include_self=False, recursive=False):
            yield layer
            yield from _in_config(layer)


def _is_of_keras(layer: Any) -> bool:
    return type(layer).__module__.partition(".")[0] == "keras"


def _size(layer: Any) -> int:
    return sum(math.prod(map(int, weight.shape)) for weight in layer.weights)


def complaint(layer: Any, classes: list[type]) -> str | None:
    """Return why a layer cannot be made from its config, or None; it gets no weights.

    Args:
        layer: A layer.
        classes: The classes that its config may name beside Keras's own.
    """
    import keras

    known = {name: kind for kind in classes for name in _names(kind)}
    with _names_kept():
        try:
            config = _without_builds(keras.saving.serialize_keras_object(layer))
            keras.saving.deserialize_keras_object(config, known, safe_mode=False)
        except Exception as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return f"{type(error).__name__}: {lines[-1] if lines else ''}"
    return None


def _names(kind: type) -> tuple[str, str]:
    import keras

    return kind.__name__, keras.saving.get_registered_name(kind)


def _without_builds(config: Any) -> Any:
    """Return a config without what tells to build: that would make weights."""
    if isinstance(config, dict):
        return {k: _without_builds(v) for k, v in config.items() if k != "build_config"}
    if isinstance(config, list):
        return [_without_builds(each) for each in config]
    return config


@contextlib.contextmanager
def _names_kept() -> Iterator[None]:
    """Keep layers that are made meanwhile out of the numbering of later ones."""
    from keras.src.backend.common import global_state

    name = "object_name_uids"
    before = global_state.get_global_attribute(name)
    kept = None if before is None else before.copy()
    try:
        yield
    finally:
        global_state.set_global_attribute(name, kept)
