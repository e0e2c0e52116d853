"""Saves in the background: all of them, held up for a while, waited for.

With RATCHET_BACKGROUND=1 in the environment every save is written in the background.
"""

import os
import threading

WANTED = bool(os.environ.get("RATCHET_BACKGROUND"))


def apply():
    """Let no save be too small for a thread, unless a test says otherwise."""
    if WANTED:
        from keras_ratchet._engine.saving import background

        background.INLINE_MAX_BYTES = -1


def settle():
    """Wait for all saves under way: before a test looks at the disk, or changes it."""
    from keras_ratchet._engine.saving import background

    background.drain()


class Roadblock:
    """Holds up all saves beside training that begin from now on, until it is lifted."""

    def __init__(self):
        from keras_ratchet._engine.saving.background import BackgroundWriter

        self._lifted = threading.Event()
        self._writer = BackgroundWriter()
        self._writer.start(lambda: self._lifted.wait(60), self)

    def lift(self):
        """Let the saves go on."""
        self._lifted.set()
        assert self._writer.wait(), "a roadblock that nobody lifted within 60 s"
