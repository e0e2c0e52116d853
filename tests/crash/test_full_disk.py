"""A disk that refuses a save: ours is an error that can be handled, Keras's ends the process."""

import errno
import os
import signal
import subprocess

import keras
import pytest
from support import full_disk
from support.stamped import SUFFIXES

# Bytes at which the disk refuses; fractions and negative counts refer to the new file's size.
LIMITS = (0, 96, 4096, 0.3, -1)
# Small enough that HDF5 has everything in its cache when the file is closed, and large enough not.
WIDTHS = (32, 160)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and rlimits"),
]
keras_is_the_one_described = pytest.mark.skipif(
    keras.__version__ != "3.15.1", reason="Keras may be cured"
)


@pytest.fixture
def small_disk(tmp_path):
    """Mount a real file system of 8 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True, timeout=30)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True, timeout=30)


def check_ours(attempts, code):
    for attempt in attempts:
        assert attempt.is_save_error, attempt
        assert attempt.errno == code, attempt
        assert attempt.is_unchanged, attempt
        assert attempt.strangers == [], attempt
        assert attempt.loaded == 1, attempt
        assert attempt.code == 0, attempt
        assert attempt.again == 3, attempt


def test_a_file_size_limit_is_a_save_error_and_the_older_file_stays(tmp_path):
    attempts = full_disk.run(full_disk.Settings("ratchet", WIDTHS, LIMITS), tmp_path)
    assert len(attempts) == len(LIMITS) * len(WIDTHS) * len(SUFFIXES)
    check_ours(attempts, errno.EFBIG)


def test_a_full_disk_is_a_save_error_and_the_older_file_stays(small_disk, tmp_path):
    limits = (0, 0.6, -8192)  # the last is found out while writing only
    settings = full_disk.Settings("ratchet", (160,), limits, str(small_disk))
    attempts = full_disk.run(settings, tmp_path)
    assert len(attempts) == len(limits) * len(SUFFIXES)
    check_ours(attempts, errno.ENOSPC)


@keras_is_the_one_described
def test_a_file_size_limit_costs_keras_the_older_file_and_with_hdf5_the_process(tmp_path):
    attempts = full_disk.run(full_disk.Settings("keras", (32,), LIMITS), tmp_path)
    assert [attempt for attempt in attempts if not attempt.problem] == []
    for suffix in (".weights.h5", ".h5"):
        codes = [attempt.code for attempt in attempts if attempt.suffix == suffix]
        assert codes.count(-signal.SIGSEGV) >= 3, codes
    assert {attempt.code for attempt in attempts if attempt.suffix == ".keras"} == {0}


@keras_is_the_one_described
def test_a_full_disk_costs_keras_the_older_file(small_disk, tmp_path):
    settings = full_disk.Settings("keras", (160,), (0, 4096, 0.3), str(small_disk))
    attempts = full_disk.run(settings, tmp_path)
    assert len(attempts) == 3 * len(SUFFIXES)
    assert [attempt for attempt in attempts if not attempt.problem] == []
