"""Have arrays changed? A digest that is cheap for data of any size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

_WHOLE_BYTES = 1 << 28  # some hundredths of a second
_ROWS = 4096


def digest_of(arrays: Iterable[NDArray[Any]]) -> str:
    """Return a digest of arrays; of one beyond 256 MiB that of rows spread over all of it.

    Arrays of Python objects, and those that lie in a file, are left out.
    """
    hasher = xxhash.xxh3_128()
    for array in arrays:
        if array.dtype.hasobject or isinstance(array, np.memmap):
            continue
        rows = array
        if array.nbytes > _WHOLE_BYTES and array.ndim:
            rows = array[np.linspace(0, len(array) - 1, _ROWS).astype(int)]
        hasher.update(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
    return str(hasher.hexdigest())
