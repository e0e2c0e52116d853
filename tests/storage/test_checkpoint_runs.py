"""ModelCheckpoint in real trainings: what stays, what counts as best, what a failed save does."""

import errno
import logging
import os
import time
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
from support import background_saves
from support.models import Curve, Stamp, dense, fit, stamp_of

import keras_ratchet
from keras_ratchet._engine.saving import checkpoint_store
from keras_ratchet._storage import disk, journal, single_file, space
from keras_ratchet._storage.listing import pin
from keras_ratchet.errors import ConfigError, SaveError

TEMPLATE = "e{epoch}.weights.h5"
MODEL = dense()


def train(directory, name=TEMPLATE, *others, val_loss, before=(), **args):
    """Train with dictated losses; each epoch's weights are its number. Return the callback."""
    args = {"save_weights_only": True, "mode": "min", **args}
    callback = keras_ratchet.ModelCheckpoint(Path(directory, name), **args)
    curve = Curve(val_loss=val_loss)
    fit(MODEL, [curve, Stamp(), *before, callback, *others], len(val_loss), batch_size=32)
    return callback


def held(path):
    """Return the number that the weights of a file hold; it has to verify."""
    assert keras_ratchet.verify(str(path))
    keras_ratchet.load_weights(MODEL, path)
    return stamp_of(MODEL)


def epochs_in(directory):
    """Return the epochs whose files are there."""
    names = [path.name for path in Path(directory).iterdir() if path.name.endswith(".h5")]
    return sorted(int(name.split(".")[0].lstrip("e")) for name in names)


def events(directory, kind):
    return [event for event in journal.read(str(directory)) if event["event"] == kind]


# The best value lives with the files.


def test_a_new_callback_does_not_overwrite_a_better_file(tmp_path, caplog):
    train(tmp_path, "best.weights.h5", val_loss=[0.5, 0.2, 0.3], save_best_only=True)
    assert held(tmp_path / "best.weights.h5") == 2
    with caplog.at_level(logging.WARNING, "keras_ratchet"):
        again = train(tmp_path, "best.weights.h5", val_loss=[0.4, 0.25], save_best_only=True)
    assert held(tmp_path / "best.weights.h5") == 2
    assert again.best == 0.2
    assert "val_loss=0.2" in caplog.text
    assert "fresh=True" in caplog.text
    better = train(tmp_path, "best.weights.h5", val_loss=[0.4, 0.3, 0.1], save_best_only=True)
    assert held(tmp_path / "best.weights.h5") == 3
    assert better.best == 0.1


def test_fresh_starts_anew(tmp_path):
    train(tmp_path, "best.weights.h5", val_loss=[0.2], save_best_only=True)
    train(tmp_path, "best.weights.h5", val_loss=[0.4, 0.3, 0.5], save_best_only=True, fresh=True)
    assert held(tmp_path / "best.weights.h5") == 2


def test_a_file_that_was_deleted_no_longer_counts(tmp_path):
    path = tmp_path / "best.weights.h5"
    train(tmp_path, path.name, val_loss=[0.1], save_best_only=True)
    path.unlink()
    train(tmp_path, path.name, val_loss=[0.4], save_best_only=True)
    assert held(path) == 1
    assert keras_ratchet.checkpoints(tmp_path)[0].metrics["val_loss"] == 0.4


def test_a_file_that_is_deleted_during_the_run_no_longer_counts(tmp_path):
    path = tmp_path / "best.weights.h5"

    class DeleteAfterFirst(Stamp):
        def on_epoch_end(self, epoch, logs=None):
            background_saves.settle()
            if epoch == 0:
                path.unlink()

    train(tmp_path, path.name, DeleteAfterFirst(), val_loss=[0.1, 0.4, 0.5], save_best_only=True)
    assert held(path) == 2


def test_a_corrupt_best_file_does_not_count(tmp_path, caplog):
    path = tmp_path / "best.weights.h5"
    train(tmp_path, path.name, val_loss=[0.1], save_best_only=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING, "keras_ratchet"):
        train(tmp_path, path.name, val_loss=[0.4], save_best_only=True)
    assert "does not verify" in caplog.text
    assert held(path) == 1
    assert len(list((tmp_path / single_file.METADATA).glob("*.json"))) == 1


def test_a_best_by_another_metric_does_not_count(tmp_path):
    train(tmp_path, "best.weights.h5", val_loss=[0.1], save_best_only=True)
    callback = keras_ratchet.ModelCheckpoint(
        tmp_path / "best.weights.h5", monitor="score", mode="max", save_weights_only=True,
        save_best_only=True,
    )  # fmt: skip
    fit(MODEL, [Curve(score=[-3.0, -2.0]), Stamp(), callback], 2)
    assert held(tmp_path / "best.weights.h5") == 2


