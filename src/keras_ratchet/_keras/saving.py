"""What Keras's saver writes for a model, without writing it.

| name | for | checked on |
|---|---|---|
| `saving_lib._save_state` | a model's parts | 3.12 to 3.16 |
| `_save_state:saveable` | a model's parts | 3.12 to 3.16 |
| `_save_state:inner_path` | a model's parts | 3.12 to 3.16 |
| `saving_lib.H5IOStore` | the same; left out where it is false | 3.12 to 3.16 |
| `saving_lib.get_attr_skipset` | whether they have changed | 3.12 to 3.16 |
| `Model._layers` | whether they have changed | 3.12 to 3.16 |
| `KerasSaveable._obj_type` | whether they have changed | 3.12 to 3.16 |
| `keras_saveable.KerasSaveable` | what the saver looks for | 3.12 to 3.16 |
| `saving_lib._serialize_model_as_json` | `config.json`, `metadata.json` | 3.12 to 3.16 |

Keras's saver reads a model and writes a file in one go. Here its walk only notes what lies where,
and the file is written later, perhaps on another thread; `tests/formats/test_zoo.py` compares the
files byte for byte with Keras's own, on every version that is tested.

The walk is Keras's own, watched through a set that it fills, and not a copy of it: how it names
what lies in containers differs from version to version (since 3.16 it enters nested ones, and no
sets any more), and a copy would have to follow each.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_ratchet._keras.anatomy import is_layer, is_variable, own_weights
from keras_ratchet._keras.distribution import undistributed
from keras_ratchet._keras.legacy_h5 import repair_compile_config
from keras_ratchet._keras.marks import Marks, are_same
from keras_ratchet.types import Model


def has_own_saving(model: Model, method: str) -> bool:
    """Return whether the model's class overrides `save` or `save_weights`."""
    import keras

    return getattr(type(model), method, None) is not getattr(keras.Model, method)


@dataclass(frozen=True, slots=True)
class Part:
    """An object that Keras's saver comes to: the model, a layer, an optimizer.

    Attributes:
        path: Its place in the file; "" for the model itself.
        owner: The object.
    """

    path: str
    owner: Any

    @property
    def name(self) -> str | None:
        """The object's name, which the file tells too, if it has one."""
        name = getattr(self.owner, "name", None)
        return name if isinstance(name, str) else None

    @property
    def saves(self) -> bool:
        """Whether the object saves variables."""
        return hasattr(self.owner, "save_own_variables")


@dataclass(frozen=True, slots=True)
class Parts:
    """What Keras's saver finds in a model, in its order.

    Attributes:
        found: All objects.
        links: How each was linked when `are_those_of` last looked: as long as that stays the
            same, so does what is found.
    """

    found: tuple[Part, ...]
    links: list[Links]

    @property
    def savers(self) -> list[Part]:
        """The objects that save variables."""
        return [part for part in self.found if part.saves]

    @property
    def with_assets(self) -> list[Part]:
        """The objects that save files."""
        return [part for part in self.found if hasattr(part.owner, "save_assets")]

    def are_those_of(self, model: Model) -> bool:
        """Return whether the model still has these parts; far faster than another walk."""
        if self.found[0].owner is not model:
            return False
        for i, (part, links) in enumerate(zip(self.found, self.links, strict=True)):
            if not links.are_those_of(part.owner):
                now = Links(part.owner)
                if not now.lead_to_the_same(links):
                    return False
                self.links[i] = now
        return True


def parts_of(model: Model) -> Parts:
    """Return what Keras's saver finds when it walks over a model.

    No object is asked for its values. The walk costs about a millisecond for each layer.
    """
    from keras.src.saving import saving_lib

    class Nothing(saving_lib.H5IOStore):  # type: ignore[misc]
        """Stands for the file; because it is false, the saver only walks."""

        def __init__(self) -> None:
            pass

        def __bool__(self) -> bool:
            return False

    visited = _Visited()
    with undistributed():
        saving_lib._save_state(model, Nothing(), None, "", visited)
        found = tuple(visited.found)
        return Parts(found, [Links(part.owner) for part in found])


