"""Saves beside training: order, ends, errors, busy writers, forks; a roadblock holds them up."""

import errno
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import keras
import pytest
from support import background_saves
from support.models import Curve, dense, fit

import keras_ratchet
from keras_ratchet._engine.saving import background, checkpoint_store
from keras_ratchet._engine.saving.background import BackgroundWriter
from keras_ratchet._storage import disk, journal
from keras_ratchet.errors import SaveError
from keras_ratchet.policy.retention import Ranking
from keras_ratchet.types import Moment, Position

HELD_UP_S = 0.3
NO_MODEL = object()
END = Moment(Position(1))


def saver(directory, name="{epoch}.weights.h5", **arguments):
    return keras_ratchet.ModelCheckpoint(
        directory / name,
        save_weights_only=name.endswith(".weights.h5"),
        background=True,
        **arguments,
    )


def events(directory, kind):
    return [e for e in journal.read(str(directory)) if e["event"] == kind]


class At(keras.callbacks.Callback):
    """Does something at the end of an epoch, before the callbacks behind it."""

    def __init__(self, epoch, action):
        super().__init__()
        self.epoch, self.action = epoch, action

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.action()


def hold_up():
    """Hold saves up for a while."""
    threading.Timer(HELD_UP_S, background_saves.Roadblock().lift).start()


# Errors.


@pytest.fixture
def broken(monkeypatch):
    """Let the save of the second epoch fail, on its own thread."""
    real = checkpoint_store.write_model_file

    def no_space(frozen, path, *rest):
        if os.path.basename(path).startswith("2."):
            assert threading.current_thread() is not threading.main_thread()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(frozen, path, *rest)

    monkeypatch.setattr(checkpoint_store, "write_model_file", no_space)


def test_an_error_is_raised_at_the_next_hook_with_the_traceback_of_its_thread(tmp_path, broken):
    begun = []
    late = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    drained = At(2, lambda: None)
    drained.on_epoch_begin = lambda epoch, logs=None: background.drain()
    with pytest.raises(SaveError, match="No space left on device") as caught:
        fit(dense(), [drained, saver(tmp_path), late], epochs=5)
    assert begun == [0, 1]  # the error was raised as the third epoch began
    shown = "".join(traceback.format_exception(caught.value))
    assert ", in no_space" in shown and ", in _write" in shown
    assert [p.name for p in tmp_path.glob("*.h5")] == ["1.weights.h5"]


def test_an_error_that_is_only_warned_about_is_told_and_noted(tmp_path, broken):
    with pytest.warns(UserWarning, match="No space left on device.*Training continues"):
        fit(dense(), [saver(tmp_path, on_save_error="warn")], epochs=4)
    assert [e["name"] for e in events(tmp_path, "save_error")] == ["2.weights.h5"]
    assert sorted(p.name[0] for p in tmp_path.glob("*.h5")) == ["1", "3", "4"]


def test_the_last_save_fails_and_fit_does(tmp_path, broken):
    with pytest.raises(SaveError, match="No space left"):
        fit(dense(), [saver(tmp_path)], epochs=2)


def test_a_save_that_failed_is_not_the_best(tmp_path, broken):
    best = saver(tmp_path, save_best_only=True, on_save_error="warn")
    curve = Curve(val_loss=[0.5, 0.1, 0.4, 0.45])
    with pytest.warns(UserWarning, match="Training continues"):  # it has not failed yet at the 0.4
        fit(dense(), [curve, At(1, hold_up), best], epochs=4)
    assert best.best == 0.4
    assert sorted(p.name[0] for p in tmp_path.glob("*.h5")) == ["1", "3"]


def test_a_backup_that_relies_on_a_save_that_failed_is_left_out(tmp_path, broken):
    backup = keras_ratchet.BackupAndRestore(
        tmp_path / "b", background=True, delete_checkpoint=False
    )
    with pytest.warns(UserWarning, match="Training continues"):
        fit(dense(), [saver(tmp_path, on_save_error="warn"), backup, At(1, hold_up)], epochs=3)
    skipped = events(tmp_path / "b", "skip")
    assert [e["reason"] for e in skipped] == ["a save that it depends on has failed"]


# Every way out waits for what is under way.


def test_flush_waits(tmp_path):
    callback, seen = saver(tmp_path), []

    def look():
        path = tmp_path / "1.weights.h5"
        seen.append(path.exists())
        callback.flush()
        seen.append(path.exists() and bool(keras_ratchet.verify(str(path))))

    fit(dense(), [At(0, hold_up), callback, At(0, look)], epochs=1)
    assert seen == [False, True]


