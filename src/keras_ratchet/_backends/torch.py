"""PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from keras_ratchet._backends.base import Resolve

# What NumPy has no dtype for: what it is seen as, and what it then is.
_FOREIGN: dict[torch.dtype, tuple[torch.dtype, Any]] = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.int8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.int8, ml_dtypes.float8_e5m2),
}


def view(variable: Any) -> NDArray[Any]:
    """Return the value; on the CPU a view of the tensor's own memory."""
    return _array(variable.value.detach().cpu())


def _array(value: torch.Tensor) -> NDArray[Any]:
    """Return a view of a tensor on the CPU."""
    if value.dtype in _FOREIGN:
        seen_as, dtype = _FOREIGN[value.dtype]
        return np.asarray(value.view(seen_as).numpy()).view(dtype)
    return np.asarray(value.numpy())


def hold(variables: Sequence[Any], buffers: list[Any]) -> Resolve:
    """Copy into buffers that are used again, since fresh memory costs as much as the copy."""
    values = [variable.value.detach() for variable in variables]
    if [(b.shape, b.dtype) for b in buffers] != [(v.shape, v.dtype) for v in values]:
        buffers[:] = [_buffer(value) for value in values]
    for buffer, value in zip(buffers, values, strict=True):
        buffer.copy_(value, non_blocking=True)
    for device in {value.device for value in values if value.device.type != "cpu"}:
        torch.accelerator.synchronize(device)
    held = list(buffers)
    return lambda: [_array(buffer) for buffer in held]


def _buffer(value: torch.Tensor) -> torch.Tensor:
    """Return memory on the host like a tensor's, pinned where that makes copies faster."""
    pinned = value.device.type == "cuda"
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=pinned)


def assign(variable: Any, value: NDArray[Any]) -> None:
    """Set the variable; torch copies into the parameter."""
    variable.assign(value)


def unalias(variables: Iterable[Any], averages: Iterable[tuple[Any, Any]]) -> None:
    """Do nothing: torch copies on assignment."""


def no_gradients() -> Any:
    """Return a block in which torch records nothing."""
    return torch.no_grad()


def doubled(arguments: tuple[Any, ...], steps: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the arguments twice: a step is given its batches."""
    return arguments, arguments


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
