"""From a hook's arguments to a Moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_ratchet.types import Moment, Position


def end_of_epoch(epoch: int, metrics: Mapping[str, float]) -> Moment:
    """Return the moment at which the epoch with index `epoch` has ended."""
    return Moment(Position(epoch=epoch + 1), metrics)


def moment_of(epoch: int, batch: int | None, logs: Mapping[str, Any] | None) -> Moment:
    """Return the end of an epoch, or that of a batch in it (indices from 0)."""
    if batch is None:
        return end_of_epoch(epoch, metrics_of(logs))
    return Moment(Position(epoch, batch + 1), metrics_of(logs), end_of_epoch=False)


def batches_ended(last: int | None, batch: int) -> int:
    """Return how many batches have ended since batch `last`, up to `batch` (indices from 0)."""
    if last is None or batch <= last:  # a new epoch
        return batch + 1
    return batch - last


def metrics_of(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the scalars of `logs` as floats; arrays of more than one element are left out."""
    scalars = {name: as_float(value) for name, value in (logs or {}).items()}
    return {name: value for name, value in scalars.items() if value is not None}


def as_float(value: Any) -> float | None:
    """Return a number, or an array or tensor of one element, as a float; None for the rest."""
    if hasattr(value, "numpy") and not hasattr(value, "item"):
        value = value.numpy()  # a TensorFlow tensor
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        return None
