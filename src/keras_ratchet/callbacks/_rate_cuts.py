"""Cuts of the learning rate that something else undoes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_ratchet._warn import warn
from keras_ratchet.types import CallbackList

_ROUNDING = 1e-6  # relative; a rate is kept as float32


class RateCuts:
    """Remembers the learning rates after a cut, and warns once if they were raised again.

    A LearningRateScheduler sets the rate at the start of each epoch, whatever it was.

    Attributes:
        is_due: Whether a check is due in this epoch.
    """

    def __init__(self) -> None:
        self._rates: Mapping[str, float] = {}
        self._has_warned = False
        self.is_due = False

    def note(self, rates: Mapping[str, float]) -> None:
        """Store the learning rates after a cut, by the names of their optimizers."""
        self._rates = dict(rates)

    def start_epoch(self) -> None:
        """Make a check due if there was a cut, and no warning yet."""
        self.is_due = bool(self._rates) and not self._has_warned

    def check(self, rates: Mapping[str, float], callback: Any, callback_list: CallbackList) -> None:
        """Warn, once, if one of the learning rates is above what a cut made of it.

        Args:
            rates: The present learning rates, by the names of their optimizers.
            callback: The callback that cuts them.
            callback_list: The list that it is in, or None.
        """
        self.is_due = False
        for name, cut in self._rates.items():
            now = rates.get(name, cut)
            if now > cut * (1 + _ROUNDING) and not self._has_warned:
                self._has_warned = True
                who, mine = _suspects(callback, callback_list), type(callback).__name__
                warn(
                    f"{who} set the learning rate to {now:.6g} after {mine} had cut it "
                    f"to {cut:.6g}: its cuts have no effect. Remove one of the two, or let "
                    "the other one start from the current rate, as in "
                    "LearningRateScheduler(lambda epoch, rate: 0.9 * rate)."
                )


def _suspects(callback: Any, callback_list: CallbackList) -> str:
    """Return which callbacks may have raised the rate."""
    others = [c for c in getattr(callback_list, "callbacks", ()) if c is not callback]
    schedulers = [c for c in others if isinstance(c, keras.callbacks.LearningRateScheduler)]
    users = [c for c in others if _is_of_the_user(c)]
    names = [type(c).__name__ for c in schedulers or users]
    return " or ".join(names) or "Something"


def _is_of_the_user(callback: Any) -> bool:
    return type(callback).__module__.partition(".")[0] not in ("keras", "keras_ratchet")
