"""Torch's DTensors, which Keras's ModelParallel makes: this process's slices of them, and back."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributed.tensor import DTensor, Replicate, Shard

from keras_ratchet._backends.slices import Bounds, Slices, part_of
from keras_ratchet.errors import ConfigError

Shape = tuple[int, ...]


@functools.lru_cache(maxsize=4096)
def _bounds_of_ranks(mesh: Any, placements: tuple[Any, ...], shape: Shape) -> dict[int, Bounds]:
    """Return which slice each rank holds."""
    ranks = mesh.mesh
    return {
        int(ranks[at]): _bounds(tuple(ranks.shape), placements, shape, at)
        for at in itertools.product(*map(range, ranks.shape))
    }


def _bounds(sizes: Shape, placements: tuple[Any, ...], shape: Shape, at: Shape) -> Bounds:
    """Return the slice at one place of a mesh: each of its dimensions cuts what is left."""
    bounds = [(0, size) for size in shape]
    for count, placement, index in zip(sizes, placements, at, strict=True):
        if type(placement) is Shard:
            start, stop = bounds[placement.dim]
            step = -(-(stop - start) // count)
            first = min(start + index * step, stop)
            bounds[placement.dim] = first, min(first + step, stop)
        elif type(placement) is not Replicate:
            raise ConfigError(
                "A weight can be saved if it is sharded or replicated. Got a DTensor with the "
                f"placement {placement!r}.",
                see="split-weights",
            )
    return tuple(bounds)


def is_split(value: DTensor) -> bool:
    """Return whether a rank does not hold all of a tensor."""
    held = _held(value)
    whole = tuple((0, size) for size in value.shape)
    return any(bounds != whole for bounds in held.values())


def _held(value: DTensor) -> dict[int, Bounds]:
    return _bounds_of_ranks(value.device_mesh, tuple(value.placements), tuple(value.shape))


def sliced(value: DTensor, local: NDArray[Any]) -> NDArray[Any]:
    """Return the array of a tensor's local part as Slices, if the tensor is split.

    Args:
        value: The tensor.
        local: What this rank holds of it.
    """
    if not is_split(value):
        return local
    held = _held(value)
    own = torch.distributed.get_rank()
    holders = [rank for rank, bounds in held.items() if bounds == held[own]]
    return Slices(
        np.ascontiguousarray(local).reshape(-1),
        tuple(value.shape),
        (held[own],),
        (min(holders) == own,),
        (len(holders) > 1,),
    )


def own_part(value: Any, like: DTensor) -> NDArray[Any]:
    """Return what this rank holds of a value of a tensor.

    Args:
        value: The whole array, this rank's Slices of it, or SavedSlices.
        like: The tensor.
    """
    return part_of(value, _held(like)[torch.distributed.get_rank()])
