"""Random streams that belong to one source of data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.random import mtrand

from keras_ratchet import _backends


class OwnStreams:
    """Replaces Python's, NumPy's and torch's global random streams while a source draws.

    A source that draws from the global generators (a DataLoader its order, a dataset its
    augmentation) then has streams that can be saved with it, and leaves the program's alone.
    A context manager, entered for each draw.

    Args:
        seed: What they start from.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Start again from the seed."""
        self._python = random.Random(self._seed).getstate()
        self._numpy: Any = np.random.MT19937(np.random.SeedSequence(self._seed))
        self._torch: Any = None

    def capture(self) -> dict[str, Any]:
        """Return the streams' states."""
        return {"python": self._python, "numpy": self._numpy.state, "torch": self._torch}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the streams' states."""
        self._python, self._torch = state["python"], state["torch"]
        self._numpy = np.random.MT19937()
        self._numpy.state = state["numpy"]

    def __enter__(self) -> None:
        self._outer: tuple[Any, Any, Any] = (random.getstate(), mtrand.get_bit_generator(), None)
        random.setstate(self._python)
        mtrand.set_bit_generator(self._numpy)  # a copy of its state would cost 0.1 ms
        if torch := _backends.torch_loading():
            self._outer = (*self._outer[:2], torch.rng_state())
            own = torch.seeded(self._seed) if self._torch is None else self._torch
            torch.set_rng_state(np.array(own))

    def __exit__(self, *failure: object) -> None:
        python, numpy_generator, torch_state = self._outer
        self._python = random.getstate()
        random.setstate(python)
        mtrand.set_bit_generator(numpy_generator)
        torch = _backends.torch_loading()
        if torch and torch_state is not None:
            self._torch = torch.rng_state()
            torch.set_rng_state(torch_state)
