"""Ctrl-C is Python's own affair at the beginning of each test here."""

import signal

import pytest


@pytest.fixture(autouse=True)
def python_handles_sigint():
    """Python's own handler, as a script has it: in a background shell SIGINT may be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
