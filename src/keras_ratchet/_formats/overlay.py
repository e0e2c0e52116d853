"""A `.weights.h5` file of what trains, laid over a model that has the base."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray

from keras_ratchet._formats.readers import OPTIMIZER, open_weights
from keras_ratchet._formats.trainable_h5 import places_of
from keras_ratchet._keras import anatomy, saving
from keras_ratchet.errors import LoadError
from keras_ratchet.types import Model


def lay_over(model: Model, path: str) -> list[str]:
    """Assign what such a file holds to a model; everything else keeps its value.

    Args:
        model: A built model.
        path: The file.

    Returns:
        The paths of the weights that the file does not hold.

    Raises:
        LoadError: If the file does not fit the model, which is then as it was before.
    """
    if not model.built:
        raise LoadError(
            f"the model has not been built, so {path!r} cannot be laid over it.", see="does-not-fit"
        )
    parts = {part.path: part.owner for part in saving.parts_of(model).savers}
    plan = _Plan(path)
    for place, values in _groups_of(path).items():
        plan.add(place, parts.get(place), values)
    plan.carry_out()
    layers = (owner for owner in parts.values() if anatomy.is_layer(owner))
    own = {id(v): v for layer in layers for v in anatomy.own_weights(layer)}
    return [variable.path for identity, variable in own.items() if identity not in plan.covers]


def _groups_of(path: str) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the arrays of a file, by the path of their object and by key."""
    groups: dict[str, dict[str, NDArray[Any]]] = {}
    with open_weights(path) as weights:
        for weight in weights:
            above, _, key = weight.key.rpartition("/")
            groups.setdefault(above.removesuffix("vars").rstrip("/"), {})[key] = weight.read()
    return groups


class _Plan:
    """What is to be assigned; nothing is before everything is known to fit.

    Attributes:
        covers: The identities of the variables that get a value.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._assignments: list[tuple[Any, NDArray[Any]]] = []
        self._loaders: list[tuple[Any, dict[str, NDArray[Any]]]] = []
        self.covers: set[int] = set()

    def add(self, place: str, owner: Any, values: dict[str, NDArray[Any]]) -> None:
        """Plan to give an object its values, or raise."""
        if owner is None:
            if OPTIMIZER not in place.split("/"):  # a model that is not compiled has none
                raise self._misfit(f"it has values for {place!r}, which the model does not have")
            return
        is_layer = anatomy.is_layer(owner)
        if is_layer and not owner.built:
            raise self._misfit(f"{owner.name!r} has not been built (call the model on some data)")
        places, are_variables = places_of(owner) if is_layer else _saved_by(owner)
        if not are_variables or (anatomy.is_optimizer(owner) and len(places) != len(values)):
            # An optimizer for other variables keeps its values, and warns if it has been built.
            buffers = anatomy.torch_buffers(owner).keys()
            only_buffers = bool(buffers) and values.keys() <= buffers
            rest = places if only_buffers else {}  # a torch module takes all or nothing
            self._loaders.append((owner, {**rest, **values}))
            if is_layer and not only_buffers:
                self.covers |= set(map(id, anatomy.own_weights(owner)))
            return
        for key, value in values.items():
            self._assign(f"{place}/{key}".lstrip("/"), places.get(key), value)

    def _assign(self, place: str, variable: Any, value: NDArray[Any]) -> None:
        if variable is None:
            raise self._misfit(
                f"it has a value for {place!r}, where the model has no variable (LoRA has "
                "to be enabled, and the model quantized, as they were at the save)"
            )
        if tuple(variable.shape) != value.shape:
            raise self._misfit(
                f"{variable.path!r} has the shape {tuple(variable.shape)}, and in the file "
                f"{value.shape}"
            )
        self._assignments.append((variable, value))
        self.covers.add(id(variable))

    def carry_out(self) -> None:
        """Assign all values; if an object refuses its own, all get back what they had."""
        owned = [variable for owner, _ in self._loaders for variable in owner.variables]
        before = [(variable, anatomy.value_of(variable)) for variable in owned]
        try:
            for owner, values in self._loaders:
                _load(owner, values)
        except Exception as error:
            for variable, value in before:
                variable.assign(value)
            raise self._misfit(f"{type(error).__name__}: {error}") from error
        for variable, value in self._assignments:
            variable.assign(value)

    def _misfit(self, what: str) -> LoadError:
        return LoadError(
            f"{self._path!r} does not fit the model: {what}. Nothing was changed.",
            see="does-not-fit",
        )


def _load(owner: Any, values: dict[str, NDArray[Any]]) -> None:
    """Let an object load its own values.

    An optimizer that has not been built has nothing to load into, and need not: who loads weights
    to evaluate them or to train anew has compiled the model and no more. Keras would warn that it
    skips this optimizer. One that is built for other variables does warn: its state is in use.
    """
    with warnings.catch_warnings():
        if anatomy.is_optimizer(owner) and not owner.built:
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        owner.load_own_variables(values)


def _saved_by(owner: Any) -> tuple[dict[str, Any], bool]:
    """Return what an object that is no layer saves, and whether that is variables only."""
    saved = saving.own_values(owner)
    return saved, all(map(anatomy.is_variable, saved.values()))
