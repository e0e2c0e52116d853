"""Whether training has diverged: then it has not finished, and is not saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_DIVERGED = {"nan", "not finite", "rollback"}  # kinds of a StopReason


def has_diverged(callbacks: Iterable[Any], logs: Mapping[str, float]) -> bool:
    """Return whether training, which was stopped, was so because it has diverged.

    Args:
        callbacks: The other callbacks.
        logs: Of the epoch in which it was stopped; Keras's TerminateOnNaN gives no reason.
    """
    stops = (getattr(callback, "stop_reason", None) for callback in callbacks)
    kinds = {kind for stop in stops if stop is not None for kind in stop.kinds}
    return bool(kinds & _DIVERGED) or not math.isfinite(logs.get("loss", 0.0))
