"""TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray


def view(variable: Any) -> NDArray[Any]:
    """Return a copy of the value."""
    return np.asarray(keras.ops.convert_to_numpy(variable))


def assign(variable: Any, value: NDArray[Any]) -> None:
    """Set the variable; TensorFlow copies."""
    variable.assign(value)


def unalias(variables: Iterable[Any], averages: Iterable[tuple[Any, Any]]) -> None:
    """Do nothing: TensorFlow copies on assignment."""


def no_gradients() -> contextlib.AbstractContextManager[Any]:
    """Return a block that changes nothing: gradients are recorded on request only."""
    return contextlib.nullcontext()


def rng_state() -> dict[str, Any]:
    """Return nothing: Keras's own seeds are all the randomness there is on this backend."""
    return {}


def set_rng_state(state: dict[str, Any]) -> None:
    """Do nothing."""
