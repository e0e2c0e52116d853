"""Notes what happens in a run, for `ratchet doctor`."""

from __future__ import annotations

from typing import Any

import keras


class Probe(keras.callbacks.Callback):
    """Notes what happens in a run, for `ratchet doctor`.

    Args:
        directory: Where.
        callback_list: The list that it stands in.
    """

    def __init__(self, directory: str, callback_list: Any) -> None:
        super().__init__()
        self._directory = directory
        self._list = callback_list
