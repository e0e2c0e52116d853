"""What "best" means to the callbacks of a list."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keras_ratchet._keras.metrics import metric_direction
from keras_ratchet.errors import UnknownDirectionError
from keras_ratchet.policy.monitor import Mode
from keras_ratchet.policy.retention import Ranking

_KINDS = ("EarlyStopping", "ModelCheckpoint")


def best_by(callbacks: Iterable[Any]) -> Ranking:
    """Return the order by which the callbacks go: that of EarlyStopping, or of a ModelCheckpoint.

    Without either it is that of `val_loss`.

    Args:
        callbacks: The callbacks, which have started.

    Raises:
        UnknownDirectionError: If it is unknown which values are better.
    """
    found = list(callbacks)
    for kind in _KINDS:
        for callback in found:
            names = {base.__name__ for base in type(callback).__mro__}
            if kind in names and getattr(callback, "criterion", None) is None:
                return Ranking(((callback.monitor, _mode(callback)),))
    return Ranking((("val_loss", "min"),))


def _mode(callback: Any) -> Mode:
    asked = getattr(callback, "mode", "auto")  # Keras's own do not keep it
    known = metric_direction(callback.model, callback.monitor) if asked == "auto" else asked
    if known is None:
        raise UnknownDirectionError(
            f"resume_from='best' goes by {callback.monitor!r}, and it is unknown whether a small "
            "or a large value is better. Use keras_ratchet's callback with mode='min' or 'max'."
        )
    return "min" if known == "min" else "max"
