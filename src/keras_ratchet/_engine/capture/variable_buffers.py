"""Values taken out of a model at one moment, by the cheapest means of the backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._backends.base import Foreign

Resolve = Callable[[], list[NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Values:
    """Values of variables, and arrays that stand beside them.

    Attributes:
        sources: What the values are of, in order.
    """

    sources: tuple[Any, ...]
    _of_variables: Resolve
    _beside: dict[int, NDArray[Any]]

    def arrays(self) -> list[NDArray[Any]]:
        """Return the values, contiguous, in the order of `sources`; on any thread."""
        variables = iter(self._of_variables())
        return [
            np.asarray(self._beside[i] if i in self._beside else next(variables), order="C")
            for i in range(len(self.sources))
        ]


class VariableBuffers:
    """Takes values out of a model, for the saves of one callback."""

    def __init__(self) -> None:
        self._buffers: list[Any] = []

    def hold(self, sources: Sequence[Any], lasting: bool) -> Values:
        """Take the values of variables; copy arrays and tensors that are given beside them.

        Args:
            sources: Variables, arrays, tensors.
            lasting: Whether the values have to stay what they are while training goes on. If not
                they are views, right until then, and cost nothing. If they have to, the buffers
                that some backends copy to are used again by the next call: the values of this
                one have to be used up by then.
        """
        variables = [s for s in sources if isinstance(s, keras.Variable | Foreign)]
        beside = {
            i: np.array(keras.ops.convert_to_numpy(source))
            for i, source in enumerate(sources)
            if not isinstance(source, keras.Variable | Foreign)
        }
        backend = _backends.current()
        if lasting:
            return Values(tuple(sources), backend.hold(variables, self._buffers), beside)
        return Values(tuple(sources), lambda: [backend.view(v) for v in variables], beside)

    def free(self) -> None:
        """Give the memory back."""
        self._buffers = []
