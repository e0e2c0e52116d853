"""What a resume will not keep, said when training begins."""

from __future__ import annotations

import warnings

from keras_ratchet._engine.callback_states import CallbackStates
from keras_ratchet._engine.data_cursor import DataCursor


def warn(states: CallbackStates, cursor: DataCursor) -> None:
    """Warn of everything that an interruption will lose, with the cure."""
    if forgotten := states.not_kept():
        warnings.warn(
            f"These attributes of callbacks are lost if training is interrupted: "
            f"{', '.join(forgotten)}. Give the callback state_dict() and load_state_dict().",
            stacklevel=5,
        )
    for complaint in cursor.complaints():
        warnings.warn(f"Resume will not be exact. {complaint}", stacklevel=5)
