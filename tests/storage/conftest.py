"""What the tests of the storage share."""

import os
import tempfile

import pytest


@pytest.fixture
def quick_path():
    """A directory in memory where there is such a place: syncs are simulated or do not matter."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as path:
        yield path
