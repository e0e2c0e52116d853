"""`.weights.h5`: the weights and the optimizer, as `model.save_weights` writes them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from keras_ratchet._formats.base import Capture, Captured
from keras_ratchet._formats.h5_layout import Contents, LastLayout, Sketch, Sources
from keras_ratchet._keras import saving
from keras_ratchet._keras.marks import are_same
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Model


@dataclass(frozen=True, slots=True)
class FrozenGroup:
    """What one object of a model saves.

    Attributes:
        path: Where in the file.
        name: The object's name, if it has one.
        arrays: Key of each data set, and the number of its array.
    """

    path: str
    name: str | None
    arrays: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class FrozenWeights:
    """A model's weights at one moment."""

    groups: tuple[FrozenGroup, ...]
    values: Captured

    @property
    def structure(self) -> Any:
        """All that the structure of the file depends on, apart from shapes and dtypes."""
        return self.groups


_Saver = tuple[saving.Part, str | None, dict[str, Any]]


class WeightsH5:
    """Keras's weights file."""

    suffix = ".weights.h5"
    save_method = "save_weights"

    def __init__(self) -> None:
        self._parts: saving.Parts | None = None
        self._values = saving.OwnValues()
        self._savers: list[_Saver] = []
        self._frozen: tuple[tuple[FrozenGroup, ...], list[Any]] = (), []
        self._layout = LastLayout()

    def freeze(self, model: Model, capture: Capture, head_bytes: int = 0) -> FrozenWeights:
        """Return all that the file needs of the model.

        Args:
            model: A built Keras model.
            capture: Captures its values.
            head_bytes: Length of what comes before in the file.
        """
        if not model.built:
            raise ConfigError(
                "The model has not been built, so it has no weights to save. Build it first: "
                "model.build(shape), or call it on some data.",
                see="not-built",
            )
        groups, sources = self._groups(model)
        places = self._layout.places(groups, head_bytes)
        return FrozenWeights(groups, capture(sources, places))

    def _groups(self, model: Model) -> tuple[tuple[FrozenGroup, ...], list[Any]]:
        """Return what the objects save, and the variables and arrays; the last if they are same."""
        parts = self.parts(model)
        savers = [
            (part, part.name, self._values.of(part.owner, links.marks))
            for part, links in zip(parts.found, parts.links, strict=True)
            if part.saves
        ]
        if not _are_those(self._savers, savers):
            sources = Sources()
            self._frozen = (
                tuple(
                    FrozenGroup(part.path, name, tuple((k, sources.add(v)) for k, v in own.items()))
                    for part, name, own in savers
                    if own or name is not None
                ),
                sources.items,
            )
            self._savers = savers
        return self._frozen

    def parts(self, model: Model) -> saving.Parts:
        """Return the objects that a model is made of; find them again only if that has changed."""
        if self._parts is None or not self._parts.are_those_of(model):
            self._parts, self._values = saving.parts_of(model), saving.OwnValues()
        return self._parts

    def write(self, frozen: FrozenWeights, file: io.RawIOBase) -> None:
        """Write the bytes of the file."""
        self.contents(frozen).write(file)

    @property
    def last_bytes(self) -> int:
        """Length of the last file."""
        return self._layout.size

    def contents(self, frozen: FrozenWeights) -> Contents:
        """Return the bytes of the file."""

        def fill(h5: Any, sketch: Sketch, arrays: list[NDArray[Any]]) -> None:
            for group in frozen.groups:
                _fill(h5, sketch, group, arrays)
            self.finish(h5, frozen)

        return self._layout.contents(frozen.structure, frozen.values, fill)

    def finish(self, h5: Any, frozen: FrozenWeights) -> None:
        """Add to the structure of the file what Keras's own does not have: here, nothing."""


def _are_those(before: list[_Saver], savers: list[_Saver]) -> bool:
    """Return whether the same objects save the same variables under the same keys and names."""
    return len(before) == len(savers) and all(
        part is part_before
        and name == name_before
        and (
            own is own_before
            or (
                own.keys() == own_before.keys()
                and are_same([*own.values()], [*own_before.values()])
            )
        )
        for (part, name, own), (part_before, name_before, own_before) in zip(
            savers, before, strict=True
        )
    )


def _fill(h5: Any, sketch: Sketch, group: FrozenGroup, arrays: list[NDArray[Any]]) -> None:
    """Create what Keras's `H5IOStore` creates for one object, in the same order."""
    above = h5.create_group(group.path) if group.path else h5
    inner = above.create_group("vars")
    if group.name is not None:
        inner.attrs["name"] = group.name
    for key, index in group.arrays:
        array = arrays[index]
        if array.dtype.name == "bfloat16":
            sketch.put(index, array, lambda: inner.create_dataset(key, data=array))  # noqa: B023
            inner[key].attrs["dtype"] = "bfloat16"
        else:
            sketch.put(index, array, lambda: inner.__setitem__(key, array))  # noqa: B023
