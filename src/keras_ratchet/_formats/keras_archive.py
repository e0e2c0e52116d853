"""`.keras`: the whole model, as `model.save` writes it."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

from keras_ratchet import _compat_saving
from keras_ratchet._formats.base import Hold
from keras_ratchet._formats.weights_h5 import FrozenWeights, WeightsH5

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
        configuration = _compat_saving.configuration(model)
        assets = _compat_saving.assets_of(self._weights.parts(model))
        return FrozenArchive(configuration, assets, self._weights.freeze(model, hold))

    def write(self, frozen: FrozenArchive, file: io.RawIOBase) -> None:
        """Write the file's bytes."""
        with zipfile.ZipFile(_Forward(file), "w") as archive:  # type: ignore[call-overload]
            for name, data in frozen.configuration.items():
                archive.writestr(name, data)
            size, pieces = self._weights.pieces(frozen.weights)
            member = zipfile.ZipInfo(_WEIGHTS)
            member.file_size = size
            with archive.open(member, "w") as inner:
                for piece in pieces:
                    inner.write(piece)
            for name, data in frozen.assets.items():
                archive.writestr(f"assets/{name}", data)


class _Forward:
    """A file that can only be written on: so `zipfile` puts checksums behind what they are for."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the file is not buffered."""
