"""`.keras`: the whole model, as `model.save` writes it."""

from __future__ import annotations

import io
from typing import Any

from keras_ratchet import _compat


class KerasArchive:
    """Keras's own format: a zip archive of config, metadata, weights and assets."""

    suffix = ".keras"

    def freeze(self, model: Any) -> Any:
        """Return the model itself: it is written in line, before training goes on."""
        return model

    def write(self, frozen: Any, file: io.RawIOBase) -> None:
        """Write the file's bytes."""
        _compat.write_archive(frozen, file)
