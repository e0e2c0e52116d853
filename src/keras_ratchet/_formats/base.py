"""What a format is: how a model becomes the bytes of one file."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray


class Held(Protocol):
    """Values taken out of a model: they stay what they are while training goes on."""

    def arrays(self) -> list[NDArray[Any]]:
        """Return the values, contiguous; may be called on any thread."""


Hold = Callable[[Sequence[Any]], Held]


class Format(Protocol):
    """One kind of file, for the saves of one model; it remembers the model's layout.

    `freeze` is called at the moment of the save and may block; `write` turns what it returned
    into bytes, on any thread, and needs nothing but that and an open file.
    """

    suffix: str

    def freeze(self, model: Any, hold: Hold) -> Any:
        """Take what the file needs out of the model.

        Args:
            model: A built Keras model.
            hold: Called once with all variables (and arrays) whose values the file needs.
        """

    def write(self, frozen: Any, file: io.RawIOBase) -> None:
        """Write the file's bytes, from the first to the last.

        Raises:
            OSError: If the file refuses a write; never anything worse.
        """


class Sources:
    """Variables and arrays, each once, in a fixed order."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._index: dict[int, int] = {}

    def add(self, item: Any) -> int:
        """Return the number of a variable or array, a new one if it was not there."""
        if id(item) not in self._index:
            self._index[id(item)] = len(self.items)
            self.items.append(item)
        return self._index[id(item)]
