"""`.weights.h5` of what trains: a weights file without what is frozen, to lay over a base.

It has the groups and keys of `WeightsH5`, with gaps where a weight is frozen, and in addition:

| where | what |
|---|---|
| attribute `keras_ratchet_partial` of the file | the version of this layout, 1 |
| data set `keras_ratchet_missing` | the paths of the weights that are not there, JSON in UTF-8 |
| attribute `name` of each weight | the name of its variable |
| a key that is no number | the name of a variable for which Keras's files have no place |

A number means what it means in Keras's own file. Keras merges LoRA's weights into the kernel there,
so a layer with LoRA has names only, and its values are those of its variables, unmerged.

In the file are: the variables that train; those that training changes besides, such as the moving
statistics of a BatchNormalization that is not frozen; optimizers; and what layers with a
`save_own_variables` of their own save, if they are not frozen. What was in a file once is in later
ones, too. A file that lacks nothing is Keras's own, byte for byte.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_ratchet._formats.base import Capture
from keras_ratchet._formats.h5_layout import Sources
from keras_ratchet._formats.readers import MISSING, PARTIAL
from keras_ratchet._formats.weights_h5 import FrozenGroup, FrozenWeights, WeightsH5
from keras_ratchet._keras import anatomy, saving
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Model

_CHANGED = "_keras_ratchet_changed"
_LAYERS = "_keras_ratchet_changed_layers"


@dataclass(frozen=True, slots=True)
class FrozenPartialGroup(FrozenGroup):
    """What one object saves, with the names of its variables; none for what it saves by itself."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FrozenPartialWeights(FrozenWeights):
    """What trains of a model, at one moment, and the paths of the weights that are left out."""

    missing: tuple[str, ...]

    @property
    def structure(self) -> Any:
        """All that the structure of the file depends on, apart from shapes and dtypes."""
        return self.groups, self.missing


class TrainableH5(WeightsH5):
    """Keras's weights file without what is frozen at the moment of the save."""

    def freeze(self, model: Model, capture: Capture, head_bytes: int = 0) -> FrozenWeights:
        """Return all that the file needs of the model.

        Raises:
            ConfigError: If nothing trains, or something that the file could not hold.
        """
        trains = _trainable(model)
        parts = self.parts(model).savers
        layers = [part.owner for part in parts if anatomy.is_layer(part.owner)]
        state = (id(variable) for layer in layers for variable in anatomy.changing_state(layer))
        changes = _ever_changing(model, {*trains, *state, *_made_of_changed(model, layers)})
        _note_layers(model, layers, changes)
        shares = [_Share(part, changes) for part in parts]
        if all(share.is_whole for share in shares):
            return super().freeze(model, capture, head_bytes)
        held = {id(value) for share in shares for value in share.covers}
        _check_covered(trains, held)
        sources = Sources()
        groups = tuple(share.group(sources) for share in shares if share.values)
        left_out = (left for share in shares for left in share.left_out)
        missing = tuple(path for identity, path in left_out if identity not in held)
        places = self._layout.places((groups, missing), head_bytes)
        return FrozenPartialWeights(groups, capture(sources.items, places), missing)

    def finish(self, h5: Any, frozen: FrozenWeights) -> None:
        """Say in the file what it holds, and what it does not."""
        if not isinstance(frozen, FrozenPartialWeights):
            return
        h5.attrs[PARTIAL] = 1
        h5[MISSING] = np.frombuffer(json.dumps(frozen.missing).encode(), np.uint8)
        for group in frozen.groups:
            names = getattr(group, "names", ())
            for (key, _), name in zip(group.arrays, names, strict=False):
                h5[f"{group.path}/vars/{key}"].attrs["name"] = name


def _trainable(model: Any) -> dict[int, Any]:
    """Return the variables that train, by identity."""
    if not model.built:
        raise ConfigError(
            "The model has not been built, so it has no weights to save. Build it first: "
            "model.build(shape), or call it on some data.",
            see="not-built",
        )
    found = {id(variable): variable for variable in model.trainable_variables}
    if not found:
        raise ConfigError(
            "trainable_only=True saves what trains, but all weights of the model are frozen "
            "(trainable=False).",
            see="trainable-only",
        )
    return found


def _ever_changing(model: Any, changes: set[int]) -> frozenset[int]:
    """Return the identities of the variables that change, and of those that once did.

    What is frozen again has no longer the value of the base. So the model itself remembers it.
    """
    known = _changed(model)
    if not changes <= known:
        known |= changes
        setattr(model, _CHANGED, (id(model), known))
    return known


def _changed(model: Any) -> frozenset[int]:
    """Return what the model remembers; a copy of it has other variables, and remembers nothing."""
    noted: tuple[int, frozenset[int]] = getattr(model, _CHANGED, (0, frozenset()))
    owner, known = noted
    return known if owner == id(model) else frozenset()


