"""Arithmetic on the weights of files: means, and which weights have none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

_NARROW = {"bfloat16", *(name for name in dir(ml_dtypes) if name.startswith("float"))}
_MOVING = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")
_LIKE_BATCH_NORMALIZATION = re.compile(r"batch_?norm|(^|[/_])bn", re.IGNORECASE)


class _Weight(Protocol):
    @property
    def name(self) -> str:
        """The readable name."""

    @property
    def key(self) -> str:
        """The place in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""


def mean_of(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """Return the mean of float arrays in their own dtype, summed in a wider one.

    Args:
        arrays: One or more arrays of the same shape and dtype; they are read one at a time.

    Example:
        >>> float(mean_of([np.float16([60000.0]), np.float16([65504.0])])[0])
        62752.0
    """
    rest = iter(arrays)
    first = next(rest)
    total: NDArray[Any] = first.astype(np.float64 if first.dtype.itemsize >= 4 else np.float32)
    count = 1
    for array in rest:
        total += array.astype(total.dtype)
        count += 1
    total /= count
    return total.astype(first.dtype)


def is_float(dtype: Any) -> bool:
    """Return whether a NumPy dtype is a float; bfloat16 and float8 are."""
    return dtype.kind == "f" or dtype.name in _NARROW


def moving_statistics(weights: Iterable[_Weight]) -> set[str]:
    """Return the keys of the weights of a file that look like moving statistics.

    They are recognized by their names. Where a file has numbers instead, they are the last two of
    the three or four vectors of equal length that a BatchNormalization has.
    """
    groups: dict[str, list[_Weight]] = {}
    for weight in weights:
        groups.setdefault(weight.key.rpartition("/")[0], []).append(weight)
    return {weight.key for group in groups.values() for weight in _moving_of(group)}


def _moving_of(group: Sequence[_Weight]) -> Sequence[_Weight]:
    named = [weight for weight in group if weight.name.endswith(_MOVING)]
    if named or not all(weight.key.rpartition("/")[2].isdecimal() for weight in group):
        return named
    if not all(weight.name.rpartition("/")[2].isdecimal() for weight in group):
        return []  # their names say that they are something else
    if len({weight.shape for weight in group}) != 1 or len(group[0].shape) != 1:
        return []
    is_called_so = _LIKE_BATCH_NORMALIZATION.search(f"{group[0].key} {group[0].name}")
    return group[-2:] if len(group) in (3, 4) or (len(group) == 2 and is_called_so) else []