def test_the_end_of_training_waits(tmp_path):
    fit(dense(), [At(1, hold_up), saver(tmp_path)], epochs=2)
    assert keras_ratchet.verify(str(tmp_path / "2.weights.h5"))


def test_ctrl_c_waits(tmp_path):
    callbacks = [At(1, hold_up), saver(tmp_path), At(1, lambda: signal.raise_signal(2))]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(dense(), callbacks, epochs=4)
    finally:
        signal.signal(signal.SIGINT, before)
    assert keras_ratchet.verify(str(tmp_path / "2.weights.h5"))


def test_an_exception_inside_guard_waits(tmp_path):
    model = dense()
    callbacks = [At(1, hold_up), saver(tmp_path), At(1, lambda: 1 / 0)]
    with pytest.raises(ZeroDivisionError), keras_ratchet.guard(model, callbacks):
        fit(model, callbacks, epochs=4)
    assert keras_ratchet.verify(str(tmp_path / "2.weights.h5"))


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import keras, keras_ratchet
from support import background_saves
from support.models import dense
import threading
callback = keras_ratchet.ModelCheckpoint(
    sys.argv[1], save_weights_only=True, background=True, monitor="loss"
)
callbacks = keras.callbacks.CallbackList([callback], model=dense(), epochs=9)
callbacks.on_train_begin()
callbacks.on_epoch_begin(0)
threading.Timer(0.5, background_saves.Roadblock().lift).start()
callbacks.on_epoch_end(0, {"loss": 1.0})
sys.exit(3)
"""


def test_the_end_of_the_process_waits(tmp_path):
    path, tests = tmp_path / "m.weights.h5", str(Path(__file__).parents[2])
    command = [sys.executable, "-X", "faulthandler", "-c", SCRIPT, str(path), tests]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert keras_ratchet.verify(str(path))


# One save in flight, or none more.


class Flight:
    """Counts the jobs of one writer that have been submitted and have not ended."""

    def __init__(self, monkeypatch):
        self.now, self.most = 0, 0
        real = BackgroundWriter.start

        def start(this, save, model):
            self.now += 1
            self.most = max(self.most, self.now)

            def counted():
                try:
                    return save()
                finally:
                    self.now -= 1

            real(this, counted, model)

        monkeypatch.setattr(BackgroundWriter, "start", start)


def test_a_busy_writer_is_waited_for(tmp_path, monkeypatch):
    flight = Flight(monkeypatch)
    callback = saver(tmp_path, "{epoch}-{batch}.weights.h5", save_freq=1)
    fit(dense(), [callback], epochs=3)
    assert len(list(tmp_path.glob("*.h5"))) == 12
    assert flight.most == 1 and flight.now == 0


class Block:
    """A roadblock that stands from one epoch to another."""

    def stand(self):
        self.lift = background_saves.Roadblock().lift

    def go(self):
        self.lift()


def test_a_busy_writer_is_passed_by_and_the_journal_says_so(tmp_path):
    block = Block()
    callback = saver(tmp_path, if_busy="skip")
    callbacks = [
        At(0, block.stand),
        callback,
        At(2, block.go),
        At(2, callback.flush),
    ]
    fit(dense(), callbacks, epochs=4)
    assert sorted(p.name[0] for p in tmp_path.glob("*.h5")) == ["1", "4"]
    skipped = events(tmp_path, "skip")
    assert [e["epoch"] for e in skipped] == [2, 3]
    assert all("still being written" in e["reason"] for e in skipped)


def test_what_was_passed_by_is_saved_at_the_end_if_that_was_asked_for(tmp_path):
    block = Block()
    callback = saver(tmp_path, if_busy="skip", save_at_end=True)
    fit(dense(), [At(0, block.stand), callback, At(1, block.go)], epochs=2)
    assert keras_ratchet.verify(str(tmp_path / "2.weights.h5"))


def test_buffers_are_used_again_and_given_back(tmp_path):
    callback, held = saver(tmp_path), []
    store = callback._checkpointer.store

    def look():
        callback.flush()
        held.append((store._buffers._buffers.memory, len(store._buffers._buffers)))

    fit(dense(), [callback, At(0, look), At(1, look)], epochs=2)
    (first, count), (second, count_later) = held
    assert first is second
    assert count == count_later
    assert bool(len(first)) == (keras.backend.backend() == "torch")
    assert (list(store._buffers._buffers), len(store._buffers._buffers.memory)) == ([], 0)


# The order of all saves of a process.


def test_saves_reach_the_disk_in_the_order_of_their_hooks(tmp_path, monkeypatch):
    moved, real = [], disk.current.replace

    def replace(source, target):
        real(source, target)
        moved.append(os.path.basename(target))

    monkeypatch.setattr(disk.current, "replace", replace)
    callbacks = [saver(tmp_path, f"{name}{{epoch}}.weights.h5") for name in "cab"]
    fit(dense(), [At(0, hold_up), *callbacks], epochs=3)
    files = [name for name in moved if name.endswith(".h5")]
    assert files == [f"{name}{epoch}.weights.h5" for epoch in (1, 2, 3) for name in "cab"]


def test_a_save_that_training_waits_for_comes_after_those_in_the_background(tmp_path, monkeypatch):
    block = background_saves.Roadblock()
    order = []
    BackgroundWriter().start(lambda: order.append(1) or True, NO_MODEL)
    store = checkpoint_store.CheckpointStore(str(tmp_path / "m.h5"), None, Ranking(()))
    real = checkpoint_store.write_model_file

    def second(*arguments):
        order.append(2)
        return real(*arguments)

    monkeypatch.setattr(checkpoint_store, "write_model_file", second)
    threading.Timer(HELD_UP_S, block.lift).start()
    store.save(dense(), store.template, END, "", as_best=False, preserves_others=False)
    assert order == [1, 2]


def test_where_no_thread_can_be_started_a_save_runs_at_once(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    own, ran = BackgroundWriter(), []
    own.start(lambda: ran.append(threading.current_thread()) or True, NO_MODEL)
    assert ran == [threading.main_thread()] and not own.busy
    assert own.wait() and len(ran) == 1


def test_a_ctrl_c_before_the_thread_has_started_loses_no_save(monkeypatch):
    def interrupt(thread):
        raise KeyboardInterrupt

    own, ran = BackgroundWriter(), []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            own.start(lambda: ran.append(1) or True, NO_MODEL)
    assert own.busy and not ran
    assert own.wait() and ran == [1]


AT_EXIT = SCRIPT.replace("import sys\n", "import atexit, sys\n", 1).replace(
    "threading.Timer(0.5, background_saves.Roadblock().lift).start()\n"
    'callbacks.on_epoch_end(0, {"loss": 1.0})\n',
    'atexit.register(lambda: callbacks.on_epoch_end(0, {"loss": 1.0}))\n',
)


def test_a_save_while_the_interpreter_exits_is_made(tmp_path):
    assert "atexit.register" in AT_EXIT
    path, tests = tmp_path / "m.weights.h5", str(Path(__file__).parents[2])
    command = [sys.executable, "-X", "faulthandler", "-c", AT_EXIT, str(path), tests]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert keras_ratchet.verify(str(path))


def test_a_forked_child_neither_waits_for_its_parents_saves_nor_repeats_them():
    block, own, ran = background_saves.Roadblock(), BackgroundWriter(), []
    own.start(lambda: ran.append(os.getpid()) or True, NO_MODEL)
    pid = os.fork()
    if pid == 0:
        code = 1
        signal.alarm(30)
        try:
            own.wait()
            background.drain()
            own.start(lambda: ran.append("child") or True, NO_MODEL)
            own.wait()
            code = 0 if ran == ["child"] else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    block.lift()
    own.wait()
    assert os.waitstatus_to_exitcode(status) == 0
    assert ran == [os.getpid()]


def test_a_new_training_does_not_hear_of_an_older_ones_failure(tmp_path, broken):
    model = dense()
    with pytest.raises(ZeroDivisionError):
        fit(model, [saver(tmp_path), At(1, lambda: 1 / 0)], epochs=2)
    fit(model, [saver(tmp_path / "new", "{epoch}.h5")], epochs=1)
    assert keras_ratchet.verify(str(tmp_path / "new" / "1.h5"))


# What is decided by itself.


@pytest.mark.parametrize("units", [8, 600])
def test_only_large_states_are_written_beside_training(tmp_path, monkeypatch, units):
    threads, real = [], checkpoint_store.write_model_file

    def note(*arguments):
        threads.append(threading.current_thread() is threading.main_thread())
        return real(*arguments)

    monkeypatch.setattr(checkpoint_store, "write_model_file", note)
    model = keras.Sequential([keras.Input((4,)), *map(keras.layers.Dense, (units, units * 3, 1))])
    model.compile("sgd", "mse")
    size = 4 * model.count_params()
    fit(model, [keras_ratchet.ModelCheckpoint(tmp_path / "m.keras")])
    assert threads == [size <= background.INLINE_MAX_BYTES]
