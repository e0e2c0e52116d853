"""The journals of a run: those of the callbacks in its list that save."""

from __future__ import annotations

import os
from typing import Any, Protocol

from keras_ratchet.types import CallbackList


class Journal(Protocol):
    """What a callback that saves has as `_run_journal`: it adds lines to `.ratchet/journal.jsonl`.

    Where two write to one directory, the one that also has a `name` (that of its series) counts.
    """

    @property
    def directory(self) -> str:
        """The directory that is saved to."""

    def note(self, event: str, **fields: Any) -> None:
        """Add a line."""


def note_stops(journal: Journal, callback_list: CallbackList) -> None:
    """Add why the callbacks of a list have stopped training, if any has, to a journal."""
    callbacks = getattr(callback_list, "callbacks", ())
    for stop in filter(None, (getattr(c, "stop_reason", None) for c in callbacks)):
        kinds = "+".join(getattr(stop, "kinds", (stop.kind,)))
        journal.note("stop", reason=str(stop), kind=kinds, epoch=stop.epoch + 1)


def note(callback_list: CallbackList, event: str, **fields: Any) -> None:
    """Add a line to the journal of each directory that the callbacks of a list save to.

    Args:
        callback_list: The `CallbackList`, or None.
        event: What has happened.
        **fields: More about it.
    """
    for journal in _by_directory(callback_list).values():
        journal.note(event, **fields)


def note_resume(callback_list: CallbackList, own: Journal, **fields: Any) -> None:
    """Add that the run resumes to each journal, so that it outlives the backup directory.

    Args:
        callback_list: The `CallbackList`, or None.
        own: The journal of the backup directory; in a directory of several the one that counts.
        **fields: From where it resumes.
    """
    journals = _by_directory(callback_list) | {os.path.abspath(own.directory): own}
    for journal in journals.values():
        journal.note("resume", **fields)


def _by_directory(callback_list: CallbackList) -> dict[str, Journal]:
    callbacks = getattr(callback_list, "callbacks", ())
    found = [getattr(callback, "_run_journal", None) for callback in callbacks]
    named_last = sorted(filter(None, found), key=lambda journal: hasattr(journal, "name"))
    return {os.path.abspath(journal.directory): journal for journal in named_last}
