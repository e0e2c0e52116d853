"""Callbacks that a list gets if the environment asks for them: `ratchet doctor` and `ratchet run`.

They stand after all other callbacks but the last one of `BackupAndRestore`, change nothing, and
take no part in what is saved.

| variable | set by | what comes into the list |
|---|---|---|
| `RATCHET_DOCTOR`, a directory | `ratchet doctor` | `Probe`: notes what happens, with all values |
| `RATCHET_RUN`, a directory | `ratchet run` | `Heartbeat`: notes there that training moves on |
"""

from __future__ import annotations

import os
from typing import Any

from keras_ratchet._keras.callbacks import make_synchronous
from keras_ratchet._probe.probe import Probe
from keras_ratchet.callbacks._heartbeat import Heartbeat

_KINDS: dict[str, Any] = {"RATCHET_DOCTOR": Probe, "RATCHET_RUN": Heartbeat}


def add_companions(callback_list: Any, model: Any) -> None:
    """Add the callbacks that the environment asks for and that a list does not have yet.

    Args:
        callback_list: The `CallbackList`, which is calling `set_model`.
        model: The model.
    """
    for variable, kind in _KINDS.items():
        directory = os.environ.get(variable)
        if not directory or any(isinstance(c, kind) for c in callback_list.callbacks):
            continue
        companion = kind(directory, callback_list)
        present = callback_list.callbacks
        tail = [c for c in present if getattr(c, "place", "") == "last"]
        callback_list.callbacks = [*(c for c in present if c not in tail), companion, *tail]
        companion.set_model(model)
        make_synchronous(callback_list)


def is_examined() -> bool:
    """Return whether `ratchet doctor` runs this script, which nobody outside is to hear of."""
    return bool(os.environ.get("RATCHET_DOCTOR"))


def is_companion(callback: Any) -> bool:
    """Return whether a callback is one of these."""
    return isinstance(callback, tuple(_KINDS.values()))


def show_batch(callback_list: Any, batch: Any) -> None:
    """Show a batch of a hand-written loop to the companions that look at batches."""
    for callback in callback_list.callbacks:
        if isinstance(callback, Probe):
            callback.see(batch)
