"""Values of variables captured at one moment, as cheaply as the backend can."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._backends import Foreign, Resolve
from keras_ratchet._backends.arena import Arrangement, Buffers
from keras_ratchet._backends.slices import Slices, assembled, in_order
from keras_ratchet._formats.image import Image, Places

_VARIABLES = (keras.Variable, Foreign)


@dataclass(frozen=True, slots=True)
class Values:
    """Captured values of variables and arrays.

    Attributes:
        sources: The variables and arrays, in order.
        image: Memory in which the values lie as they do in the file; None if they do not.
    """

    sources: tuple[Any, ...]
    _of_variables: Resolve
    _others: dict[int, NDArray[Any]]
    image: Image | None = None

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
        self._buffers = Buffers()
        self._whole: dict[int, NDArray[Any]] = {}
        self._image: Image | None = None

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

    def capture(
        self, sources: Sequence[Any], background: bool, places: Places | None = None
    ) -> Values:
        """Capture the values of variables; copy arrays and tensors.

        Args:
            sources: Variables, arrays, tensors.
            background: Whether the values are used while training continues. If not, they are
                views, which cost nothing. If so, some backends copy them to buffers that the next
                call uses again: the values of this call must not be needed any more by then.
            places: Where the file has the values, if that is known.
        """
        whole, self._whole = self._whole, {}
        known = {i: whole[id(s)] for i, s in enumerate(sources) if id(s) in whole} if whole else {}
        kinds = {kind: issubclass(kind, _VARIABLES) for kind in set(map(type, sources))}
        variables = [s for s in sources if kinds[type(s)] and id(s) not in whole]
        others = known | {
            i: np.array(keras.ops.convert_to_numpy(source))
            for i, source in (() if all(kinds.values()) else enumerate(sources))
            if not kinds[type(source)]
        }
        backend = _backends.current()
        if not background:
            return Values(tuple(sources), lambda: [backend.view(v) for v in variables], others)
        self._buffers.wanted = None if places is None else _without(places, others.keys())
        if self._buffers.wanted != self._buffers.places:
            self._image = None  # which holds the memory
        resolve = backend.capture(variables, self._buffers)
        return Values(tuple(sources), resolve, others, self._image_of(places, others.keys()))

    def _image_of(self, places: Places | None, outside: Collection[int]) -> Image | None:
        """Return the memory that was filled, if the values are where the file has them."""
        buffers = self._buffers
        if places is None or buffers.places is None or buffers.places != buffers.wanted:
            self._image = None
        elif self._image is None or not self._image.is_like(places, outside, buffers.memory):
            self._image = Image(places, frozenset(outside), buffers.memory)
        return self._image

    def free(self) -> None:
        """Free the memory."""
        self._buffers, self._image = Buffers(), None


def _without(places: Places, outside: Collection[int]) -> Arrangement:
    """Return the places of all arrays but some."""
    offsets, sizes = places.offsets, places.sizes
    if outside:
        inside = [i for i in range(len(offsets)) if i not in outside]
        offsets, sizes = (tuple(each[i] for i in inside) for each in (offsets, sizes))
    return Arrangement(offsets, sizes, places.total)
