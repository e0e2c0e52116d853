"""A file's bytes in memory before they are written, most of them put there by the capture.

Where the backend copies values anyway, it copies each to the offset that it has in the file. Then
only the structure between the arrays is missing, and that stays from save to save.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Places:
    """Where a file has its arrays.

    Attributes:
        offsets: Of each array, in bytes from the start of the file.
        sizes: Of each array, in bytes.
        total: Length of the file up to the end of its structure.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    total: int


@dataclass(slots=True)
class Image:
    """Memory in which captured values lie as they do in a file.

    Attributes:
        places: Where.
        outside: The numbers of the arrays that are not there yet at each save.
        memory: The bytes, from the start of the file on; the start of a page.
    """

    places: Places
    outside: Collection[int]
    memory: NDArray[np.uint8]
    _structure: Any = field(default=None, init=False)

    def is_like(self, places: Places, outside: Collection[int], memory: NDArray[np.uint8]) -> bool:
        """Return whether this is the image that has these values at these places."""
        same = self.memory is memory and self.outside == outside
        return same and self.places == places

    def complete(
        self,
        head: bytes,
        structure: Iterable[tuple[int, memoryview]],
        copies: Iterable[tuple[int, int]],
        arrays: Sequence[NDArray[Any]],
    ) -> memoryview:
        """Fill in what is missing; return the bytes of the file.

        Args:
            head: What comes before the structure.
            structure: Offsets and bytes of the structure, the same object if it is the same.
            copies: Offsets and numbers of arrays that the file has once more.
            arrays: The arrays.
        """
        if self._structure is not structure:
            self._structure = None
            for start, piece in structure:
                self._put(start, np.frombuffer(piece, np.uint8))
            self._structure = structure
        self._put(0, np.frombuffer(head, np.uint8))
        places = [(self.places.offsets[index], index) for index in self.outside]
        for start, index in (*places, *copies):
            self._put(start, raw_bytes(arrays[index]))
        return self.memory[: self.places.total].data

    def _put(self, start: int, data: NDArray[np.uint8]) -> None:
        np.copyto(self.memory[start : start + len(data)], data)


def raw_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the memory of a contiguous array as bytes."""
    return array.reshape(-1).view(np.uint8) if array.nbytes else np.empty(0, np.uint8)
