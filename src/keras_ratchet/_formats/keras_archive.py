"""`.keras`: the whole model, as `model.save` writes it."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

from keras_ratchet._formats.base import Hold
from keras_ratchet._formats.weights_h5 import FrozenWeights, WeightsH5
from keras_ratchet._formats.zip_stream import Forward, store
from keras_ratchet._keras import saving

_WEIGHTS = "model.weights.h5"


@dataclass(frozen=True, slots=True)
class FrozenArchive:
    """A model at one moment: configuration, assets (vocabularies), weights."""

    configuration: dict[str, bytes]
    assets: dict[str, bytes]
    weights: FrozenWeights


class KerasArchive:
    """Keras's own format: a zip archive of config, metadata, weights and assets."""

    suffix = ".keras"

    def __init__(self) -> None:
        self._weights = WeightsH5()

    def freeze(self, model: Any, hold: Hold) -> FrozenArchive:
        """Take all values out of the model."""
        configuration = saving.configuration(model)
        assets = saving.assets_of(self._weights.parts(model))
        return FrozenArchive(configuration, assets, self._weights.freeze(model, hold))

    def write(self, frozen: FrozenArchive, file: io.RawIOBase) -> None:
        """Write the file's bytes."""
        with zipfile.ZipFile(Forward(file), "w") as archive:  # type: ignore[call-overload]
            for name, data in frozen.configuration.items():
                archive.writestr(name, data)
            size, pieces = self._weights.pieces(frozen.weights)
            store(archive, _WEIGHTS, size, pieces)
            for name, data in frozen.assets.items():
                archive.writestr(f"assets/{name}", data)
