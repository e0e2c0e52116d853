"""Notes that training moves on, for `ratchet run`."""

from __future__ import annotations

from typing import Any

import keras


class Heartbeat(keras.callbacks.Callback):
    """Notes that training moves on, for `ratchet run`.

    Args:
        directory: Where.
        callback_list: The list that it stands in.
    """

    def __init__(self, directory: str, callback_list: Any) -> None:
        super().__init__()
        self._directory = directory
        self._list = callback_list