def test_the_best_of_many_files_counts(tmp_path):
    train(tmp_path, val_loss=[0.5, 0.1, 0.3], save_best_only=True)
    assert epochs_in(tmp_path) == [1, 2]
    callback = train(tmp_path, val_loss=[0.4, 0.2, 0.15], save_best_only=True, fresh=False)
    assert callback.best == 0.1
    assert epochs_in(tmp_path) == [1, 2]
    assert held(tmp_path / "e2.weights.h5") == 2


# Retention.


@pytest.mark.parametrize(
    ("rules", "stay"),
    [
        ({"keep_last": 2}, [3, 6, 7]),
        ({"keep_best": 2}, [3, 5, 7]),
        ({"keep_every": 2}, [2, 3, 4, 6, 7]),
        ({"keep_best": 2, "keep_last": 2}, [3, 5, 6, 7]),
        ({"keep_for_s": 1e6}, [1, 2, 3, 4, 5, 6, 7]),
        ({"keep_for_s": 1e-9}, [3, 7]),
        ({"retention": keras_ratchet.KeepEvery(4) | keras_ratchet.KeepLast(1)}, [3, 4, 7]),
        ({}, [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_right_files_stay(rules, stay, tmp_path):
    train(tmp_path, val_loss=[0.7, 0.5, 0.1, 0.6, 0.2, 0.9, 0.8], **rules)
    assert epochs_in(tmp_path) == stay
    assert all(held(tmp_path / f"e{epoch}.weights.h5") == epoch for epoch in stay)
    dropped = {event["name"] for event in events(tmp_path, "drop")}
    assert dropped == {f"e{n}.weights.h5" for n in range(1, 8)} - {f"e{n}.weights.h5" for n in stay}
    assert all(event["reason"] for event in events(tmp_path, "drop"))
    assert len(list((tmp_path / single_file.METADATA).glob("*.json"))) == len(stay)


def test_nan_is_dropped_before_any_number(tmp_path):
    nan = float("nan")
    train(tmp_path, val_loss=[0.9, nan, nan, 0.8, nan], keep_best=2)
    assert epochs_in(tmp_path) == [1, 4, 5]


def test_a_second_metric_decides_between_equals(tmp_path):
    callback = keras_ratchet.ModelCheckpoint(
        tmp_path / "best.weights.h5",
        monitor=("score", "val_loss"),
        mode=("max", "min"),
        save_best_only=True,
        save_weights_only=True,
    )
    curve = Curve(score=[0.5, 0.9, 0.9, 0.9], val_loss=[0.1, 0.4, 0.3, 0.35])
    fit(MODEL, [curve, Stamp(), callback], 4)
    assert held(tmp_path / "best.weights.h5") == 3


@pytest.mark.parametrize(("ties", "epoch"), [("earlier", 1), ("later", 3)])
def test_of_equals_the_one_that_was_asked_for_is_kept(ties, epoch, tmp_path):
    losses = [0.5, 0.6, 0.5]
    train(tmp_path, "best.weights.h5", val_loss=losses, save_best_only=True, ties=ties)
    assert held(tmp_path / "best.weights.h5") == epoch


def test_pinned_foreign_and_changed_files_are_never_dropped(tmp_path):
    class Interfere(Stamp):
        def on_epoch_end(self, epoch, logs=None):
            background_saves.settle()
            if epoch == 0:
                pin(str(tmp_path / "e1.weights.h5"))
            if epoch == 1:
                MODEL.save_weights(tmp_path / "e2.weights.h5", overwrite=True)

    MODEL.save_weights(tmp_path / "e99.weights.h5")  # as the template gives it, but not ours
    (tmp_path / "notes.txt").write_text("mine")
    train(tmp_path, TEMPLATE, Interfere(), val_loss=[0.9, 0.8, 0.7, 0.6], keep_last=1)
    assert epochs_in(tmp_path) == [1, 2, 4, 99]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_the_file_that_training_was_resumed_from_is_never_dropped(suffix, tmp_path):
    def go_on(model, losses):
        callback = keras_ratchet.ModelCheckpoint(
            tmp_path / f"e{{epoch}}{suffix}",
            save_weights_only=suffix == ".weights.h5",
            keep_last=1,
        )
        curve = Curve(val_loss=losses)
        fit(model, [curve, Stamp(), callback], len(losses), initial_epoch=2, batch_size=32)
        return sorted(p.name for p in tmp_path.iterdir() if p.name.endswith(suffix))

    train(tmp_path, f"e{{epoch}}{suffix}", val_loss=[0.5, 0.4], save_weights_only=suffix[1] == "w")
    if suffix == ".keras":
        model = keras_ratchet.load_model(tmp_path, which="e1.keras")
    else:
        model = dense()
        keras_ratchet.load_weights(model, tmp_path, which="e1.weights.h5")
    losses = [None, None, 0.3, 0.2, 0.25]
    assert go_on(model, losses) == [f"e{n}{suffix}" for n in (1, 4, 5)]  # 4 is the best
    assert go_on(dense(), losses) == [f"e{n}{suffix}" for n in (4, 5)]  # control


def test_two_series_in_one_directory_do_not_drop_each_others_files(tmp_path):
    other = keras_ratchet.ModelCheckpoint(
        tmp_path / "f{epoch}.weights.h5", save_weights_only=True, keep_last=3, mode="min"
    )
    train(tmp_path, TEMPLATE, other, val_loss=[0.4, 0.3, 0.2, 0.1], keep_last=1)
    names = sorted(path.name for path in tmp_path.glob("*.h5"))
    assert names == [f"{n}.weights.h5" for n in ("e4", "f2", "f3", "f4")]


def test_retention_without_a_placeholder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="placeholder"):
        keras_ratchet.ModelCheckpoint(tmp_path / "best.keras", keep_last=2)


# The end.


def test_the_last_state_is_saved_at_the_end(tmp_path):
    train(tmp_path, val_loss=[0.1, 0.2, 0.3], save_best_only=True, save_at_end=True)
    assert epochs_in(tmp_path) == [1, 3]
    assert events(tmp_path, "save")[-1]["reason"].startswith("training ended")


def test_what_was_saved_at_the_end_of_the_last_epoch_is_not_saved_twice(tmp_path):
    train(tmp_path, val_loss=[0.3, 0.2], save_at_end=True)
    assert len(events(tmp_path, "save")) == 2


def test_the_last_state_is_saved_after_an_exception_under_guard(tmp_path):
    class Fail(Stamp):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("boom")

    callback = keras_ratchet.ModelCheckpoint(
        tmp_path / TEMPLATE, save_weights_only=True, save_best_only=True, save_at_end=True,
        mode="min",
    )  # fmt: skip
    callbacks = [Curve(val_loss=[0.1, 0.2]), Stamp(), callback, Fail()]
    with pytest.raises(RuntimeError, match="boom"), keras_ratchet.guard(MODEL, callbacks):
        fit(MODEL, callbacks, 2)
    assert epochs_in(tmp_path) == [1, 2]
    assert "RuntimeError" in events(tmp_path, "save")[-1]["reason"]


# A save that fails.


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


class FailingDisk(disk.Disk):
    """Refuses to write drafts of checkpoints while `code` is set."""

    code = None

    def open(self, path, flags):
        if self.code is not None and ".draft-" in path and path.endswith(".h5"):
            raise OSError(self.code, os.strerror(self.code))
        return super().open(path, flags)


@pytest.fixture
def failing(monkeypatch):
    failing = FailingDisk()
    monkeypatch.setattr(disk, "current", failing)
    return failing


class ErrorsByEpoch(keras.callbacks.Callback):
    """Sets the disk's error code for each epoch; None after the last one that is given."""

    def __init__(self, disk, *codes):
        super().__init__()
        self.disk, self.codes = disk, codes

    def on_epoch_begin(self, epoch, logs=None):
        background_saves.settle()
        self.disk.code = self.codes[epoch] if epoch < len(self.codes) else None


def test_a_failed_save_raises_after_the_best_weights_are_restored(tmp_path, failing):
    stopping = keras_ratchet.EarlyStopping(
        monitor="val_loss", mode="min", patience=9, restore_best_weights=True
    )
    full = ErrorsByEpoch(failing, None, None, errno.ENOSPC)
    with pytest.raises(SaveError, match=r"could not save .*Free some space") as error:
        train(tmp_path, TEMPLATE, val_loss=[0.5, 0.1, 0.3, 0.2], before=[stopping, full])
    assert error.value.errno == errno.ENOSPC
    assert "Files saved earlier are untouched" in str(error.value)
    assert stamp_of(MODEL) == 2
    assert epochs_in(tmp_path) == [1, 2]
    assert len(events(tmp_path, "save_error")) == 1
    failing.code = None
    train(tmp_path, TEMPLATE, val_loss=[0.4])  # the lock was given back


def test_a_failed_save_warns_once_per_kind_and_is_tried_again(tmp_path, failing):
    codes = (None, errno.ENOSPC, errno.ENOSPC, errno.EIO, errno.EIO, None)
    errors = ErrorsByEpoch(failing, *codes)
    losses = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    with pytest.warns(UserWarning, match="Training continues") as record:
        train(tmp_path, val_loss=losses, before=[errors], on_save_error="warn")
    ours = [str(entry.message) for entry in record if "Training continues" in str(entry.message)]
    assert len(ours) == 2
    assert os.strerror(errno.ENOSPC) in ours[0]
    assert os.strerror(errno.EIO) in ours[1]
    assert epochs_in(tmp_path) == [1, 6]
    assert len(events(tmp_path, "save_error")) == 4
    assert not list(tmp_path.glob(".draft-*"))


def test_after_a_failed_save_of_the_best_the_next_better_one_is_saved(tmp_path, failing):
    with pytest.warns(UserWarning, match="Training continues"):
        callback = train(
            tmp_path,
            "best.weights.h5",
            val_loss=[0.5, 0.1, 0.3, 0.4],
            before=[ErrorsByEpoch(failing, None, errno.ENOSPC)],
            save_best_only=True,
            on_save_error="warn",
        )
    assert held(tmp_path / "best.weights.h5") == 3  # 0.1 was never saved, so 0.3 beats 0.5
    assert callback.best == 0.3


def test_a_directory_that_cannot_be_made_is_an_error_before_the_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    callback = keras_ratchet.ModelCheckpoint(tmp_path / "file" / "best.keras")
    with pytest.raises(SaveError, match="cannot write checkpoints"):
        fit(MODEL, [callback])


# Room on the disk.


def test_little_room_is_a_warning_at_the_beginning(tmp_path, monkeypatch):
    size = checkpoint_store.state_bytes(MODEL)
    monkeypatch.setattr(space, "free_bytes", lambda directory: int(1.5 * size))
    with pytest.warns(UserWarning, match="one checkpoint takes about"):
        train(tmp_path, val_loss=[0.5])
    assert epochs_in(tmp_path) == [1]


def test_no_room_is_an_error_before_the_first_byte(tmp_path, monkeypatch, failing):
    train(tmp_path, "best.weights.h5", val_loss=[0.5])
    before = (tmp_path / "best.weights.h5").read_bytes()
    monkeypatch.setattr(space, "free_bytes", lambda directory: 10)
    failing.code = errno.EIO  # shows if it is tried all the same
    with (
        pytest.warns(UserWarning, match="10 B free"),
        pytest.raises(SaveError, match="are needed in") as error,
    ):
        train(tmp_path, "best.weights.h5", val_loss=[0.4])
    assert error.value.errno == errno.ENOSPC
    assert (tmp_path / "best.weights.h5").read_bytes() == before


@pytest.mark.parametrize("usage", [(0, 0, 0), (1 << 40, 1 << 40, 0)], ids=["of 0", "of 1 TB"])
def test_a_mount_that_says_0_bytes_are_free_is_no_obstacle(usage, tmp_path, monkeypatch):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: _Usage(*usage))
    backup = keras_ratchet.BackupAndRestore(tmp_path / "backup")
    train(tmp_path, val_loss=[0.5], before=[backup])
    assert epochs_in(tmp_path) == [1]


def test_when_a_write_fails_on_such_a_mount_the_error_tells_what_it_says(
    tmp_path, monkeypatch, failing
):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda path: _Usage(0, 0, 0))
    failing.code = errno.ENOSPC
    with pytest.raises(SaveError, match=r"says that 0 B of 0 B are free\)\. Free some space"):
        train(tmp_path, val_loss=[0.5])


def test_a_file_system_that_does_not_tell_its_room_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(space, "free_bytes", lambda directory: None)
    train(tmp_path, val_loss=[0.5])
    assert epochs_in(tmp_path) == [1]


# What a crash left is gone after the next start.


def test_the_next_start_removes_leftovers_of_this_path_and_nothing_else(tmp_path):
    train(tmp_path, val_loss=[0.5])
    ours = [".draft-0123abcd-e7.weights.h5", ".trash-0123abcd-e3.weights.h5"]
    theirs = [".draft-0123abcd-other.keras", ".draft-e7.weights.h5", "e.txt"]
    for name in ours + theirs:
        (tmp_path / name).write_text("x")
    train(tmp_path, val_loss=[0.4])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"e1.weights.h5", single_file.METADATA, *theirs}


