"""`on_saved` and `on_deleted`: called in order, on the training thread, once the disk has it."""

import copy
import pickle
import threading

import keras
import numpy as np
import pytest
from support.background_saves import Roadblock
from support.resuming import Kill, Killed, arrays, model, seed_all

import keras_ratchet
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.single_file import series_lock_path
from keras_ratchet.errors import ConfigError, SaveError

EPOCHS = 4


class Heard:
    """Notes what it is told, and looks at the disk meanwhile."""

    def __init__(self, fails_at=None):
        self.events, self.infos, self.threads, self.fails_at = [], [], set(), fails_at

    def saved(self, info):
        assert keras_ratchet.verify(info.path)
        self._note("saved", info)

    def deleted(self, info):
        self._note("deleted", info)

    def _note(self, what, info):
        self.events.append((what, info.name))
        self.infos.append(info)
        self.threads.add(threading.current_thread())
        if len(self.events) == self.fails_at:
            raise ZeroDivisionError("the user's own")


def train(*callbacks, epochs=EPOCHS, **fit):
    seed_all(5)  # without a seed TensorFlow's shuffling is not exact, which is a warning
    x, y = arrays()
    net = model()
    net.fit(x, y, batch_size=10, epochs=epochs, verbose=0, callbacks=list(callbacks), **fit)
    return net


def files(tmp_path, heard, **arguments):
    """Return a ModelCheckpoint of many files that `heard` listens to."""
    path = str(tmp_path / "epoch-{epoch}.keras")
    listeners = {"on_saved": heard.saved, "on_deleted": heard.deleted}
    return keras_ratchet.ModelCheckpoint(path, "loss", **{**listeners, **arguments})


def can_be_locked(directory, series):
    """Return whether the lock of a series is free."""
    lock = FileLock(series_lock_path(str(directory), series), "the test")
    lock.acquire()
    lock.release()
    return True


@pytest.mark.parametrize("background", [False, True])
def test_each_save_and_each_deletion_is_told_in_order(tmp_path, background):
    heard = Heard()
    train(files(tmp_path, heard, keep_last=2, background=background, mode="max"))
    kept = {p.name for p in tmp_path.glob("*.keras")}
    assert [n for what, n in heard.events if what == "saved"] == [
        f"epoch-{n}.keras" for n in range(1, EPOCHS + 1)
    ]
    gone = {n for what, n in heard.events if what == "deleted"}
    assert gone and not gone & kept
    assert len(gone) + len(kept) == EPOCHS
    for what, name in heard.events:
        if what == "deleted":
            before = heard.events[: heard.events.index((what, name))]
            assert ("saved", name) in before
    assert heard.threads == {threading.current_thread()}


def test_the_info_is_the_one_that_the_directory_lists(tmp_path):
    heard = Heard()
    train(files(tmp_path, heard))
    assert heard.infos == keras_ratchet.checkpoints(tmp_path)


def test_a_save_in_the_background_is_told_at_the_hook_that_settles_it(tmp_path):
    seen = []
    heard = Heard()

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 0:
                self.block = Roadblock()

        def on_epoch_end(self, epoch, logs=None):
            seen.append(list(heard.events))
            if epoch == 0:
                self.block.lift()

    train(files(tmp_path, heard, background=True), Look(), epochs=2)
    assert seen[0] == []  # it was still being written
    assert seen[1][:1] == [("saved", "epoch-1.keras")]
    assert heard.events[-1] == ("saved", "epoch-2.keras")  # at the latest when training ends


def test_snapshots_are_told_too_and_their_deletion_at_the_end(tmp_path):
    heard = Heard()
    backup = keras_ratchet.BackupAndRestore(
        tmp_path / "run", on_saved=heard.saved, on_deleted=heard.deleted
    )
    train(backup)
    names = [f"epoch-{n:05d}-batch-0000000" for n in range(EPOCHS + 1)]
    assert [n for what, n in heard.events if what == "saved"] == names
    assert [n for what, n in heard.events if what == "deleted"] == names
    assert all(info.is_directory for info in heard.infos)


def test_run_tells_what_it_saves(tmp_path):
    heard, net = Heard(), model()
    with keras_ratchet.Run(tmp_path / "run", net, on_saved=heard.saved) as run:
        for _ in run.epochs(2):
            for _ in run.batches(range(3)):
                pass
    assert [what for what, _ in heard.events] == ["saved"] * 3


