"""JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from keras_ratchet._backends import Foreign, Resolve


def view(variable: Any) -> NDArray[Any]:
    """Return a read-only view of the array's buffer (no copy on the CPU).

    Holding the view keeps the buffer from being donated to the next step.
    """
    return np.asarray(variable.value)


def capture(variables: Sequence[Any], buffers: list[Any]) -> Resolve:
    """Return views: the next step then writes to new memory (no copy on the CPU).

    Holding the jax arrays would not do: their buffers are donated to the next step all the same.
    """
    values = [variable.value for variable in variables]
    for value in values:
        value.copy_to_host_async()  # on an accelerator all copies run at the same time
    arrays = [np.asarray(value) for value in values]
    return lambda: arrays


def assign(variable: Any, value: NDArray[Any]) -> None:
    """Set the variable to a copy: jax may otherwise borrow NumPy's memory for its array."""
    variable.assign(jnp.array(value, copy=True))


def state_of(thing: Any) -> list[Foreign] | None:
    """Return None: jax's arrays are values, and nothing else in jax has a state."""
    return None


def replicas(variable: Any) -> list[Foreign]:
    """Return nothing: a variable has one value, however it is sharded."""
    return []


def batch_norms(layers: Iterable[Any]) -> list[Any]:
    """Return nothing: only torch's modules have such statistics."""
    return []


def random_ops(function: Any) -> list[str]:
    """Return nothing: no random numbers are drawn from hidden states."""
    return []


def unalias(variables: Iterable[Any], averages: Iterable[tuple[Any, Any]]) -> None:
    """Give each variable its own buffer.

    With `use_ema=True` Keras ends training by assigning the averages to the weights, and on
    JAX that shares the array; the next `fit` would donate one buffer twice and lose it. An
    `evaluate` in between has donated the weight's, and so the average is gone already.
    """
    for weight, average in averages:
        if average.value.is_deleted():
            average.assign(jnp.array(weight.value, copy=True))
    seen: set[int] = set()
    for variable in variables:
        if id(variable.value) in seen:
            variable.assign(jnp.array(variable.value, copy=True))
        seen.add(id(variable.value))


def no_gradients() -> contextlib.AbstractContextManager[Any]:
    """Return a block that does nothing: gradients are computed only on request."""
    return contextlib.nullcontext()


def doubled(arguments: tuple[Any, ...], steps: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Raise an error: on jax a step creates no variables, so it never has to run twice."""
    raise NotImplementedError("jax builds everything before the first step")


def rng_state() -> dict[str, Any]:
    """Return nothing: on this backend all randomness comes from Keras's seeds."""
    return {}


def set_rng_state(state: dict[str, Any]) -> None:
    """Do nothing."""
