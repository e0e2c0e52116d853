"""One writer per checkpoint: who is refused, who is let in, and whose lock ends when."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from support.models import dense, fit, stamp_of

import keras_ratchet
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet.errors import LockedError

HOLD = """
import sys
from keras_ratchet._storage.lock import FileLock

lock = FileLock(sys.argv[1], "it")
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


def talk(code, path):
    """Start a process that we talk with through its stdin and stdout."""
    command = [sys.executable, "-c", code, path]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "x.lock")


@pytest.fixture
def holder():
    """Start a real process that holds a lock; a line on its stdin lets it go on."""
    processes = []

    def start(path):
        process = talk(HOLD, path)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def is_free(path):
    """Say whether another process gets the lock now."""
    code = (
        "import sys\n"
        "from keras_ratchet._storage.lock import FileLock\n"
        "from keras_ratchet.errors import LockedError\n"
        "try:\n    FileLock(sys.argv[1], 'it').acquire()\n"
        "except LockedError:\n    sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60)
    assert done.returncode in (0, 7)
    return done.returncode == 0


def test_a_second_process_is_refused_and_told_who_holds_the_lock(path, holder):
    process = holder(path)
    with pytest.raises(LockedError, match=f"process {process.pid} on .*since 20") as refusal:
        FileLock(path, "checkpoint 'best.keras'").acquire()
    assert "checkpoint 'best.keras'" in str(refusal.value)
    assert "wait for it to end" in str(refusal.value)


def test_a_lock_that_was_given_back_is_free(path, holder):
    process = holder(path)
    print(file=process.stdin, flush=True)
    assert process.stdout.readline() == "released\n"
    lock = FileLock(path, "it")
    lock.acquire()
    lock.release()


def test_the_lock_of_a_killed_holder_is_taken_over(path, holder):
    process = holder(path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads(Path(path).read_text())["pid"] == process.pid
    lock = FileLock(path, "it")
    lock.acquire()
    assert json.loads(Path(path).read_text())["pid"] == os.getpid()
    lock.release()


def test_a_refused_process_does_not_break_the_lock(path, holder):
    holder(path)
    for _ in range(2):
        with pytest.raises(LockedError):
            FileLock(path, "it").acquire()
    assert not is_free(path)


def test_within_a_process_the_lock_is_re_entrant_and_the_last_release_counts(path):
    first, second = FileLock(path, "one"), FileLock(path, "two")
    first.acquire()
    second.acquire()
    first.release()
    assert not is_free(path)
    second.release()
    assert is_free(path)
    second.release()  # one too many does nothing


def test_a_link_to_the_lock_file_is_the_same_lock(path, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "alias").symlink_to(tmp_path / "runs")
    first = FileLock(str(tmp_path / "runs" / "a.lock"), "it")
    second = FileLock(str(tmp_path / "alias" / "a.lock"), "it")
    first.acquire()
    second.acquire()
    second.release()
    assert not is_free(str(tmp_path / "runs" / "a.lock"))
    first.release()


def test_threads_that_take_and_give_back_do_not_lose_the_lock(path):
    outer = FileLock(path, "it")
    outer.acquire()

    def work():
        for _ in range(50):
            lock = FileLock(path, "it")
            lock.acquire()
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not is_free(path)
    outer.release()
    assert is_free(path)


def test_text_that_is_no_holder_does_not_confuse_the_message(path, holder):
    holder(path)
    Path(path).write_bytes(b"[\xff")
    with pytest.raises(LockedError, match="another process"):
        FileLock(path, "it").acquire()


FORK = """
import os, sys, time
from keras_ratchet._storage.lock import FileLock

lock = FileLock(sys.argv[1], "it")
lock.acquire()
child = os.fork()
if child:
    time.sleep(600)
try:
    FileLock(sys.argv[1], "it").acquire()
    print("let in")
except Exception as error:
    print(type(error).__name__)
lock.release()
print("still there", flush=True)
sys.stdin.readline()
os._exit(0)
"""


def test_a_forked_child_neither_has_nor_breaks_nor_keeps_its_parents_lock(path):
    parent = talk(FORK, path)
    try:
        assert parent.stdout.readline() == "LockedError\n"
        assert parent.stdout.readline() == "still there\n"
        assert json.loads(Path(path).read_text())["pid"] == parent.pid
        assert not is_free(path)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert is_free(path)  # though the child lives on
    finally:
        parent.kill()
        parent.communicate()


TRAIN = """
import sys
import keras, numpy as np, keras_ratchet

model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
callback = keras_ratchet.ModelCheckpoint(sys.argv[1], save_weights_only=True)
callback.set_model(model)
callback.on_train_begin()
callback.on_epoch_end(0, {"loss": 0.5})
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_second_training_on_the_same_file_is_refused_and_a_dead_ones_goes_on(tmp_path):
    path = str(tmp_path / "best.weights.h5")
    first = talk(TRAIN, path)
    try:
        assert first.stdout.readline() == "held\n"
        saved = Path(path).read_bytes()
        callback = keras_ratchet.ModelCheckpoint(path, save_weights_only=True)
        with pytest.raises(LockedError, match=f"process {first.pid} "):
            fit(dense(), callback)
        assert Path(path).read_bytes() == saved
        other = keras_ratchet.ModelCheckpoint(
            str(tmp_path / "last.weights.h5"), save_weights_only=True
        )
        fit(dense(), other)  # another file in the same directory is free
        first.kill()
        first.wait()
        fit(dense(), callback)
        assert Path(path).read_bytes() != saved
    finally:
        first.kill()
        first.communicate()


def test_best_and_last_in_one_directory_work(tmp_path):
    model = dense()
    callbacks = [
        keras_ratchet.ModelCheckpoint(
            tmp_path / "best.keras", monitor="loss", save_best_only=True, save_at_end=False
        ),
        keras_ratchet.ModelCheckpoint(tmp_path / "last.keras"),
        keras_ratchet.ModelCheckpoint(tmp_path / "e-{epoch}.keras", keep_last=1),
    ]
    fit(model, callbacks, epochs=3)
    names = sorted(info.name for info in keras_ratchet.checkpoints(tmp_path))
    assert names[0] == "best.keras"
    assert names[-1] == "last.keras"
    assert all(keras_ratchet.verify(str(tmp_path / name)) for name in names)
    assert not list(tmp_path.glob(".draft-*")) + list(tmp_path.glob(".trash-*"))


def test_parallel_folds_in_one_directory_do_not_disturb_each_other(tmp_path):
    """The hooks run in threads, as joblib's threading backend would run them."""
    folds, epochs, failures = 4, 6, []
    models = [dense() for _ in range(folds)]

    def train(fold):
        try:
            callback = keras_ratchet.ModelCheckpoint(
                tmp_path / f"fold-{fold}-{{epoch}}.weights.h5", save_weights_only=True, keep_last=2
            )
            callback.set_model(models[fold])
            callback.on_train_begin()
            for epoch in range(epochs):
                number = 100 * fold + epoch + 1
                weights = [np.full_like(w, number) for w in models[fold].get_weights()]
                models[fold].set_weights(weights)
                callback.on_epoch_begin(epoch)
                callback.on_epoch_end(epoch, {"val_loss": 1.0 / (epoch + 1)})
            callback.on_train_end()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=train, args=(fold,)) for fold in range(folds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for fold in range(folds):
        for epoch in (epochs - 1, epochs):
            path = str(tmp_path / f"fold-{fold}-{epoch}.weights.h5")
            assert keras_ratchet.verify(path)
            keras_ratchet.load_weights(models[fold], path)
            assert stamp_of(models[fold]) == 100 * fold + epoch
    assert len(keras_ratchet.checkpoints(tmp_path)) == 2 * folds
    assert len(list((tmp_path / METADATA).glob("*.json"))) == 2 * folds
