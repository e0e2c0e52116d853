"""BackupAndRestore beside training: its errors, every way out, busy writers, preemption."""

import errno
import os
import signal
import threading
import traceback

import keras
import pytest
from support import background_saves
from support.models import dense, fit
from support.resuming import Kill, Script
from support.sources import Batches

import keras_ratchet
from keras_ratchet._engine.resume.snapshot_save import SnapshotSave
from keras_ratchet._storage import journal
from keras_ratchet.errors import SaveError

HELD_UP_S = 0.3
LAST = "epoch-00001-batch-0000000"  # the snapshot of the first epoch's end


def backup_to(directory, **arguments):
    arguments = {"delete_checkpoint": False, "keep": 99, **arguments}
    return keras_ratchet.BackupAndRestore(directory, background=True, **arguments)


def is_whole(directory, name=LAST):
    return (directory / name).is_dir() and bool(keras_ratchet.verify(str(directory / name)))


class At(keras.callbacks.Callback):
    """Does something after one batch, counted from 1 through all epochs of four."""

    def __init__(self, batch, action):
        super().__init__()
        self.batch, self.action, self.seen = batch, action, 0

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.batch:
            self.action()


class Block:
    """A roadblock that stands from one batch to another."""

    def stand(self):
        """Hold up the saves that begin from now on; those before are done."""
        background_saves.settle()
        self._roadblock = background_saves.Roadblock()

    def go(self):
        """Let them go on, and wait for them."""
        self._roadblock.lift()
        background_saves.settle()


def hold_up():
    """Hold up, for a while, the saves that begin from now on; those before are done."""
    background_saves.settle()
    threading.Timer(HELD_UP_S, background_saves.Roadblock().lift).start()


def test_an_error_is_raised_at_the_next_hook_with_the_traceback_of_its_thread(
    tmp_path, monkeypatch
):
    real = SnapshotSave.write

    def no_space(this, directory, name, *more):
        if name == LAST:
            assert threading.current_thread() is not threading.main_thread()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(this, directory, name, *more)

    monkeypatch.setattr(SnapshotSave, "write", no_space)
    block = Block()
    callbacks = [backup_to(tmp_path, every_s=1e6), At(4, block.stand), At(6, block.go)]
    with pytest.raises(SaveError, match="No space left on device") as caught:
        fit(dense(), callbacks, epochs=3)
    assert callbacks[-1].seen == 6
    shown = "".join(traceback.format_exception(caught.value))
    assert ", in _write" in shown and ", in no_space" in shown
    (event,) = [e for e in journal.read(str(tmp_path)) if e["event"] == "save_error"]
    assert event["name"] == LAST


def test_flush_raises_what_went_wrong_in_the_background(tmp_path, monkeypatch):
    real = SnapshotSave.write

    def no_space(this, directory, name, *more):
        if name == LAST and not raised:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(this, directory, name, *more)

    monkeypatch.setattr(SnapshotSave, "write", no_space)
    block, raised = Block(), []

    def flush():
        block.go()
        with pytest.raises(SaveError, match="No space left on device"):
            callback.flush()
        raised.append(True)

    callback = backup_to(tmp_path, every_s=1e6)
    fit(dense(), [callback, At(4, block.stand), At(5, flush)], epochs=2)
    assert raised == [True]


def fails():
    raise ZeroDivisionError