def _note_layers(model: Any, layers: Iterable[Any], changes: Container[int]) -> None:
    """Remember the weights of the layers that have changed, by the layer."""
    weights = {id(layer): set(map(id, anatomy.own_weights(layer))) for layer in layers}
    known = {layer: own for layer, own in weights.items() if any(i in changes for i in own)}
    setattr(model, _LAYERS, (id(model), known))


def _made_of_changed(model: Any, layers: Iterable[Any]) -> set[int]:
    """Return the weights that have taken the place of others that had changed (`quantize`)."""
    noted: tuple[int, dict[int, set[int]]] = getattr(model, _LAYERS, (0, {}))
    owner, known = noted
    if owner != id(model):
        return set()
    changed = _changed(model)
    found: set[int] = set()
    for layer in layers:
        own, before = set(map(id, anatomy.own_weights(layer))), known.get(id(layer), set[int]())
        if any(gone in changed for gone in before - own):
            found |= own - before
    return found


def changed_weights(model: Any) -> list[int]:
    """Return the numbers of the weights of a model that were in a file once, for the next run."""
    known = _changed(model)
    return [i for i, weight in enumerate(model.weights) if id(weight) in known] if known else []


def note_changed_weights(model: Any, numbers: Iterable[int]) -> None:
    """Take over what `changed_weights` returned."""
    if chosen := set(numbers):
        _ever_changing(model, {id(w) for i, w in enumerate(model.weights) if i in chosen})


def _check_covered(trains: Mapping[int, Any], held: set[int]) -> None:
    lost = [variable.path for identity, variable in trains.items() if identity not in held]
    if lost:
        raise ConfigError(
            f"{lost[0]!r} trains, but Keras's saver does not find it, so it would not be in the "
            "file. Make its layer an attribute of the model, or save without trainable_only.",
            see="trainable-only",
        )


class _Share:
    """What one object of a model has in the file.

    Attributes:
        values: What it saves, by key.
        names: The names of the variables among them, in the same order.
        covers: The variables whose values are in the file.
        left_out: The identities and paths of the others.
        is_whole: Whether this is just what Keras's own file has of the object.
    """

    def __init__(self, part: saving.Part, changes: Container[int]) -> None:
        self._part = part
        self.values: dict[str, Any] = {}
        self.names: tuple[str, ...] = ()
        self.covers: list[Any] = []
        self.left_out: list[tuple[int, str]] = []
        self.is_whole = True
        if not anatomy.is_layer(part.owner):
            self.values = saving.own_values(part.owner)
            return
        own = anatomy.own_weights(part.owner)
        if not part.owner.trainable and not any(id(variable) in changes for variable in own):
            self._leave_out(own)
            self.values = anatomy.torch_buffers(part.owner)
            self.is_whole = not own and not anatomy.saves_itself(part.owner)
            return
        places, are_variables = places_of(part.owner)
        if not are_variables:
            self.values, self.covers = places, own
            return
        self.values = {key: v for key, v in places.items() if id(v) in changes}
        self.covers = list(self.values.values())
        self.names = tuple(variable.name for variable in self.covers)
        self._leave_out(v for v in places.values() if id(v) not in changes)
        self.is_whole = not self.left_out and all(key.isdecimal() for key in places)

    def _leave_out(self, variables: Iterable[Any]) -> None:
        self.left_out += [(id(variable), str(variable.path)) for variable in variables]

    def group(self, sources: Sources) -> FrozenPartialGroup:
        """Return what the file has of the object."""
        arrays = tuple((key, sources.add(value)) for key, value in self.values.items())
        return FrozenPartialGroup(self._part.path, self._part.name, arrays, self.names)


def places_of(layer: Any) -> tuple[dict[str, Any], bool]:
    """Return the variables of a layer by their keys in a file, and True.

    Of a layer that saves anything else, return what it saves, and False. Neither depends on what is
    trainable.
    """
    own = {id(variable): variable for variable in anatomy.own_weights(layer)}
    merges = getattr(layer, "lora_enabled", False)  # what such a layer saves is no variable of it
    saved = {} if merges else saving.own_values(layer)
    if not all(map(anatomy.is_variable, saved.values())):
        return saved, False
    known = {id(variable) for variable in saved.values()}
    return {**saved, **_by_name(v for identity, v in own.items() if identity not in known)}, True


def _by_name(variables: Iterable[Any]) -> dict[str, Any]:
    """Return variables by keys that are no numbers: their names, numbered where they are equal."""
    found: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for variable in variables:
        name = f"_{variable.name}" if variable.name.isdecimal() else variable.name
        counts[name] += 1
        found[name if counts[name] == 1 else f"{name}_again_{counts[name]}"] = variable
    return found
