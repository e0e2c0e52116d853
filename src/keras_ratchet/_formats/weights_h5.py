"""`.weights.h5`: the weights and the optimizer, as `model.save_weights` writes them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from keras_ratchet._formats.base import Capture, Captured
from keras_ratchet._formats.h5_layout import LastLayout, Sketch, Sources
from keras_ratchet._keras import saving
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


class WeightsH5:
    """Keras's weights file."""

    suffix = ".weights.h5"
    save_method = "save_weights"

    def __init__(self) -> None:
        self._parts: saving.Parts | None = None
        self._layout = LastLayout()

    def freeze(self, model: Model, capture: Capture) -> FrozenWeights:
        """Return all that the file needs of the model."""
        if not model.built:
            raise ValueError("The model has not been built, so it has no weights to save.")
        sources = Sources()
        groups = tuple(
            FrozenGroup(part.path, part.name, tuple((k, sources.add(v)) for k, v in values.items()))
            for part in self.parts(model).savers
            if (values := saving.own_values(part.owner)) or part.name is not None
        )
        return FrozenWeights(groups, capture(sources.items))

    def parts(self, model: Model) -> saving.Parts:
        """Return the objects that a model is made of; find them again only if that has changed."""
        if self._parts is None or not self._parts.are_those_of(model):
            self._parts = saving.parts_of(model)
        return self._parts

    def write(self, frozen: FrozenWeights, file: io.RawIOBase) -> None:
        """Write the bytes of the file."""
        for piece in self.pieces(frozen)[1]:
            file.write(piece)

    def pieces(self, frozen: FrozenWeights) -> tuple[int, Iterator[memoryview]]:
        """Return the length of the file in bytes, and the bytes."""
        arrays = frozen.values.arrays()

        def fill(h5: Any, sketch: Sketch) -> None:
            for group in frozen.groups:
                _fill(h5, sketch, group, arrays)

        layout = self._layout.get(frozen.groups, arrays, fill)
        return layout.size, layout.pieces(arrays)


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
