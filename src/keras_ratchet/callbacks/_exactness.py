"""What a resume will not keep, said when training begins, or as soon as it has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_ratchet import _backends
from keras_ratchet._engine.resume.callback_states import CallbackStates
from keras_ratchet._engine.resume.data_cursor import DataCursor
from keras_ratchet._keras import proved
from keras_ratchet._warn import warn


def warn_of_losses(cursor: DataCursor) -> None:
    """Warn of what of the data an interruption will lose, with the cure."""
    if unproved := proved.unproved():
        warn(f"Resume may not be exact: {unproved} Use one of these, or a newer keras-ratchet.")
    for complaint in cursor.complaints():
        warn(f"Resume will not be exact. {complaint}")


class Lost:
    """Warns, in the first epoch, of what callbacks have changed and a restart will not know.

    What nobody has changed since training began is the script's to make again.

    Args:
        states: Of the callbacks.
    """

    def __init__(self, states: CallbackStates) -> None:
        self._states = states
        self._told: set[str] = set()
        self._looks = True

    def say(self, last: bool = False) -> None:
        """Warn of it, of each attribute once; `last` says that the epoch has ended."""
        looks, self._looks = self._looks, self._looks and not last
        found = dict.fromkeys(self._states.lost()) if looks else {}
        lost = [name for name in found if name not in self._told]
        self._told.update(lost)
        if lost:
            warn(
                f"These attributes of callbacks are lost if training is interrupted: "
                f"{', '.join(lost)}. Give the callback state_dict() and load_state_dict()."
            )


def warn_of_generators(source: Any) -> bool:
    """Warn of a DataLoader with generators of its own that nobody told us about; say if so."""
    torch = _backends.torch_loading()
    if torch is None or not hasattr(source, "batch_sampler") or not torch.generators(source):
        return False
    warn(
        "Resume will not be exact. This DataLoader draws from a generator of its own. Say so: "
        "Run(..., data=loader)."
    )
    return True


def warn_of_changes(lost: Mapping[str, bool]) -> None:
    """Warn, after the first epoch, of what it has changed in the data and nobody can keep.

    Args:
        lost: The names, and whether these are tables or arrays, whose rows may be shuffled.
    """
    if lost:
        shuffle = "Shuffle row numbers, not the table: an array of indices is kept. Or give"
        cure = shuffle if any(lost.values()) else "Give"
        warn(
            f"Resume will not be exact: the first epoch has changed {', '.join(lost)}, which "
            f"cannot be kept. {cure} the data set state_dict() and load_state_dict()."
        )
