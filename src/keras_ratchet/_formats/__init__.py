"""FILES: how a model becomes a file, one module per format."""

from __future__ import annotations

from keras_ratchet._formats.base import Format
from keras_ratchet._formats.keras_archive import KerasArchive
from keras_ratchet._formats.legacy_h5 import LegacyH5
from keras_ratchet._formats.weights_h5 import WeightsH5

_FORMATS: tuple[Format, ...] = (WeightsH5(), KerasArchive(), LegacyH5())


def format_of(path: str) -> Format | None:
    """Return the format that a file name's suffix asks for, or None.

    Example:
        >>> format_of("best.weights.h5").suffix
        '.weights.h5'
    """
    return next((form for form in _FORMATS if path.endswith(form.suffix)), None)
