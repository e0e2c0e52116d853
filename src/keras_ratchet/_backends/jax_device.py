"""JAX's arrays on an accelerator: to the host while training goes on, and copies that stay.

The next step is given the memory of the arrays (donation), so they have to be copied before it. On
the device that takes a fraction of the time that the bus takes: the hook queues such copies, has
each start for the host, and returns. Whoever reads the values waits for them, and then the copies
on the device are dropped. If there is no room for them, the hook waits for the bus.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import NDArray

from keras_ratchet._backends import Resolve, jax_slices

_log = logging.getLogger("keras_ratchet")
_SPARE = 0.1  # the share of a device's memory that stays free


class Device:
    """What is asked of a device: the seam at which tests stand in for an accelerator.

    Args:
        device: The device.
    """

    def __init__(self, device: Any) -> None:
        self._device = device

    @property
    def is_apart(self) -> bool:
        """Whether its memory is not that of the host."""
        return bool(self._device.platform != "cpu")

    def has_room(self, size: int) -> bool:
        """Return whether so many bytes fit beside the most that training has needed."""
        stats = self._device.memory_stats() or {}
        limit = stats.get("bytes_limit")
        if limit is None:  # it does not say
            return not self.is_apart
        used = max(stats.get("peak_bytes_in_use", 0), stats.get("bytes_in_use", 0))
        return bool(limit - used - size >= _SPARE * limit)


def capture(values: Sequence[Any], memory: list[Any]) -> Resolve:
    """Capture arrays; on the CPU as views, which cost nothing.

    Args:
        values: The arrays.
        memory: Where it is noted whether devices have room for copies, so that it is decided once.
    """
    copies = _on_device(values, memory)
    for i, value in enumerate(values):  # on an accelerator all copies run at the same time
        jax_slices.start_copy(copies.get(i, value))
    arrays = {i: jax_slices.on_host(value) for i, value in enumerate(values) if i not in copies}

    def read() -> list[NDArray[Any]]:
        for i in list(copies):
            arrays[i] = jax_slices.on_host(copies[i])
            del copies[i]
        return [arrays[i] for i in range(len(values))]

    return read


def _on_device(values: Sequence[Any], memory: list[Any]) -> dict[int, Any]:
    """Return copies on their devices, by index, of the arrays that are on accelerators.

    Of an array that several devices hold whole, one is copied; what is split over several is not.
    """
    found = {
        i: value.addressable_data(0)
        for i, value in enumerate(values)
        if isinstance(value, jax.Array)
        and value.is_fully_replicated
        and Device(_device_of(value)).is_apart
    }
    if not found or not _have_room(found.values(), memory):
        return {}
    try:
        return dict(zip(found, copied(list(found.values())), strict=True))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _say_full(sum(value.nbytes for value in found.values()))
        memory[:] = [False]
        return {}


def _have_room(values: Iterable[Any], memory: list[Any]) -> bool:
    """Return whether devices have room for copies of arrays on them; `memory` knows it then."""
    if not memory:
        sizes: dict[Any, int] = defaultdict(int)
        for value in values:
            sizes[_device_of(value)] += value.nbytes
        memory.append(all(Device(device).has_room(size) for device, size in sizes.items()))
        if not memory[0]:
            _say_full(sum(sizes.values()))
    return bool(memory[0])


def _say_full(size: int) -> None:
    _log.info("a save waits for the bus: no room on the device for a copy of %.0f MB", size / 1e6)


def _device_of(value: Any) -> Any:
    return next(iter(value.sharding.device_set))


def copied(values: Sequence[Any]) -> list[Any]:
    """Return copies of arrays, in other memory of their devices; it does not wait for them."""
    places: dict[Any, list[int]] = defaultdict(list)
    for i, value in enumerate(values):
        places[_device_of(value) if len(value.sharding.device_set) == 1 else i].append(i)
    copies: dict[int, Any] = {}
    for place, found in places.items():
        if place == found[0]:  # on several devices: it stays distributed as it is
            copies[place] = jnp.copy(values[place])
        else:
            copies |= zip(found, _copied([values[i] for i in found]), strict=True)
    return [copies[i] for i in range(len(values))]


def _copies(values: list[Any]) -> list[Any]:
    return [jnp.copy(value) for value in values]


_copied = jax.jit(_copies)  # one call for all costs about as much as a copy of one array


def hold(variables: Sequence[Any], sources: Sequence[Any], held: list[Any]) -> list[Any]:
    """Return copies of values on their devices; `held` is not used: arrays do not change."""
    copies = copied([source.value for source in sources])
    return [copy.astype(v.value.dtype) for copy, v in zip(copies, variables, strict=True)]


def put_back(variable: Any, held: Any) -> None:
    """Set a variable to a copy of an array: the next step is given the variable's memory."""
    variable.assign(jnp.copy(held))


def all_finite(variables: Iterable[Any]) -> bool:
    """Return whether one sum shows that all values are finite.

    A sum may overflow though they are, so False proves nothing.
    """
    values = [variable.value for variable in variables]
    floats = [value for value in values if jnp.issubdtype(value.dtype, jnp.inexact)]
    if any(jnp.issubdtype(v.dtype, jnp.complexfloating) for v in floats):
        return False
    return all(map(bool, _finite(floats)))


def _are_finite(values: list[Any]) -> list[Any]:
    return [jnp.isfinite(jnp.sum(value, dtype=jnp.float32)) for value in values]


_finite = jax.jit(_are_finite)
