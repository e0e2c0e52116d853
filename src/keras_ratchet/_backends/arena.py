"""Memory on the host that is copied to at each save, laid out as a file wants it.

It is mapped rather than allocated, so its first byte lies at the start of a page: then it can be
handed to the disk as it is, past the page cache.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MORE_BYTES = 1 << 16
_SMALL_BYTES = 1 << 22  # memory of this size is kept, however little of it is used
_SPARE = 1 << 7  # a part of the memory that is left for what a file has besides its arrays


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where arrays lie.

    Attributes:
        offsets: Of each array, in bytes.
        sizes: Of each array, in bytes.
        total: Length of the file, or of all arrays.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    total: int


class Buffers(list[Any]):
    """What a backend copies to: anything in the list, and memory in which arrays have places.

    Attributes:
        wanted: Where a file has the arrays of the next capture, if that is known.
        places: Where the arrays of the last capture are in `memory`.
        memory: The bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wanted: Arrangement | None = None
        self.places: Arrangement | None = None
        self.memory: NDArray[np.uint8] = np.empty(0, np.uint8)

    def arrange(self, sizes: Sequence[int]) -> Arrangement:
        """Return where arrays of these sizes lie from now on: as wanted, or without gaps.

        Args:
            sizes: In bytes. If those that are wanted are others, nothing is known of the file.
        """
        wanted, sizes = self.wanted, tuple(sizes)
        if wanted is None or wanted.sizes != sizes:
            ends = tuple(itertools.accumulate(sizes, initial=0))
            wanted = Arrangement(ends[:-1], sizes, ends[-1])
        if not wanted.total <= len(self.memory) <= 4 * wanted.total + _SMALL_BYTES:
            self.memory = np.empty(0, np.uint8)  # freed first
            self.memory = _mapped(wanted.total)
        self.places = wanted
        return wanted

    def array(self, index: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return one of the arrays; it need not be aligned as its dtype would be."""
        assert self.places is not None
        start = self.places.offsets[index]
        return np.frombuffer(self.memory, dtype, math.prod(shape), start).reshape(shape)


def _mapped(size: int) -> NDArray[np.uint8]:
    """Return memory of at least some bytes; what is never written to costs nothing."""
    size += size // _SPARE + _MORE_BYTES
    if os.name == "nt":
        return np.frombuffer(mmap.mmap(-1, size), np.uint8)
    # private: a child made by `fork` that goes on saving does not write to its parent's
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)
