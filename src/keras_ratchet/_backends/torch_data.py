"""What torch's data loading needs on any backend."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray


def set_generator(generator: Any, state: NDArray[Any]) -> None:
    """Set a `torch.Generator` to a state that was read as an array."""
    generator.set_state(torch.from_numpy(state))


def rng_state() -> NDArray[Any]:
    """Return the state of torch's global generator, from which a DataLoader draws its seeds."""
    state: NDArray[Any] = torch.get_rng_state().numpy()
    return state


def set_rng_state(state: NDArray[Any]) -> None:
    """Put that state back."""
    torch.set_rng_state(torch.from_numpy(state))
