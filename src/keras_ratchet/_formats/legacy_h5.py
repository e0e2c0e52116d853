"""`.h5`: the whole model in Keras's legacy HDF5 layout."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from keras_ratchet._formats.base import Capture, Captured
from keras_ratchet._formats.h5_layout import LastLayout, Sketch, Sources
from keras_ratchet._keras import legacy_h5
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Model


@dataclass(frozen=True, slots=True)
class FrozenLegacyGroup:
    """What one layer, or the optimizer, saves: path and array number of each variable."""

    path: str
    arrays: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class FrozenLegacy:
    """A model at one moment."""

    attributes: tuple[tuple[str, Any], ...]
    layer_names: tuple[str, ...]
    groups: tuple[FrozenLegacyGroup, ...]
    values: Captured


class LegacyH5:
    """The whole-model format of Keras 2, which Keras 3 still reads and writes."""

    suffix = ".h5"
    save_method = "save"

    def __init__(self) -> None:
        self._layout = LastLayout()

    def freeze(self, model: Model, capture: Capture) -> FrozenLegacy:
        """Return all that the file needs of the model."""
        sources = Sources()
        groups = tuple(
            FrozenLegacyGroup(g.path, tuple((str(v.path), sources.add(v)) for v in g.variables))
            for g in legacy_h5.groups_of(model)
        )
        _check_names(groups)
        attributes = tuple(legacy_h5.attributes_of(model))
        layer_names = tuple(layer.name for layer in model.layers)
        places = self._layout.places((attributes, layer_names, groups))
        return FrozenLegacy(attributes, layer_names, groups, capture(sources.items, places))

    def write(self, frozen: FrozenLegacy, file: io.RawIOBase) -> None:
        """Write the bytes of the file."""

        def fill(h5: Any, sketch: Sketch, arrays: list[NDArray[Any]]) -> None:
            legacy_h5.write_header(h5, frozen.attributes, frozen.layer_names)
            for group in frozen.groups:
                _fill(h5, sketch, group, arrays)

        structure = frozen.attributes, frozen.layer_names, frozen.groups
        self._layout.contents(structure, frozen.values, fill).write(file)


def _check_names(groups: Iterable[FrozenLegacyGroup]) -> None:
    """Raise a ConfigError if two variables have the same name, which HDF5 cannot store."""
    for group in groups:
        counts = Counter(name for name, _ in group.arrays)
        name, times = max(counts.items(), key=lambda item: item[1], default=("", 0))
        if times > 1:
            raise ConfigError(
                f"A .h5 file cannot store {times} variables with one name, {name!r} in "
                f"{group.path!r}. Save to a '.keras' file, or give them different names.",
                see="not-savable",
            )


def _fill(h5: Any, sketch: Sketch, group: FrozenLegacyGroup, arrays: list[NDArray[Any]]) -> None:
    """Create what Keras creates for one layer, or for the optimizer, in the same order."""
    inner = h5.create_group(group.path)
    legacy_h5.write_names(inner, "weight_names", [name for name, _ in group.arrays])
    for name, index in group.arrays:
        array = arrays[index]
        dataset = inner.create_dataset(name.encode("utf8"), array.shape, dtype=array.dtype)
        place = () if not array.shape else slice(None)
        sketch.put(index, array, lambda: dataset.__setitem__(place, array))  # noqa: B023
