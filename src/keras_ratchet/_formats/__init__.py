"""FILES: how a model becomes a file, one module per format."""

from __future__ import annotations

from keras_ratchet._formats.base import Format
from keras_ratchet._formats.keras_archive import KerasArchive
from keras_ratchet._formats.legacy_h5 import LegacyH5
from keras_ratchet._formats.weights_h5 import WeightsH5

_FORMATS: tuple[Format, ...] = (WeightsH5(), KerasArchive(), LegacyH5())


def format_of(path: str, whole: bool = False) -> Format | None:
    """Return the format that a file name's suffix asks for, or None.

    Args:
        path: The file.
        whole: Whether it is to hold the whole model: then `.weights.h5` is, as in Keras, `.h5`.

    Example:
        >>> format_of("best.weights.h5").suffix
        '.weights.h5'
    """
    formats = _FORMATS[1:] if whole else _FORMATS
    return next((form for form in formats if path.endswith(form.suffix)), None)
