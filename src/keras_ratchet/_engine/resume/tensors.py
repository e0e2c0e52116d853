"""Tensors in plain data: as marked arrays, and back."""

from __future__ import annotations

from collections import deque
from typing import Any

import keras
import numpy as np

_TENSOR = "keras_ratchet.tensor"
_SCALARS = (str, bytes, bool, int, float, type(None), np.ndarray, np.generic)
# what symbolic tensors raise depends on their framework
NO_DATA = (
    TypeError,
    ValueError,
    RecursionError,
    NotImplementedError,
    AttributeError,
    RuntimeError,
)


def plain(value: Any, graphs: bool = False) -> Any:
    """Return data without Keras's tracking containers and with tensors as marked arrays.

    Args:
        value: The data; what it holds beside data stays as it is.
        graphs: Whether a tensor that torch could still differentiate is taken for its values.
    """
    if isinstance(value, _SCALARS):
        return value
    if isinstance(value, deque):
        return deque((plain(inner, graphs) for inner in value), value.maxlen)
    for kind in (list, set):
        if isinstance(value, kind):
            return kind(plain(inner, graphs) for inner in value)
    if isinstance(value, dict):
        return {key: plain(inner, graphs) for key, inner in value.items()}
    if type(value) is tuple:
        return tuple(plain(inner, graphs) for inner in value)
    if keras.ops.is_tensor(value) and _is_values_only(value, graphs):
        return (_TENSOR, np.array(keras.ops.convert_to_numpy(value)))
    return value


def _is_values_only(tensor: Any, graphs: bool) -> bool:
    """Say whether a tensor is no more than its values: neither a variable nor a parameter."""
    if getattr(tensor, "requires_grad", False):
        return graphs and not tensor.is_leaf
    return not (graphs and hasattr(tensor, "assign"))


def thing(value: Any) -> Any:
    """Return what `plain` was given, but for the containers' classes."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is str and value[0] == _TENSOR:
        return keras.ops.convert_to_tensor(np.array(value[1]))
    if type(value) in (list, tuple, set):
        return type(value)(map(thing, value))
    if type(value) is deque:
        return deque(map(thing, value), value.maxlen)
    if type(value) is dict:
        return {key: thing(inner) for key, inner in value.items()}
    return value


def holds_tensor(value: Any) -> bool:
    """Say whether a value is a tensor, or a container that holds one."""
    if isinstance(value, list | tuple | deque | dict):
        items = value.values() if isinstance(value, dict) else value
        strange = not all(issubclass(kind, _SCALARS) for kind in set(map(type, items)))
        return strange and any(map(holds_tensor, items))
    return bool(keras.ops.is_tensor(value)) and not isinstance(value, _SCALARS)
