"""Locks of trainings that an exception has ended, kept by nobody or by a traceback."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
from support import background_saves
from support.models import dense, fit

import keras_ratchet
from keras_ratchet._storage.lock import FileLock
from keras_ratchet.callbacks import _abandoned_locks, _signals


class Pruned(Exception):
    """Stands for optuna.TrialPruned."""


class Prune(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise Pruned


def trial(directory):
    saves = [
        keras_ratchet.ModelCheckpoint(directory / "best.weights.h5", save_weights_only=True),
        keras_ratchet.BackupAndRestore(directory / "backup"),
    ]
    with pytest.raises(Pruned) as kept:
        fit(dense(), [*saves, Prune()])
    return kept, saves


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors are counted in /proc")
def test_trials_that_end_by_an_exception_leak_no_descriptors(tmp_path):
    trial(tmp_path / "first")
    background_saves.settle()  # a save that is running has its lock and its draft open
    gc.collect()
    before = descriptors()
    for number in range(5):
        trial(tmp_path / str(number))
    background_saves.settle()
    assert descriptors() <= before + 4  # those of the last one, and of none before it
    gc.collect()
    assert descriptors() <= before


TAKE = """
import sys
from keras_ratchet._storage.lock import FileLock

FileLock(sys.argv[1], "it").acquire()
"""


def may_take(path):
    return (
        subprocess.run([sys.executable, "-c", TAKE, path], check=False, timeout=60).returncode == 0
    )


def test_an_idle_process_that_keeps_the_traceback_keeps_nobody_out(tmp_path):
    kept, saves = trial(tmp_path)
    (lock,) = (tmp_path / "backup").rglob("backup.lock")
    for _ in range(50):
        if not saves[1]._store.locked:
            break
        time.sleep(0.1)
    assert may_take(str(lock))
    assert kept.value is not None


def is_locked_in_a_hook_of(directory, seconds):
    """Return whether a `fit` still has its lock after a hook that takes so long."""
    seen = []

    class Wait(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            time.sleep(seconds)
            seen.append(saves._checkpointer.store.locked)

    saves = keras_ratchet.ModelCheckpoint(directory / "a.weights.h5", save_weights_only=True)
    fit(dense(), [saves, Wait()], epochs=1)
    return seen == [True]


def test_a_fit_that_goes_on_keeps_its_lock(tmp_path):
    assert is_locked_in_a_hook_of(tmp_path, seconds=2.5)


def test_a_lock_that_nobody_has_any_more_is_given_back(tmp_path):
    lock = FileLock(str(tmp_path / "x.lock"), "it")
    lock.acquire()
    before = descriptors()
    del lock
    gc.collect()
    assert descriptors() == before - 1


class Slow(keras.callbacks.Callback):
    """Takes its time in `guard`; the thread that releases locks looks often meanwhile."""

    def on_train_abort(self, error):
        time.sleep(1.5)


def test_in_guard_the_last_save_is_made_under_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(_abandoned_locks, "POLL_S", 0.05)
    held = []
    save = keras_ratchet.ModelCheckpoint(
        tmp_path / "a.weights.h5", save_weights_only=True, save_freq=10**6, save_at_end=True
    )
    backup = keras_ratchet.BackupAndRestore(tmp_path / "backup")

    class Look(keras.callbacks.Callback):
        def on_train_abort(self, error):
            held.extend([save._checkpointer.store.locked, backup._store.locked])

    callbacks = [Slow(), Look(), save, backup, Prune()]
    model = dense()
    with pytest.raises(Pruned), keras_ratchet.guard(model, callbacks):
        fit(model, callbacks)
    assert held == [True, True]
    assert not save._checkpointer.store.locked  # each has given it free itself
    assert not backup._store.locked
    assert (tmp_path / "a.weights.h5").exists()


def test_a_lock_that_the_last_work_could_not_give_free_is_released_later(tmp_path, monkeypatch):
    monkeypatch.setattr(_abandoned_locks, "POLL_S", 0.05)
    save = keras_ratchet.ModelCheckpoint(tmp_path / "a.weights.h5", save_weights_only=True)
    monkeypatch.setattr(save, "on_train_abort", lambda error: 1 / 0)
    callbacks = [save, Prune()]
    model = dense()
    with pytest.raises(Pruned) as kept, keras_ratchet.guard(model, callbacks):
        fit(model, callbacks)
    assert kept.value.__notes__
    for _ in range(50):
        if not save._checkpointer.store.locked:
            break
        time.sleep(0.1)
    assert not save._checkpointer.store.locked


def test_a_lock_is_kept_where_the_thread_cannot_see_the_loop(tmp_path, monkeypatch):
    """Were the traces of a coming Python written otherwise, every `fit` would look ended."""
    monkeypatch.setattr(_abandoned_locks, "POLL_S", 0.05)
    monkeypatch.setattr(_signals, "calls_of", lambda thread: {("elsewhere.py", "train")})
    assert is_locked_in_a_hook_of(tmp_path, seconds=0.5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_that_is_forked_while_the_thread_looks_can_train():
    with _abandoned_locks._leftovers._mutex:
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)  # ends it
            with _abandoned_locks.keep_locks([]):
                os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
