"""JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from keras_ratchet._backends import Foreign, Resolve, jax_device, jax_slices


def view(variable: Any) -> NDArray[Any]:
    """Return a read-only view of the array's buffer (no copy on the CPU).

    Holding the view keeps the buffer from being donated to the next step. Of an array that is split
    over processes it is this process's `Slices`.
    """
    return jax_slices.on_host(variable.value)


def is_on_host(variable: Any) -> bool:
    """Return whether it is an array on this process's CPU devices."""
    value = variable.value
    if not (isinstance(value, jax.Array) and value.is_fully_addressable):
        return False
    return all(device.platform == "cpu" for device in value.devices())


def capture(variables: Sequence[Any], buffers: list[Any]) -> Resolve:
    """Return views: the next step then writes to new memory (no copy on the CPU).

    Holding the jax arrays would not do: their buffers are donated to the next step all the same.
    On an accelerator they are copied there first.
    """
    return jax_device.capture([variable.value for variable in variables], buffers)


def assign(variable: Any, value: Any) -> None:
    """Set the variable to a copy: jax may otherwise borrow NumPy's memory for its array.

    Each process sets what it holds; Keras alone would compare the values of all processes.
    """
    held = variable.value if jax.process_count() > 1 else None  # a failed evaluate leaves none
    if isinstance(held, jax.Array) and not held.is_fully_addressable:
        variable.assign(jax_slices.distributed(value, held))
    else:
        variable.assign(jnp.array(np.asarray(value), copy=True))


def is_split(variable: Any) -> bool:
    """Return whether no process of its own holds all of the variable's value."""
    return jax.process_count() > 1 and jax_slices.is_split(variable.value)


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
