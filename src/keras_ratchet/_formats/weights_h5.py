"""`.weights.h5`: the weights and the optimizer, as `model.save_weights` writes them."""

from __future__ import annotations

import io
from typing import Any

from keras_ratchet import _compat
from keras_ratchet._formats.h5_stream import guarded


class WeightsH5:
    """Keras's weights file."""

    suffix = ".weights.h5"

    def freeze(self, model: Any) -> Any:
        """Return the model itself: it is written in line, before training goes on."""
        return model

    def write(self, frozen: Any, file: io.RawIOBase) -> None:
        """Write the file's bytes."""
        with guarded(file) as stream:
            _compat.write_weights(frozen, stream)
