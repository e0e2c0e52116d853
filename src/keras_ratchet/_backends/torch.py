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


def unalias(variables: Iterable[Any]) -> None:
    """Do nothing: torch copies on assignment."""