class _Visited(set[int]):
    """The set to which `_save_state` adds each object that it comes to; its frame tells which."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Part] = []

    def add(self, identity: int) -> None:
        super().add(identity)
        seen = sys._getframe(1).f_locals
        self.found.append(Part(seen["inner_path"], seen["saveable"]))


class Links:
    """What an object refers to, where the saver looks for more.

    Args:
        owner: The object.

    Attributes:
        marks: The object's attributes.
    """

    __slots__ = ("_containers", "_inside", "_to", "marks")

    def __init__(self, owner: Any) -> None:
        from keras.src.saving.keras_saveable import KerasSaveable

        self.marks = Marks(owner)
        kinds = (KerasSaveable, list, dict, tuple, set)
        skipped = _skipped(owner._obj_type())
        found = {k: v for k, v in vars(owner).items() if k not in skipped and isinstance(v, kinds)}
        values = list(found.values())
        self._containers: list[Any] | None = [v for v in values if not isinstance(v, KerasSaveable)]
        if hasattr(owner, "layers"):
            values.append(owner.layers)
            if _lists_layers(owner):
                self._containers.append(owner._layers)
            else:
                self._containers = None
        self._inside = [list(_items(each)) for each in self._containers or ()]
        if any(isinstance(item, kinds[1:]) and item for inner in self._inside for item in inner):
            self._containers = None  # one in another
        self._to = *found, len(values), *_identities(values, kinds)

    def are_those_of(self, owner: Any) -> bool:
        """Return whether the object's attributes are the same, and what is in containers.

        If it cannot be said so soon, the answer is no.
        """
        if self._containers is None or not self.marks.are_those_of(owner):
            return False
        return all(map(are_same, self._inside, map(_items, self._containers)))

    def lead_to_the_same(self, other: Links) -> bool:
        """Return whether the saver finds the same, whatever else has changed."""
        return self._to == other._to


def _items(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def _lists_layers(owner: Any) -> bool:
    """Return whether what an object has as `layers` is what Keras makes of its list of them."""
    member = getattr(type(owner), "layers", None)
    getter = getattr(member, "fget", None)
    return getattr(getter, "__module__", "").startswith("keras.src.")


def _identities(waiting: list[Any], kinds: tuple[type, ...]) -> Iterator[int]:
    """Yield the identities of objects, and of those in containers of any depth."""
    seen: dict[int, Any] = {}
    while waiting:
        value = waiting.pop()
        if isinstance(value, kinds[0]):
            yield id(value)
        elif value and id(value) not in seen:
            seen[id(value)] = value
            yield len(value)
            waiting += [each for each in _items(value) if isinstance(each, kinds)]


@functools.cache
def _skipped(kind: str) -> frozenset[str]:
    """Return the attributes in which the saver does not look; torch keeps layers in one of them."""
    from keras.src.saving import saving_lib

    return frozenset(saving_lib.get_attr_skipset(kind)) - {"_modules"}


def own_values(owner: Any) -> dict[str, Any]:
    """Return what an object saves of its own, by key: variables, tensors, arrays.

    Keras's own objects change nothing meanwhile, so their variables can be read later. Others
    may (swap averages in, fill one array again and again), so what they save is copied at once,
    as Keras's file would do.
    """
    import keras

    base = getattr(keras.optimizers.Optimizer, "save_own_variables", None)
    if getattr(type(owner), "save_own_variables", None) is base:
        return {str(i): v for i, v in enumerate(owner.variables)}  # Keras's would copy each
    by_keras = owner.save_own_variables.__module__.startswith("keras.src.")
    values: dict[str, Any] = {} if by_keras else _Copies()
    owner.save_own_variables(values)
    return values


class OwnValues:
    """What the objects of one model save, asked for again only where something has changed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Marks, list[Any], dict[str, Any]]] = {}

    def of(self, owner: Any, marks: Marks) -> dict[str, Any]:
        """Return what `own_values` does.

        Only layers of Keras's own that save nothing but variables are not asked again. Of these
        it depends on their attributes and on their lists of variables.

        Args:
            owner: The object.
            marks: Its attributes.
        """
        known = self._known.get(id(owner))
        if known is not None and known[0] is marks and are_same(known[1], own_weights(owner)):
            return known[2]
        values = own_values(owner)
        if is_layer(owner) and type(values) is dict and all(map(is_variable, values.values())):
            self._known[id(owner)] = marks, own_weights(owner), values
        else:
            self._known.pop(id(owner), None)
        return values


class _Copies(dict[str, Any]):
    """Stands for the file, for an object that is not Keras's own, and copies what it is given."""

    def __setitem__(self, key: str, value: Any) -> None:
        import keras

        super().__setitem__(key, np.array(keras.ops.convert_to_numpy(value)))


def assets_of(parts: Parts) -> dict[str, bytes]:
    """Return the files that a model's objects save next to variables (vocabularies), by path."""
    if not parts.with_assets:
        return {}
    with tempfile.TemporaryDirectory() as directory:
        for part in parts.with_assets:
            part.owner.save_assets(_made(directory, part.path))
        return dict(_files_below(directory, ""))


def _made(directory: str, path: str) -> str:
    target = os.path.join(directory, *path.split("/"))
    os.makedirs(target, exist_ok=True)
    return target


def _files_below(directory: str, above: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files in a directory and below it, in the order of Keras's archives."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isdir(path):
            yield from _files_below(path, f"{above}{name}/")
            continue
        with open(path, "rb") as file:
            yield above + name, file.read()


def configuration(model: Model) -> dict[str, bytes]:
    """Return the JSON members of a `.keras` archive, by name."""
    from keras.src.saving import saving_lib

    repair_compile_config(model)
    config, metadata = saving_lib._serialize_model_as_json(model)
    return {"metadata.json": metadata.encode(), "config.json": config.encode()}
