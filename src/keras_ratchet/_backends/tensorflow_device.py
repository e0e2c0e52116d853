"""TensorFlow's values, held on their devices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf


def hold(variables: Sequence[Any], sources: Sequence[Any], held: list[Any]) -> list[Any]:
    """Return values as tensors on their devices: an assignment copies one that is in use."""
    return [
        tf.cast(source.value.read_value(), variable.value.dtype)
        for variable, source in zip(variables, sources, strict=True)
    ]


def put_back(variable: Any, held: Any) -> None:
    """Set a variable to a tensor; its next change copies, since the tensor is in use."""
    variable.assign(held)


def all_finite(variables: Iterable[Any]) -> bool:
    """Return whether one sum shows that all values are finite.

    A sum may overflow though they are, so False proves nothing.
    """
    values = [variable.value.read_value() for variable in variables]
    if any(value.dtype.is_complex for value in values):
        return False
    sums = [tf.reduce_sum(tf.cast(v, tf.float32)) for v in values if v.dtype.is_floating]
    return not sums or bool(tf.math.is_finite(tf.add_n(sums)))
