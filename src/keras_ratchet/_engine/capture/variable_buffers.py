"""Values of variables captured at one moment, as cheaply as the backend can."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._backends import Foreign, Resolve
from keras_ratchet._backends.slices import Slices, assembled, in_order


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
        self._whole: dict[int, NDArray[Any]] = {}

    def gather(self, variables: Sequence[Any], ranks: Any) -> None:
        """Give rank 0 whole values of what is split over processes, for the next `capture`.

        All ranks call it. They come one at a time: the others hold a copy of their own slices of
        one of them for a moment, and rank 0 holds all until they are written.

        Args:
            variables: Those that may be captured.
            ranks: The coordinator.
        """
        backend = _backends.current()
        self._whole = {}
        for variable in filter(backend.is_split, variables):
            held = backend.view(variable)
            assert isinstance(held, Slices)
            parts = ranks.collect(list(held.owned_parts()), f"slices of {variable.path}")
            if parts is not None:
                self._whole[id(variable)] = assembled(held, itertools.chain(*parts))

    def capture(self, sources: Sequence[Any], background: bool) -> Values:
        """Capture the values of variables; copy arrays and tensors.

        Args:
            sources: Variables, arrays, tensors.
            background: Whether the values are used while training continues. If not, they are
                views, which cost nothing. If so, some backends copy them to buffers that the next
                call uses again: the values of this call must not be needed any more by then.
        """
        whole, self._whole = self._whole, {}
        known = {i: whole[id(s)] for i, s in enumerate(sources) if id(s) in whole}
        variables = [
            s for s in sources if isinstance(s, keras.Variable | Foreign) and id(s) not in whole
        ]
        others = known | {
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
