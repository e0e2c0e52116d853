"""What a file format is: how a model becomes the bytes of one file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from keras_ratchet._formats.image import Image, Places
from keras_ratchet.types import Model


class Captured(Protocol):
    """Values captured from a model: they do not change while training continues.

    Attributes:
        image: Memory in which the values lie at the places that `capture` was given, if they do.
    """

    @property
    def image(self) -> Image | None: ...

    def arrays(self) -> list[NDArray[Any]]:
        """Return the values, contiguous; may be called on any thread."""


class Capture(Protocol):
    """Captures values of a model."""

    def __call__(self, sources: Sequence[Any], places: Places | None = None) -> Captured:
        """Return the values of variables and arrays.

        Args:
            sources: The variables and arrays.
            places: Where the file will have them, if that is known.
        """


class Format(Protocol):
    """A file format, for the saves of one model: it remembers the model's layout.

    `freeze` is called at the moment of the save and may take its time; `write` turns what it
    returned into bytes, on any thread, and needs nothing but that and an open file.

    Attributes:
        suffix: What file names end in.
        save_method: Name of the method of a Keras model that writes such files: "save" for the
            whole model, "save_weights" for weights.
    """

    suffix: str
    save_method: str

    def freeze(self, model: Model, capture: Capture) -> Any:
        """Return what the file needs of the model.

        Args:
            model: A built Keras model.
            capture: Called once with all variables (and arrays) whose values the file needs.
        """

    def write(self, frozen: Any, file: io.RawIOBase) -> None:
        """Write the bytes of the file, from the first to the last.

        Raises:
            OSError: If the file refuses a write. Other errors must not crash the process.
        """
