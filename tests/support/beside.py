"""RATCHET_BACKGROUND=1: the same tests with every save written beside training."""

import os

WANTED = bool(os.environ.get("RATCHET_BACKGROUND"))


def apply():
    """Let no save be too small for a thread, unless a test says otherwise."""
    if WANTED:
        from keras_ratchet._engine import file_save

        file_save.BLINK_BYTES = -1


def settle():
    """Wait for all saves under way: before a test looks at the disk, or changes it."""
    from keras_ratchet._engine import writer

    writer.drain()