WAYS_OUT = {
    "Ctrl-C": (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt),
    "an exception": (fails, ZeroDivisionError),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_every_way_out_of_fit_waits(tmp_path, way):
    action, error = WAYS_OUT[way]
    model = dense()
    callbacks = [backup_to(tmp_path), At(4, hold_up), At(5, action)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(error), keras_ratchet.guard(model, callbacks):
            fit(model, callbacks, epochs=3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert is_whole(tmp_path)


def test_flush_and_the_end_of_training_wait(tmp_path):
    callback, seen = backup_to(tmp_path), []

    def look():
        seen.append(is_whole(tmp_path))
        callback.flush()
        seen.append(is_whole(tmp_path))

    fit(dense(), [callback, At(4, hold_up), At(5, look), At(8, hold_up)], epochs=2)
    assert seen == [False, True]
    assert is_whole(tmp_path, "epoch-00002-batch-0000000-finished")


def test_a_busy_writer_is_passed_by_and_the_journal_says_so(tmp_path):
    block = Block()
    callback = backup_to(tmp_path, save_freq=1, if_busy="skip")
    fit(dense(), [callback, At(1, block.stand), At(4, block.go)])
    saved = sorted(p.name[-1] for p in tmp_path.glob("epoch-00000-*"))
    assert saved == ["0", "1", "4"]  # the first was held up, and in the way of the next two
    skipped = [e for e in journal.read(str(tmp_path)) if e["event"] == "skip"]
    assert len(skipped) == 2
    assert all("still being written" in e["reason"] for e in skipped)


def test_buffers_are_used_again_and_given_back(tmp_path):
    callback, held = backup_to(tmp_path), []

    def look():
        callback.flush()
        held.append([id(buffer) for buffer in callback._store.buffers._buffers])

    fit(dense(), [callback, At(5, look), At(9, look)], epochs=3)
    assert held[0] == held[1]
    assert callback._store.buffers._buffers == []


# What a run that was resumed in mid-epoch saves in that epoch.


class StatedBatches(Batches):
    """Keeps what it is given, and then shuffles it in place."""

    def state_dict(self):
        return {"order": self.order, "rng": self.rng}

    def load_state_dict(self, state):
        vars(self).update(state)


class HeldOverTheEpoch(keras.callbacks.Callback):
    """Lets the saves from the eighth batch of the second epoch on wait for the third epoch."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 6):
            background_saves.settle()
            self.roadblock = background_saves.Roadblock()

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        if epoch == 2 and hasattr(self, "roadblock"):
            self.roadblock.lift()


@pytest.mark.parametrize("source", [Batches, StatedBatches])
def test_data_that_were_shuffled_before_a_save_was_written_are_resumed_exactly(tmp_path, source):
    backup = {"save_freq": 3, "background": True}
    one = Script(str(tmp_path / "backup"), lambda: {"x": source(workers=0)}, backup=backup)
    whole = one.run(backup=False)
    assert one.run(Kill(batches=13)) is None  # the third batch of the second epoch; two are saved
    one.callbacks = lambda: [HeldOverTheEpoch()]
    assert one.run(Kill(batches=21)) is None  # the first batch of the third epoch
    one.callbacks = list
    assert (tmp_path / "backup" / "epoch-00001-batch-0000008").is_dir()
    assert one.run().differences(whole) == []


# Making room.


@pytest.fixture
def sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


def test_the_save_under_way_stands_where_there_is_no_time_for_another(tmp_path, sigterm):
    callback = backup_to(tmp_path, signals=("SIGTERM",), grace_s=HELD_UP_S / 100)
    fit(dense(), [callback, At(4, hold_up), At(5, sigterm)], epochs=3)
    assert "so the last save stands" in str(callback.stop_reason)
    assert is_whole(tmp_path), "fit returned, and gave the lock back, while it was being written"
    assert max(p.name for p in tmp_path.glob("epoch-*")) == LAST


@pytest.mark.parametrize("writing", [True, False])
def test_before_a_deadline_there_is_time_for_the_save_under_way_and_another(tmp_path, writing):
    callback = backup_to(tmp_path, deadline=3600)

    def so_long():
        callback._session.schedule.persisted(2000)

    callbacks = [callback, At(4, hold_up), At(5, so_long)]
    callbacks += [] if writing else [At(5, callback.flush)]
    fit(dense(), callbacks, epochs=2)
    assert (callback.stop_reason is not None) == writing
