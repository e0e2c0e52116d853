"""Settings for every test: one backend per run, chosen by KERAS_BACKEND."""

import os
import signal
import tempfile

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import pytest
from support import background_saves, collector

collect_ignore = ["support"]  # modules that tests import, some of them in a process of their own

hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def _saves_in_background():
    background_saves.apply()


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard():
    """A process that a shell starts in the background ignores Ctrl-C, and under nohup SIGHUP.

    Tests send these to processes that they start, which inherit what is ignored.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _collector_is_spared():
    collector.spare()


@pytest.fixture
def backend():
    """Name of the backend under test."""
    import keras

    return keras.backend.backend()


@pytest.fixture
def quick_path():
    """A directory in memory where there is such a place: syncs are simulated or do not matter."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as path:
        yield path