# Clocks that go back, disks that do not delete, names that look alike, links.


def test_a_clock_that_is_set_back_does_not_cost_the_newest_file(tmp_path, monkeypatch):
    train(tmp_path, val_loss=[0.9, 0.1, 0.5], keep_last=1)
    assert epochs_in(tmp_path) == [2, 3]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    train(tmp_path, val_loss=[0.8], keep_last=1)
    assert 1 in epochs_in(tmp_path)


class Leave(keras.callbacks.Callback):
    """Ends training at the beginning of an epoch (index from 0), as a crash would."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            background_saves.settle()
            raise RuntimeError("gone")


def test_a_clock_that_is_set_back_does_not_cost_the_newest_backup(tmp_path, monkeypatch):
    def epochs_done():
        return max(info.position.epoch for info in keras_ratchet.checkpoints(tmp_path))

    for epoch in (2, 4):
        backup = keras_ratchet.BackupAndRestore(tmp_path)
        with pytest.raises(RuntimeError, match="gone"):
            fit(dense(), [backup, Leave(epoch)], 6)
        assert epochs_done() == epoch
        real = time.time
        monkeypatch.setattr(time, "time", lambda real=real: real() - 3600)


def test_a_best_file_whose_retention_fails_is_remembered_all_the_same(tmp_path, monkeypatch):
    class NoDelete(disk.Disk):
        def rename(self, source, target):
            raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(disk, "current", NoDelete())
    with pytest.warns(UserWarning, match="could not delete"):
        callback = train(
            tmp_path, val_loss=[0.5, 0.4, 0.3], save_best_only=True, keep_last=1,
            on_save_error="warn",
        )  # fmt: skip
    assert epochs_in(tmp_path) == [1, 2, 3]
    assert callback.best == 0.3


def test_the_drafts_of_a_file_that_only_looks_like_ours_are_left_alone(tmp_path):
    draft = tmp_path / ".draft-0123abcd-best.weights.h5"  # of a run that is saving right now
    draft.write_text("x")
    train(tmp_path, "{epoch:02d}.weights.h5", val_loss=[0.5])
    assert draft.exists()


def test_a_better_file_behind_a_link_is_not_overwritten(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "best.weights.h5").symlink_to(tmp_path / "store" / "best.weights.h5")
    train(tmp_path, "best.weights.h5", val_loss=[0.1], save_best_only=True)
    train(tmp_path, "best.weights.h5", val_loss=[0.6, 0.5], save_best_only=True)
    assert held(tmp_path / "store" / "best.weights.h5") == 1


@pytest.mark.parametrize("background", [False, True])
def test_the_writing_counts_as_blocked_only_where_training_waits_for_it(tmp_path, background):
    backup = keras_ratchet.BackupAndRestore(
        tmp_path / "backup", background=background, delete_checkpoint=False
    )
    losses = [0.5, 0.4]
    callback = train(tmp_path, val_loss=losses, before=(backup,), background=background)
    callback.flush()
    saves = [*events(tmp_path, "save"), *events(tmp_path / "backup", "save")]
    assert len(saves) >= 2 * len(losses)
    for save in saves:
        assert (save["blocked_s"] >= save["written_s"]) != background
        assert save["blocked_s"] <= save["written_s"]  # a file is not on disk before that


# How much training is done, in batches.


def steps_in(directory):
    """Return the step of each checkpoint, in the order of their epochs and batches."""
    infos = keras_ratchet.checkpoints(directory)
    return [info.position.step for info in sorted(infos, key=lambda i: astuple(i.position)[:2])]


def test_a_manifest_tells_the_batches_that_are_done(tmp_path):
    callback = keras_ratchet.ModelCheckpoint(
        tmp_path / "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=3
    )
    fit(dense(), [callback], 2, batch_size=8)  # four batches in an epoch
    assert steps_in(tmp_path) == [3, 6]


def test_batches_are_counted_from_the_first_epoch_of_a_run_that_continues(tmp_path):
    callback = keras_ratchet.ModelCheckpoint(tmp_path / TEMPLATE, save_weights_only=True)
    fit(dense(), [callback], 4, initial_epoch=2, batch_size=8)
    assert steps_in(tmp_path) == [12, 16]


def test_without_a_known_number_of_batches_there_is_no_step(tmp_path):
    def batches():
        for _ in range(4):
            yield np.zeros((8, 4)), np.zeros((8, 1))

    callback = keras_ratchet.ModelCheckpoint(tmp_path / TEMPLATE, save_weights_only=True)
    model = dense()
    model.fit(batches(), verbose=0, callbacks=[callback])
    assert steps_in(tmp_path) == [None]
