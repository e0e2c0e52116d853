"""Is this the training that was interrupted? Compared before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_ratchet._engine.capture.extra_state import missing_extras
from keras_ratchet._engine.capture.variable_names import COLLECTIONS
from keras_ratchet._engine.resume.data_cursor import DataCursor
from keras_ratchet._engine.resume.train_state import TrainState, shape_differences
from keras_ratchet._engine.saving.provenance import versions
from keras_ratchet._keras import anatomy, data_adapters

_FATAL = ("optimizer", "layers")
_FATAL_IN_MID_EPOCH = ("batch_size", "batches_per_epoch", "data", "steps_per_execution")


def facts_of(model: Any, cursor: DataCursor) -> dict[str, Any]:
    """Return what is compared, as plain data."""
    kinds = [type(layer).__name__ for layer in anatomy.layers_of(model)[1:]]
    return {
        "layers": [kind for kind in kinds if kind != "InputLayer"],  # building may add those
        "optimizer": _kind(getattr(model, "optimizer", None)),
        "steps_per_execution": data_adapters.steps_at_once(model),
        "versions": versions(),
        **cursor.facts(),
    }


@dataclass(slots=True)
class Differences:
    """How a training differs from the one that was saved.

    Attributes:
        fatal: What forbids going on.
        mild: What is worth a warning.
        pending: Names of variables that are not there yet, and which the first step may make.
    """

    fatal: list[str] = field(default_factory=list)
    mild: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)


def differences(
    model: Any, named: Mapping[str, Any], state: TrainState, now: dict[str, Any]
) -> Differences:
    """Compare a training with the one that was saved.

    Args:
        model: The model.
        named: Its variables by place.
        state: What was saved.
        now: The facts of this training.
    """
    found = Differences(mild=missing_extras(model, state.variables))
    _compare_variables(model, named, state, found)
    for name, value in now.items():
        before = state.facts.get(name)
        if name == "versions" or before == value or (name == "data" and before == "loop"):
            continue
        sentence = f"{name}: {before!r} when saved, {value!r} now"
        stops = name in _FATAL or (state.position.batch and name in _FATAL_IN_MID_EPOCH)
        (found.fatal if stops else found.mild).append(sentence)
    before = state.facts.get("versions", {})
    for package, version in now["versions"].items():
        if before.get(package, version) != version:
            found.mild.append(f"{package}: {before[package]} when saved, {version} now")
    return found


def _compare_variables(
    model: Any, named: Mapping[str, Any], state: TrainState, found: Differences
) -> None:
    found.fatal += shape_differences(named, state.variables)
    own_step = anatomy.has_own_train_step(model)
    whole = anatomy.is_whole(model)
    for collection in COLLECTIONS:
        saved = {n for n in state.variables if n.startswith(f"{collection}/")}
        present = {n for n in named if n.startswith(f"{collection}/")}
        lacking, new = sorted(saved - present), sorted(present - saved)
        sentence = f"{collection}: {len(saved)} variables were saved, and there are {len(present)}"
        if collection == "metrics":
            if own_step and state.position.batch:
                found.pending += lacking
            elif not own_step and (lacking or new):
                # they begin with an epoch, so that nothing is lost between two
                (found.fatal if state.position.batch else found.mild).append(sentence)
            continue
        may_come = not whole if collection == "model" else own_step or not whole
        if lacking and may_come:
            found.pending += lacking
        elif lacking or (new and state.facts.get("complete", True)):
            found.fatal.append(f"{sentence} (such as {(lacking or new)[0]})")


def other_backend(state: TrainState) -> bool:
    """Say whether the state was saved on another backend than the present one."""
    return bool(state.facts.get("versions", {}).get("backend") != keras.backend.backend())


def _kind(optimizer: Any) -> str:
    return type(getattr(optimizer, "inner_optimizer", None) or optimizer).__name__
