"""FILES: how a model becomes a file, one module per format.

Which class writes a suffix is decided here, in `format_of`. Listings, the names of files of earlier
runs, and the commands have lists of suffixes of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from keras_ratchet._formats.base import Format
from keras_ratchet._formats.keras_archive import KerasArchive
from keras_ratchet._formats.legacy_h5 import LegacyH5
from keras_ratchet._formats.weights_h5 import WeightsH5

_FORMATS: dict[str, Callable[[], Format]] = {
    ".weights.h5": WeightsH5,
    ".keras": KerasArchive,
    ".h5": LegacyH5,
}


def format_of(path: str, whole: bool = False) -> Format | None:
    """Return a new object for the format that the suffix of a path names, or None.

    Args:
        path: The file, or its template.
        whole: Whether the file holds the whole model: `.weights.h5` then counts, as in Keras, as
            `.h5`.

    Example:
        >>> format_of("best.weights.h5").suffix
        '.weights.h5'
    """
    suffixes = [suffix for suffix in _FORMATS if not (whole and suffix == ".weights.h5")]
    return next((_FORMATS[suffix]() for suffix in suffixes if path.endswith(suffix)), None)
