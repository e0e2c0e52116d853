"""Values of variables captured at one moment, as cheaply as the backend can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._backends import Foreign, Resolve
from keras_ratchet._backends.slices import in_order


@dataclass(frozen=True, slots=True)
class Values:
    """Captured values of variables and arrays.

    Attributes:
        sources: The variables and arrays, in order.
    """

    sources: tuple[Any, ...]
    _of_variables: Resolve
    _others: dict[int, NDArray[Any]]

    def arrays(self) -> list[NDArray[Any]]:
        """Return the values, contiguous, in the order of `sources`; on any thread."""
        variables = iter(self._of_variables())
        return [
            in_order(self._others[i] if i in self._others else next(variables))
            for i in range(len(self.sources))
        ]


class VariableBuffers:
    """Captures the values of variables, for the saves of one callback."""

    def __init__(self) -> None:
        self._buffers: list[Any] = []

    def capture(self, sources: Sequence[Any], background: bool) -> Values:
        """Capture the values of variables; copy arrays and tensors.

        Args:
            sources: Variables, arrays, tensors.
            background: Whether the values are used while training continues. If not, they are
                views, which cost nothing. If so, some backends copy them to buffers that the next
                call uses again: the values of this call must not be needed any more by then.
        """
        variables = [s for s in sources if isinstance(s, keras.Variable | Foreign)]
        others = {
            i: np.array(keras.ops.convert_to_numpy(source))
            for i, source in enumerate(sources)
            if not isinstance(source, keras.Variable | Foreign)
        }
        backend = _backends.current()
        if background:
            return Values(tuple(sources), backend.capture(variables, self._buffers), others)
        return Values(tuple(sources), lambda: [backend.view(v) for v in variables], others)

    def free(self) -> None:
        """Free the memory."""
        self._buffers = []