def test_what_is_not_saved_is_not_told(tmp_path):
    heard = Heard()
    checkpoint = files(tmp_path, heard, save_best_only=True, initial_value_threshold=-1.0)
    train(checkpoint)
    assert heard.events == []


def test_a_save_that_fails_is_not_told(tmp_path):
    heard = Heard()

    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            (tmp_path / "epoch-2.keras").mkdir(exist_ok=True)

    with pytest.raises(SaveError):
        train(Spoil(), files(tmp_path, heard))
    assert heard.events == [("saved", "epoch-1.keras")]


@pytest.mark.parametrize("background", [False, True])
def test_an_error_in_it_ends_the_training_and_costs_no_file(tmp_path, background):
    heard = Heard(fails_at=2)
    other = keras_ratchet.EarlyStopping("loss", patience=10)
    checkpoint = files(tmp_path, heard, background=background, save_at_end=True)
    with pytest.raises(ZeroDivisionError, match="the user's own") as caught:
        train(other, checkpoint, epochs=10)
    assert type(caught.value) is ZeroDivisionError
    infos = keras_ratchet.checkpoints(tmp_path)
    assert 2 <= len(infos) <= 3
    assert all(keras_ratchet.verify(info.path) for info in infos)
    assert all(info.metrics for info in infos[:2])  # none is saved twice, as the last state
    assert not other._running  # it has cleaned up, too
    assert can_be_locked(tmp_path, "epoch-{epoch}.keras")


@pytest.mark.parametrize("background", [False, True])
def test_after_an_error_the_run_goes_on_from_what_was_told(tmp_path, background):
    heard = Heard(fails_at=3)
    where = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(keras_ratchet.BackupAndRestore(where, on_saved=heard.saved, background=background))
    assert can_be_locked(where, "")
    backup = keras_ratchet.BackupAndRestore(where)
    train(backup)
    assert backup.resumed_from.epoch >= 2


def test_after_an_error_in_on_deleted_the_rest_is_told_all_the_same(tmp_path):
    heard = Heard()
    told = []

    def on_deleted(info):
        told.append(info.name)
        if len(told) == 1:
            raise ZeroDivisionError

    checkpoint = files(tmp_path, heard, on_deleted=on_deleted, keep_last=1, mode="max")
    with pytest.raises(ZeroDivisionError):
        train(checkpoint)
    gone = {n for what, n in heard.events if what == "saved"} - {
        p.name for p in tmp_path.glob("*.keras")
    }
    assert set(told) == gone


def test_what_a_killed_fit_has_left_is_told_when_the_callback_starts_again(tmp_path):
    heard = Heard()
    checkpoint = files(tmp_path, heard, background=True)
    with pytest.raises(Killed):
        train(checkpoint, Kill(epoch=0))
    train(checkpoint, epochs=1)
    assert heard.events == [("saved", "epoch-1.keras")] * 2


def listen(info):
    """Stand for a function of a module, which can be pickled."""


def test_copies_and_pickles_keep_the_functions_and_have_nothing_to_tell(tmp_path):
    checkpoint = keras_ratchet.ModelCheckpoint(
        tmp_path / "a.keras", "loss", on_saved=listen, metadata={"lr": 0.1}
    )
    train(checkpoint, epochs=1)
    for other in (copy.deepcopy(checkpoint), pickle.loads(pickle.dumps(checkpoint))):
        events = other._checkpointer.store.events
        assert events._on_saved is listen
        assert events.metadata() == {"lr": 0.1}


@pytest.mark.parametrize("name", ["on_saved", "on_deleted"])
def test_what_is_no_function_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name} must be a function"):
        keras_ratchet.ModelCheckpoint(tmp_path / "a.keras", **{name: "print"})
    with pytest.raises(ConfigError, match=f"{name} must be a function"):
        keras_ratchet.BackupAndRestore(tmp_path / "run", **{name: np.zeros(1)})


def test_an_error_in_on_saved_keeps_the_deletions_of_that_save_from_nobody(tmp_path):
    heard = Heard(fails_at=2)
    with pytest.raises(ZeroDivisionError):
        train(files(tmp_path, heard, keep_last=1))
    assert heard.events[1:3] == [("saved", "epoch-2.keras"), ("deleted", "epoch-1.keras")]
