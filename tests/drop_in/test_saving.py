"""Where ModelCheckpoint's files go, and that a save leaves the older file whole and is on time."""

import errno
import os
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from support import background_saves
from support.models import data, dense, fit, stamp_of
from support.runs import KERAS_IS_AS_DESCRIBED, At, press_ctrl_c, run, tiny
from support.versions import AT_MOST_3_15

import keras_ratchet
from keras_ratchet._storage import disk
from keras_ratchet.errors import ConfigError, SaveError

NAMES = ["m.keras", "m.weights.h5", "m.h5"]


def checkpoint(path, module=keras_ratchet, **arguments):
    weights_only = str(path).endswith(".weights.h5")
    return module.ModelCheckpoint(path, save_weights_only=weights_only, **arguments)


def stamp_in(path):
    if not str(path).endswith(".weights.h5"):
        return stamp_of(keras.models.load_model(path, compile=False))
    model = dense()
    model.load_weights(path)
    return stamp_of(model)


def content(path):
    """Return the bytes of a file whose save has begun in the same hook."""
    background_saves.settle()
    return path.read_bytes()


def files_in(folder):
    """Return the names of all files and drafts below a folder, but for our own records."""
    inside = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in inside if ".ratchet" not in path.parts)


@keras.saving.register_keras_serializable("tests")
class Unwilling(keras.layers.Dense):
    """A layer whose saving fails half-way when told to."""

    failing = False

    def save_own_variables(self, store):
        if Unwilling.failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().save_own_variables(store)


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_a_save_that_fails_half_way_leaves_the_older_file_whole(name, tmp_path, monkeypatch):
    def fail_later(module):
        monkeypatch.setattr(Unwilling, "failing", False)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), Unwilling(1)])
        model.compile("sgd", "mse")
        path = tmp_path / module.__name__ / name
        path.parent.mkdir()
        fail = At("epoch_begin", 1, lambda: setattr(Unwilling, "failing", True))
        look = At("epoch_end", 0, lambda: seen.append(content(path)))
        with pytest.raises(OSError) as caught:
            fit(model, [fail, checkpoint(path, module), look], epochs=3)
        assert caught.value.errno == errno.ENOSPC
        return path, model

    seen = []
    if KERAS_IS_AS_DESCRIBED:
        path, model = fail_later(keras.callbacks)
        assert path.read_bytes() != seen.pop()
        with pytest.raises(Exception):  # noqa: B017  each format has its own
            model.load_weights(path)
    path, model = fail_later(keras_ratchet)
    assert path.read_bytes() == seen.pop()
    model.load_weights(path)
    assert files_in(path.parent) == [name]


class FullDisk(disk.Disk):
    """A disk with room for some more writes."""

    def __init__(self, writes):
        self.writes = writes

    def write(self, fd, data):
        if self.writes <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.writes -= 1
        return super().write(fd, data)


@pytest.mark.parametrize("writes", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_an_error_that_leaves_the_older_file_whole(
    name, writes, tmp_path, monkeypatch
):
    path = tmp_path / name
    fill = At("epoch_begin", 2, lambda: monkeypatch.setattr(disk, "current", FullDisk(writes)))
    look = At("epoch_end", 1, lambda: seen.append(content(path)))
    seen = []
    with pytest.raises(SaveError, match="Free some space") as caught:
        run(fill, checkpoint(path), look, val_loss=[3, 2, 1])
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == seen[0]
    assert stamp_in(path) == 2
    assert files_in(tmp_path) == [name]


def test_a_failed_save_does_not_lose_the_best_weights_in_memory(tmp_path, monkeypatch):
    model = tiny()
    stopper = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True)
    fill = At("epoch_begin", 2, lambda: monkeypatch.setattr(disk, "current", FullDisk(0)))
    with pytest.raises(SaveError):
        run(fill, stopper, checkpoint(tmp_path / "m.keras"), model=model, val_loss=[2, 1, 3, 4])
    assert stamp_of(model) == 2


