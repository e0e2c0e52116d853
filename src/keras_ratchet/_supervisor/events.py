"""What a supervisor tells: a line on stderr for each event, and the same in its journal."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from keras_ratchet._json import plain
from keras_ratchet._storage import journal


class Events:
    """Tells events.

    Args:
        directory: Where the journal is; None without one.
        say: Prints a line on stderr.
        as_json: Whether the lines are JSON.
    """

    def __init__(
        self, directory: str | None, say: Callable[[str], None], as_json: bool = False
    ) -> None:
        self._directory = directory
        self._say = say
        self._as_json = as_json

    def note(self, event: str, *, reason: str, **fields: Any) -> None:
        """Print an event, and add it to the journal."""
        line = f"ratchet run: {reason}"
        if self._as_json:
            line = json.dumps(plain({"event": event, "reason": reason, **fields}))
        with contextlib.suppress(OSError):  # a terminal that was closed must not end the script
            self._say(line)
        if self._directory is not None:
            journal.append(self._directory, event, reason=reason, **fields)
