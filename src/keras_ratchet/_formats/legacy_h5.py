"""`.h5`: the whole model in Keras's legacy HDF5 layout."""

from __future__ import annotations

import io
from typing import Any

from keras_ratchet import _compat
from keras_ratchet._formats.h5_stream import h5_file


class LegacyH5:
    """The whole-model format of Keras 2, which Keras 3 still reads and writes."""

    suffix = ".h5"

    def freeze(self, model: Any) -> Any:
        """Return the model itself: it is written in line, before training goes on."""
        return model

    def write(self, frozen: Any, file: io.RawIOBase) -> None:
        """Write the file's bytes."""
        with h5_file(file) as h5:
            _compat.write_legacy(frozen, h5)