def test_after_a_failed_save_the_next_fit_saves_again(tmp_path, monkeypatch):
    path = tmp_path / "m.weights.h5"
    ours = checkpoint(path)
    with monkeypatch.context() as full:
        fill = At("epoch_begin", 0, lambda: full.setattr(disk, "current", FullDisk(0)))
        with pytest.raises(SaveError):
            run(fill, ours, val_loss=[1])
    run(ours, val_loss=[1])
    assert stamp_in(path) == 1


@pytest.mark.skipif(
    keras.backend.backend() == "torch" and AT_MOST_3_15,
    reason="torch refuses steps_per_execution > 1 before Keras 3.16",
)
def test_saves_do_not_drift_when_several_batches_end_at_once(tmp_path):
    def batches(module):
        folder = tmp_path / module.__name__
        folder.mkdir()
        path = folder / "{batch}.weights.h5"
        model = dense(steps_per_execution=3)
        saver = module.ModelCheckpoint(path, save_weights_only=True, save_freq=5)
        model.fit(*data(60), batch_size=2, verbose=0, callbacks=[saver])
        return sorted(int(file.name.split(".")[0]) for file in folder.glob("*.h5"))

    if KERAS_IS_AS_DESCRIBED:
        assert batches(keras.callbacks) == [6, 12, 18, 24, 30]
    assert batches(keras_ratchet) == [6, 12, 15, 21, 27, 30]


def test_a_number_of_batches_counts_on_over_the_end_of_an_epoch(tmp_path):
    path = tmp_path / "{epoch}-{batch}.weights.h5"
    fit(tiny(), [checkpoint(path, save_freq=3)], epochs=3)
    assert files_in(tmp_path) == [f"{n}.weights.h5" for n in ("1-3", "2-2", "3-1", "3-4")]


