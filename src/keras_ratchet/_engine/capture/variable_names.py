"""Names for the variables of a model that are the same in every build of it: their places.

| collection | variables | name |
|---|---|---|
| `model` | of the layers, SeedGenerators among them | `model/<path of the layer>/<number>` |
| `optimizer` | of all Keras optimizers | `optimizer/<name of the optimizer>/<number>` |
| `metrics` | of the metrics | `metrics/<path of the metric>/<number>` |

The path of a layer is that of Keras's own files: attributes, and classes in containers. It depends
neither on names that were made up nor on what is trainable; the number is the variable's place
among those that the layer itself owns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from keras_ratchet._engine.capture import optimizers
from keras_ratchet._keras import anatomy, saving
from keras_ratchet.types import Model

COLLECTIONS = ("model", "optimizer", "metrics")


class Places:
    """Names the variables of one model; walks over it again only when it is made of other parts."""

    def __init__(self) -> None:
        self._made_of: list[int] = []
        self._layers: dict[str, Any] = {}
        self._metrics: dict[str, Any] = {}

    def variables(self, model: Model, collections: Iterable[str] = COLLECTIONS) -> dict[str, Any]:
        """Return the variables that training changes, by name, in a fixed order.

        Args:
            model: The model.
            collections: Which of them.
        """
        self._look(model)
        named: dict[str, Any] = {}
        if "model" in collections:
            named |= _under("model", self._of_layers(model))
        if "optimizer" in collections:
            named |= _under("optimizer", optimizers.named_variables(model).items())
        if "metrics" in collections:
            own = _numbered(self._metrics, lambda metric: metric.variables)
            named |= _under("metrics", own)
        return named

    def layers(self, model: Model) -> dict[str, Any]:
        """Return the layers by path, those above others first; "" is the model."""
        self._look(model)
        return self._layers

    def _look(self, model: Model) -> None:
        layers = anatomy.layers_of(model)
        metrics = list(getattr(model, "metrics", None) or ())
        made_of = [id(model), *map(id, layers), 0, *map(id, metrics)]
        if made_of == self._made_of:
            return
        found = saving.parts_of(model).found if layers else ()
        self._layers = _by_path(found, anatomy.is_layer, layers)
        self._metrics = _by_path(found, anatomy.is_metric, metrics)
        self._made_of = made_of

    def _of_layers(self, model: Model) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for place, variable in _numbered(self._layers, anatomy.own_variables):
            seen.add(id(variable))
            yield place, variable
        rest = [v for v in getattr(model, "variables", ()) if id(v) not in seen]
        yield from ((f"more/{i:05d}", variable) for i, variable in enumerate(rest))


def _under(collection: str, places: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {f"{collection}/{place}": variable for place, variable in places}


def _by_path(found: Iterable[Any], is_kind: Any, known: Iterable[Any]) -> dict[str, Any]:
    """Return the objects of a kind that Keras's saver comes to, and those that it does not."""
    by_path = {part.path: part.owner for part in found if is_kind(part.owner)}
    seen = {id(thing) for thing in by_path.values()}
    rest = [thing for thing in known if id(thing) not in seen]
    return by_path | {f"more/{i}": thing for i, thing in enumerate(rest)}


def _numbered(owners: dict[str, Any], variables_of: Any) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    for path, owner in owners.items():
        for i, variable in enumerate(variables_of(owner)):
            if id(variable) not in seen:
                seen.add(id(variable))
                yield f"{path}/{i:05d}" if path else f"{i:05d}", variable
