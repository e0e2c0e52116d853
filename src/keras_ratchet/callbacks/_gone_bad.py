"""A training that has gone bad: what BackupAndRestore must neither save nor take for an end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from keras_ratchet.types import StopKind

_KINDS: frozenset[StopKind] = frozenset({"nan", "not finite", "rollback"})


def may_be_saved(model: Any, callbacks: Iterable[Any]) -> bool:
    """Say whether training goes on from here; those that watch the weights look at them first.

    Rollback goes back to the last good state if they are not finite.
    """
    for callback in callbacks:
        if hook := getattr(callback, "on_snapshot_begin", None):
            hook()
    return not getattr(model, "stop_training", False)


def has_gone_bad(model: Any, callbacks: Iterable[Any], logs: Mapping[str, float]) -> bool:
    """Say whether training was stopped because it has gone bad: that is no end of a training.

    Args:
        model: The model.
        callbacks: The other callbacks.
        logs: Of the epoch in which it was stopped; Keras's TerminateOnNaN gives no reason.
    """
    if not getattr(model, "stop_training", False):
        return False
    stops = (getattr(callback, "stop_reason", None) for callback in callbacks)
    kinds = {kind for stop in stops if stop is not None for kind in stop.kinds}
    return bool(kinds & _KINDS) or not math.isfinite(logs.get("loss", 0.0))
