"""PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import torch
from numpy.typing import NDArray

_NATIVE = {torch.float32, torch.float64, torch.float16, torch.int32, torch.int64, torch.int8}
_NATIVE |= {torch.uint8, torch.int16, torch.bool}


def view(variable: Any) -> NDArray[Any]:
    """Return the value; on the CPU a view of the tensor's own memory."""
    value = variable.value.detach()
    if value.dtype in _NATIVE:
        return np.asarray(value.cpu().numpy())
    return np.asarray(keras.ops.convert_to_numpy(value))  # bfloat16, float8: NumPy has no view


def assign(variable: Any, value: NDArray[Any]) -> None:
    """Set the variable; torch copies into the parameter."""
    variable.assign(value)


def unalias(variables: Iterable[Any], averages: Iterable[tuple[Any, Any]]) -> None:
    """Do nothing: torch copies on assignment."""


def no_gradients() -> Any:
    """Return a block in which torch records nothing."""
    return torch.no_grad()


def rng_state() -> dict[str, Any]:
    """Return the state of torch's global generators: dropout and shuffling draw from them."""
    state: dict[str, Any] = {"torch": torch.get_rng_state().numpy()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = [s.numpy() for s in torch.cuda.get_rng_state_all()]
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put that state back."""
    if "torch" in state:
        torch.set_rng_state(torch.from_numpy(np.array(state["torch"])))
    if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([torch.from_numpy(np.array(s)) for s in state["cuda"]])
