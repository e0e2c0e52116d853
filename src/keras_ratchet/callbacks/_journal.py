"""The journals of a run: those of the callbacks in its list that save."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from keras_ratchet.callbacks.backup_and_restore import BackupAndRestore
from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint


def note(callback_list: Any, event: str, **facts: Any) -> None:
    """Add a line to the journal of each ModelCheckpoint and BackupAndRestore of a list.

    Args:
        callback_list: The `CallbackList`, or None.
        event: What has happened.
        **facts: More about it.
    """
    found = sorted(_journals(callback_list), key=lambda j: hasattr(j, "name"))
    journals = {os.path.abspath(j.directory): j for j in found}  # best one that tells its series
    for journal in journals.values():
        journal.note(event, **facts)


def _journals(callback_list: Any) -> Iterator[Any]:
    for callback in getattr(callback_list, "callbacks", ()):
        if isinstance(callback, BackupAndRestore):
            yield callback.backups
        elif isinstance(callback, ModelCheckpoint):
            yield callback._saves.series
