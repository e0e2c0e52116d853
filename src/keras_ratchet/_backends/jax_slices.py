"""JAX's arrays that are split over processes: to the host, and back onto any mesh.

An array counts as split if there is a process whose devices do not hold all of it between them.
The sharding says so on every process, and what all processes hold whole needs no slices.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from keras_ratchet._backends.slices import Bounds, Slices, index_of, part_of, shape_of

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where the slices of an array are.

    Attributes:
        is_split: Whether there is a process that does not hold all of them.
        bounds: Of those that this process holds.
        shared: Whether other processes hold them, too.
    """

    is_split: bool
    bounds: tuple[Bounds, ...]
    shared: tuple[bool, ...]


@functools.lru_cache(maxsize=4096)
def _plan(sharding: Any, shape: Shape) -> _Plan:
    of: dict[int, set[Bounds]] = {}
    for device, index in sharding.devices_indices_map(shape).items():
        of.setdefault(device.process_index, set()).add(_bounds(index, shape))
    every = set().union(*of.values())
    bounds = tuple(sorted(of.get(jax.process_index(), ())))
    shared = tuple(sum(b in held for held in of.values()) > 1 for b in bounds)
    return _Plan(any(held != every for held in of.values()), bounds, shared)


def _bounds(index: tuple[slice, ...], shape: Shape) -> Bounds:
    return tuple(
        (start, stop)
        for start, stop, _ in (one.indices(size) for one, size in zip(index, shape, strict=True))
    )


def is_split(value: Any) -> bool:
    """Return whether there is a process that does not hold all of an array."""
    return not _is_simple(value) and _plan(value.sharding, value.shape).is_split


def _is_simple(value: Any) -> bool:
    """Return whether an array can be read here as if there were no other process."""
    return (
        not isinstance(value, jax.Array)
        or value.is_fully_addressable
        or (value.is_fully_replicated)
    )


def start_copy(value: Any) -> None:
    """Start to copy an array's slices to the host."""
    if _is_simple(value):
        value.copy_to_host_async()
        return
    for shard in value.addressable_shards:
        shard.data.copy_to_host_async()


def on_host(value: Any) -> NDArray[Any]:
    """Return an array, or this process's Slices of it; a view of the buffer where that is one."""
    if _is_simple(value):
        return np.asarray(value)
    plan = _plan(value.sharding, value.shape)
    held = {_bounds(shard.index, value.shape): shard for shard in value.addressable_shards}
    owners = {
        _bounds(shard.index, value.shape)
        for shard in value.addressable_shards
        if shard.replica_id == 0
    }
    parts = [np.asarray(held[bounds].data) for bounds in plan.bounds]
    if not plan.is_split:
        whole = np.empty(value.shape, value.dtype)
        for bounds, part in zip(plan.bounds, parts, strict=True):
            whole[index_of(bounds)] = part
        return whole
    flat = [part.reshape(-1) for part in parts]
    one = flat[0] if len(flat) == 1 else np.concatenate(flat)
    return Slices(
        one, value.shape, plan.bounds, tuple(b in owners for b in plan.bounds), plan.shared
    )


def distributed(value: Any, like: Any) -> Any:
    """Return an array that is distributed like another one; no process waits for another.

    Args:
        value: The whole array, this process's Slices of it, or SavedSlices.
        like: An array of that shape.
    """
    parts: dict[Bounds, NDArray[Any]] = {}

    def part(index: tuple[slice, ...]) -> NDArray[Any]:
        bounds = _bounds(index, like.shape)
        if bounds not in parts:
            found = np.array(part_of(value, bounds), like.dtype, copy=True)
            parts[bounds] = found.reshape(shape_of(bounds))
        return parts[bounds]

    return jax.make_array_from_callback(like.shape, like.sharding, part)
