"""Is this the training that was interrupted? Compared before anything is touched."""

from __future__ import annotations

from typing import Any

import keras

from keras_ratchet._engine.data_cursor import DataCursor
from keras_ratchet._engine.facts import versions
from keras_ratchet._engine.train_state import TrainState, variable_differences
from keras_ratchet._keras import data_adapters

_FATAL = ("optimizer", "layers")
_FATAL_IN_MID_EPOCH = ("batch_size", "batches_per_epoch", "data", "steps_per_execution")


def facts_of(model: Any, cursor: DataCursor) -> dict[str, Any]:
    """Return what is compared, as plain data."""
    optimizer = getattr(model, "optimizer", None)
    inner = getattr(optimizer, "inner_optimizer", None)
    return {
        "layers": [type(layer).__name__ for layer in _layers(model)],
        "optimizer": type(inner or optimizer).__name__,
        "steps_per_execution": data_adapters.steps_at_once(model),
        "versions": versions(),
        **cursor.facts(),
    }


def differences(model: Any, state: TrainState, now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the differences that forbid going on, and those that are worth a warning."""
    fatal = variable_differences(model, state.variables)
    mild: list[str] = []
    for name, value in now.items():
        before = state.facts.get(name)
        if name == "versions" or before == value or (name == "data" and before == "loop"):
            continue
        sentence = f"{name}: {before!r} when saved, {value!r} now"
        stops = name in _FATAL or (state.position.batch and name in _FATAL_IN_MID_EPOCH)
        (fatal if stops else mild).append(sentence)
    before = state.facts.get("versions", {})
    for package, version in now["versions"].items():
        if before.get(package, version) != version:
            mild.append(f"{package}: {before[package]} when saved, {version} now")
    return fatal, mild


def other_backend(state: TrainState) -> bool:
    """Say whether the state was saved on another backend than the present one."""
    return bool(state.facts.get("versions", {}).get("backend") != keras.backend.backend())


def _layers(model: Any) -> list[Any]:
    flatten = getattr(model, "_flatten_layers", None)
    return list(flatten(include_self=False)) if flatten else []