class Recorder(keras_ratchet.ModelCheckpoint):
    """Notes on which thread its batch hook runs; a user may override that hook, as in Keras."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.threads = []

    def on_train_batch_end(self, batch, logs=None):
        self.threads.append(threading.current_thread())
        super().on_train_batch_end(batch, logs)


@pytest.mark.parametrize("bare", [True, False])
def test_batches_are_counted_on_the_training_thread(bare, tmp_path):
    ours = Recorder(tmp_path / "{batch}.weights.h5", save_weights_only=True, save_freq=2)
    fit(tiny(), ours if bare else [ours])
    assert set(ours.threads) == {threading.current_thread()}
    assert len(ours.threads) == 4
    assert files_in(tmp_path) == ["2.weights.h5", "4.weights.h5"]


def test_epochs_are_saved_without_slowing_the_batches(tmp_path):
    ours = checkpoint(tmp_path / "m.weights.h5")
    callbacks = keras.callbacks.CallbackList([ours], model=tiny())
    assert callbacks._async_train == keras.callbacks.CallbackList([])._async_train


def test_the_saved_batch_is_the_one_that_just_ended(tmp_path):
    class Stamp(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.set_weights([np.full_like(w, batch + 1) for w in self.model.get_weights()])

    fit(tiny(), [Stamp(), checkpoint(tmp_path / "{batch}.weights.h5", save_freq=2)])
    for batch in (2, 4):
        assert stamp_in(tmp_path / f"{batch}.weights.h5") == batch


@pytest.mark.parametrize("save_freq", [0, -1, 1.5, "batch", True, None])
def test_a_frequency_that_cannot_work_is_an_error_when_it_is_given(save_freq, tmp_path):
    with pytest.raises(ConfigError, match="Unrecognized save_freq"):
        keras_ratchet.ModelCheckpoint(tmp_path / "m.keras", save_freq=save_freq)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_not_there_yet_is_made(name, tmp_path):
    path = tmp_path / "a" / "b é 文" / name
    run(checkpoint(path), val_loss=[1])
    assert stamp_in(path) == 1


def test_a_placeholder_may_stand_in_a_folder_name(tmp_path):
    run(checkpoint(str(tmp_path / "epoch {epoch}" / "m.weights.h5")), val_loss=[2, 1])
    assert files_in(tmp_path) == ["epoch 1/m.weights.h5", "epoch 2/m.weights.h5"]


def test_a_path_may_be_relative_and_the_folder_may_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(checkpoint("m.weights.h5"), val_loss=[1])
    assert (tmp_path / "m.weights.h5").exists()


@pytest.mark.parametrize("fixed", [True, False])
def test_a_folder_that_cannot_be_is_an_error_before_the_first_batch(fixed, tmp_path):
    (tmp_path / "file").write_text("mine")
    path = tmp_path / "file" / ("m.keras" if fixed else "{epoch}.keras")
    begun = At("epoch_begin", 0, lambda: pytest.fail("training has begun"))
    if KERAS_IS_AS_DESCRIBED:
        model = tiny()
        with pytest.raises(OSError):
            run(keras.callbacks.ModelCheckpoint(path), model=model, val_loss=[1])
        assert int(model.optimizer.iterations) == 1
    with pytest.raises(SaveError, match="cannot write checkpoints"):
        run(begun, checkpoint(path), val_loss=[1])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_that_is_a_folder_is_an_error_before_the_first_batch(tmp_path):
    (tmp_path / "m.keras").mkdir()
    begun = At("epoch_begin", 0, lambda: pytest.fail("training has begun"))
    with pytest.raises(SaveError, match="existing directory"):
        run(begun, checkpoint(tmp_path / "m.keras"), val_loss=[1])


def test_a_path_that_becomes_a_folder_is_an_error_too(tmp_path):
    (tmp_path / "2.keras").mkdir()
    with pytest.raises(SaveError):
        run(checkpoint(tmp_path / "{epoch}.keras"), val_loss=[2, 1])
    assert files_in(tmp_path) == ["1.keras"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
@pytest.mark.parametrize("name", NAMES)
def test_files_get_the_mode_that_the_umask_allows(name, tmp_path):
    before = os.umask(0o027)
    try:
        run(checkpoint(tmp_path / "deep" / name), val_loss=[1])
    finally:
        os.umask(before)
    assert (tmp_path / "deep" / name).stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "deep").stat().st_mode & 0o777 == 0o750


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_symbolic_link_stays_a_link(tmp_path):
    target = tmp_path / "elsewhere" / "real.weights.h5"
    target.parent.mkdir()
    target.touch()
    link = tmp_path / "m.weights.h5"
    link.symlink_to(target)
    run(checkpoint(link), val_loss=[1])
    assert link.is_symlink()
    assert stamp_in(target) == 1


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("m.txt", {}, "must end in '.keras' or '.h5'"),
        ("m.keras", {"save_weights_only": True}, "must end in '.weights.h5'"),
        ("{epoch.keras", {}, "not a valid template"),
        ("{}.keras", {}, "need a name"),
        ("{0}.keras", {}, "need a name"),
        ("{epoch:.2q}.keras", {}, "does not fit a whole number"),
        ("{val_loss:d}.keras", {}, "does not fit a float"),
        ("gs://bucket/{val_loss}/m.keras", {}, "only the last part of filepath"),
    ],
)
def test_a_path_that_cannot_work_is_an_error_when_it_is_given(path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        keras_ratchet.ModelCheckpoint(path, **arguments)


def test_a_placeholder_takes_a_format(tmp_path):
    run(checkpoint(tmp_path / "{epoch:03d}_{val_loss:07.3f}.weights.h5"), val_loss=[1.23456])
    assert files_in(tmp_path) == ["001_001.235.weights.h5"]


def test_a_path_object_and_a_string_are_the_same(tmp_path):
    for path in (tmp_path / "p.keras", str(tmp_path / "s.keras")):
        assert keras_ratchet.ModelCheckpoint(path).filepath == str(path)
        run(checkpoint(path), val_loss=[1])
        assert stamp_in(Path(path)) == 1


def test_a_save_that_ctrl_c_interrupts_twice_leaves_the_older_file_whole(tmp_path, monkeypatch):
    class Impatient(disk.Disk):
        def write(self, fd, data):
            press_ctrl_c()
            press_ctrl_c()
            return super().write(fd, data)

    path = tmp_path / "m.weights.h5"
    press = At("epoch_begin", 1, lambda: monkeypatch.setattr(disk, "current", Impatient()))
    with pytest.raises(KeyboardInterrupt):
        run(press, checkpoint(path, background=False), val_loss=[2, 1])
    assert stamp_in(path) == 1
    assert files_in(tmp_path) == ["m.weights.h5"]
