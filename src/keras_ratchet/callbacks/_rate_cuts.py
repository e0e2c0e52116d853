"""Cuts of the learning rate that somebody else undoes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_ratchet._warn import warn

_ROUNDING = 1e-6  # relative; a rate is kept as float32


class Cuts:
    """Remembers the learning rates that a callback has left, and says once that they were raised.

    A LearningRateScheduler sets the rate at each epoch's begin, whatever it was.

    Args:
        owner: The callback.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._left: Mapping[str, float] = {}
        self._told = False
        self.due = False

    def left(self, rates: Mapping[str, float]) -> None:
        """Note the learning rates after a cut, by the names of their optimizers."""
        self._left = dict(rates)

    def epoch_begins(self) -> None:
        """Let `due` say, until the next look, whether one is worth it."""
        self.due = bool(self._left) and not self._told

    def look(self, rates: Mapping[str, float]) -> None:
        """Warn, once, if one of the learning rates is above what was left."""
        self.due = False
        for name, left in self._left.items():
            now = rates.get(name, left)
            if now > left * (1 + _ROUNDING) and not self._told:
                self._told = True
                mine = type(self._owner).__name__
                warn(
                    f"{self._who()} set the learning rate to {now:.6g} after {mine} had cut it "
                    f"to {left:.6g}: its cuts have no effect. Remove one of the two, or let "
                    "the other one start from the current rate, as in "
                    "LearningRateScheduler(lambda epoch, rate: 0.9 * rate)."
                )

    def _who(self) -> str:
        """Return who may have done it."""
        others = [c for c in getattr(self._owner._list, "callbacks", ()) if c is not self._owner]
        found = [c for c in others if isinstance(c, keras.callbacks.LearningRateScheduler)]
        names = [type(c).__name__ for c in found or others if found or _is_strange(c)]
        return " or ".join(names) or "Something"


def _is_strange(callback: Any) -> bool:
    return type(callback).__module__.partition(".")[0] not in ("keras", "keras_ratchet")
