"""FILES: how a model becomes a file, one module per format.

Which class writes a suffix is decided here, in `format_of`. Listings, the names of files of earlier
runs, and the commands have lists of suffixes of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from keras_ratchet._formats.base import Format
from keras_ratchet._formats.keras_archive import KerasArchive
from keras_ratchet._formats.legacy_h5 import LegacyH5
from keras_ratchet._formats.trainable_h5 import TrainableH5
from keras_ratchet._formats.weights_h5 import WeightsH5

Holds = Literal["model", "weights", "trainable"]
_FORMATS: dict[str, Callable[[], Format]] = {
    ".weights.h5": WeightsH5,
    ".keras": KerasArchive,
    ".h5": LegacyH5,
}


def format_of(path: str, holds: Holds = "weights") -> Format | None:
    """Return a new object for the format that the suffix of a path names, or None.

    Args:
        path: The file, or its template.
        holds: What a `.weights.h5` file has in it: weights, or of these what trains, or the whole
            model, in which case it counts, as in Keras, as `.h5`.

    Example:
        >>> format_of("best.weights.h5").suffix
        '.weights.h5'
    """
    if holds == "trainable" and path.endswith(TrainableH5.suffix):
        return TrainableH5()
    suffixes = [suffix for suffix in _FORMATS if not (holds == "model" and suffix == ".weights.h5")]
    return next((_FORMATS[suffix]() for suffix in suffixes if path.endswith(suffix)), None)
