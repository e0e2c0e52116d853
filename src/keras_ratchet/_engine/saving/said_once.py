"""What a callback says once, or once in each run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from keras_ratchet._warn import warn

_log = logging.getLogger("keras_ratchet")


@dataclass
class SaidOnce:
    """Remembers what was said."""

    _said: set[str] = field(default_factory=set)
    _of_run: set[str] = field(default_factory=set)

    def start_run(self) -> None:
        """Forget what another run says again."""
        self._said -= self._of_run
        self._of_run.clear()

    def warn(self, key: str, message: str, per_run: bool = False) -> None:
        """Warn once, or once in each run."""
        if key not in self._said:
            self._said.add(key)
            self._of_run |= {key} if per_run else set()
            warn(message)

    def log(self, message: str) -> None:
        """Log a warning once in each run."""
        if message not in self._said:
            self._said.add(message)
            self._of_run.add(message)
            _log.warning("%s", message)
