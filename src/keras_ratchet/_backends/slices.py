"""Arrays that are split over the processes of a training: what one of them holds, or a file has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Bounds = tuple[tuple[int, int], ...]  # where a slice starts and ends in each dimension


def shape_of(bounds: Bounds) -> tuple[int, ...]:
    """Return the shape of a slice."""
    return tuple(stop - start for start, stop in bounds)


def index_of(bounds: Bounds, start: Sequence[int] | None = None) -> tuple[slice, ...]:
    """Return the index of a slice, in the whole array or in another slice that starts there."""
    starts = start or [0] * len(bounds)
    return tuple(slice(a - at, b - at) for (a, b), at in zip(bounds, starts, strict=True))


class Slices(np.ndarray):
    """What this process holds of an array that is split over processes.

    It is a flat array, one slice after the other, so that whatever is computed element by element
    (copies, means, whether all is finite) needs to know nothing of it. `copy` and `np.empty_like`
    return Slices, too; `np.array` and `np.asarray` return flat arrays.

    Attributes:
        whole: Shape of the whole array.
        bounds: Of each slice that this process holds.
        owned: Whether this process is the one that writes the slice; each slice has one owner.
        shared: Whether other processes hold the slice, too.
    """

    whole: tuple[int, ...]
    bounds: tuple[Bounds, ...]
    owned: tuple[bool, ...]
    shared: tuple[bool, ...]

    def __new__(
        cls,
        flat: NDArray[Any],
        whole: tuple[int, ...],
        bounds: tuple[Bounds, ...],
        owned: tuple[bool, ...],
        shared: tuple[bool, ...],
    ) -> Slices:
        """Return the slices of a flat array, without a copy."""
        found = flat.view(cls)
        found.whole, found.bounds, found.owned, found.shared = whole, bounds, owned, shared
        return found

    def __array_finalize__(self, other: Any) -> None:
        """Take over where the slices are."""
        for name in ("whole", "bounds", "owned", "shared"):
            if hasattr(other, name):
                setattr(self, name, getattr(other, name))

    def parts(self) -> Iterator[tuple[Bounds, NDArray[Any]]]:
        """Yield each slice, as a view."""
        flat, start = np.asarray(self), 0
        for bounds in self.bounds:
            shape = shape_of(bounds)
            count = int(np.prod(shape))
            yield bounds, flat[start : start + count].reshape(shape)
            start += count

    def read(self, bounds: Bounds) -> NDArray[Any]:
        """Return a slice that this process holds.

        Raises:
            KeyError: If it does not hold it.
        """
        return dict(self.parts())[bounds]

    def owned_parts(self) -> Iterator[tuple[Bounds, NDArray[Any]]]:
        """Yield each slice that this process owns."""
        for part, owned in zip(self.parts(), self.owned, strict=True):
            if owned:
                yield part

    def filled(self, source: Any) -> Slices:
        """Return such slices of another whole array, which may be in a file.

        Args:
            source: An array, or SavedSlices.
        """
        flat: Slices = np.empty_like(self, dtype=source.dtype)
        for bounds, part in flat.parts():
            part[...] = part_of(source, bounds)
        return flat


class SavedSlices:
    """A whole array whose slices are in files; only those that are needed are read.

    As a NumPy array (`np.asarray`) it is read whole.

    Args:
        shape: Of the whole array.
        dtype: Of the array.
        parts: The bounds of each slice, and a function that maps it into memory.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        parts: Sequence[tuple[Bounds, Callable[[], NDArray[Any]]]],
    ) -> None:
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._parts = parts

    def astype(self, dtype: DTypeLike, copy: bool = True) -> SavedSlices:
        """Return the same array as another dtype."""
        return SavedSlices(
            self.shape, dtype, [(bounds, _cast(read, dtype)) for bounds, read in self._parts]
        )

    def read(self, bounds: Bounds) -> NDArray[Any]:
        """Return a copy of any slice of the array."""
        found = np.empty(shape_of(bounds), self.dtype)
        for saved, read in self._parts:
            common = tuple(
                (max(a, c), min(b, d)) for (a, b), (c, d) in zip(bounds, saved, strict=True)
            )
            if all(start < stop for start, stop in common):
                source = read()[index_of(common, [start for start, _ in saved])]
                found[index_of(common, [start for start, _ in bounds])] = source
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the whole array."""
        whole = self.read(tuple((0, size) for size in self.shape))
        return whole if dtype is None else whole.astype(dtype, copy=False)


def _cast(read: Callable[[], NDArray[Any]], dtype: DTypeLike) -> Callable[[], NDArray[Any]]:
    return lambda: read().astype(dtype)


def part_of(value: Any, bounds: Bounds) -> NDArray[Any]:
    """Return a slice of an array, of what this process holds of one, or of one in files."""
    if isinstance(value, Slices | SavedSlices):
        return value.read(bounds)
    found: NDArray[Any] = value[index_of(bounds)]
    return found


def assembled(held: Slices, parts: Iterable[tuple[Bounds, NDArray[Any]]]) -> NDArray[Any]:
    """Return a whole array.

    Args:
        held: What this process holds of it.
        parts: What all processes own of it.
    """
    whole = np.empty(held.whole, held.dtype)
    for bounds, part in parts:
        whole[index_of(bounds)] = part
    return whole


def held_as(value: Any, like: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of an array, or of this process's slices of it.

    Args:
        value: The array, SavedSlices, or Slices that are like `like`.
        like: What this process holds of the variable that the value belongs to.
    """
    if isinstance(value, Slices):
        return value.copy()
    return like.filled(value) if isinstance(like, Slices) else np.array(value)


def in_order(value: NDArray[Any]) -> NDArray[Any]:
    """Return an array as a contiguous one; Slices are."""
    return value if isinstance(value, Slices) else np.asarray(value, order="C")


def is_like(buffers: Sequence[NDArray[Any]], shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return whether buffers, which may be Slices, are of arrays of these shapes."""
    return [getattr(buffer, "whole", buffer.shape) for buffer in buffers] == list(shapes)
