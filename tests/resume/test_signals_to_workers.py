"""A signal to the whole process group, as scancel and systemd send it: workers hear it too."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from keras_ratchet.callbacks import _worker_signals
from keras_ratchet.callbacks._signals import Loop, Signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
SCRIPT = Path(__file__).parents[1] / "support" / "grouped.py"


def slow(args):
    marks, index = args
    Path(marks, str(index)).touch()
    time.sleep(1.5)
    return index


@contextlib.contextmanager
def pool_in_training(frame):
    """Yield two workers, forked as Keras's are: on a thread, while a loop runs under signals."""
    armed = Signals(("SIGTERM",), 30, None)
    armed.start(Loop(frame, None))
    pools = []
    fork = multiprocessing.get_context("fork")
    thread = threading.Thread(target=lambda: pools.append(fork.Pool(2)))
    thread.start()
    thread.join()
    try:
        yield armed, pools[0]
    finally:
        armed.stop()
        for process in pools[0]._pool:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)


def within(seconds, action):
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def signal_all(pool):
    for process in [*pool._pool, multiprocessing.current_process()]:
        os.kill(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("busy", [True, False])
def test_no_batch_is_lost_when_workers_hear_the_signal_too(tmp_path, busy):
    with pool_in_training(sys._getframe()) as (armed, pool):
        values = pool.map_async(slow, [(tmp_path, i) for i in range(4)], chunksize=1)
        while len(os.listdir(tmp_path)) < 2:
            time.sleep(0.01)
        if not busy:
            values.get(30)
        signal_all(pool)
        assert armed.received is not None
        assert values.get(30) == [0, 1, 2, 3]
        assert pool.map_async(slow, [(tmp_path, 9)]).get(30) == [9], "the last batch needs them yet"
        armed.stop()
        assert within(20, pool.terminate)


def test_workers_of_a_training_that_failed_can_be_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(_worker_signals, "_PATIENCE_S", 0.3)
    with pool_in_training(sys._getframe()) as (_, pool):
        pool.map_async(time.sleep, [60, 60], chunksize=1)
        time.sleep(0.3)
        assert within(20, pool.terminate)


def test_a_group_that_is_told_to_end_saves_its_snapshot_and_ends(tmp_path):
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    out = subprocess.PIPE
    with subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == b"now\n"
            os.killpg(process.pid, signal.SIGTERM)
            _, errors = process.communicate(timeout=120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 75, errors
    assert [name for name in os.listdir(tmp_path) if name.startswith("epoch-00001-batch-")]
