"""What is in the backup directory, and what becomes of it."""

import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from support.models import dense, fit
from support.resuming import (
    EPOCHS,
    PER_EPOCH,
    Kill,
    Killed,
    Script,
    arrays,
    model,
    scramble,
    values,
)
from support.sources import numpy_arrays

import keras_ratchet
from keras_ratchet.errors import CorruptError, LockedError, ResumeError


def snapshots(directory):
    return sorted(p.name for p in Path(directory).glob("epoch-*"))


def newest(directory):
    return max(Path(directory).glob("epoch-*"), key=lambda p: p.stat().st_mtime_ns)


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def script(tmp_path, **arguments):
    return Script(str(tmp_path / "backup"), **{"data": numpy_arrays, **arguments})


class Epochs(keras.callbacks.Callback):
    """Counts the epochs and batches of one run."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(epoch)


def seen(outcome):
    return next(c for c in outcome.callbacks if isinstance(c, Epochs)).seen


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
def test_a_damaged_newest_snapshot_is_passed_over_with_a_warning(file, tmp_path):
    s = script(tmp_path)
    whole = s.uninterrupted()
    s.run(Kill(epoch=1), save_freq=3)
    damage(newest(s.directory) / file)
    with pytest.warns(UserWarning, match=r"damaged.*Resuming from"):
        assert s.run(save_freq=3).differences(whole) == []


def test_if_all_are_damaged_nothing_is_trained(tmp_path):
    s = script(tmp_path)
    s.run(Kill(17))
    for path in Path(s.directory).glob("epoch-*"):
        damage(path / "state.safetensors")
    net = model()
    before = values(net.variables)
    with pytest.raises(CorruptError, match=r"No snapshot in .* verifies"):
        net.fit(*arrays(), verbose=0, callbacks=[keras_ratchet.BackupAndRestore(s.directory)])
    assert all((a == b).all() for a, b in zip(before, values(net.variables), strict=True))
    assert net._initial_epoch is None


def test_what_others_put_there_is_not_touched(tmp_path):
    s = script(tmp_path)
    foreign = Path(s.directory)
    (foreign / "epoch-notes").mkdir(parents=True)
    (foreign / "epoch-notes" / "mine.txt").write_text("mine")
    (foreign / "thesis.txt").write_text("mine too")
    (foreign / ".draft-notes.txt").write_text("and this")
    s.run(Kill(17), save_freq=3)
    s.run(save_freq=3, delete_checkpoint=True)
    left = sorted(str(p.relative_to(foreign)) for p in foreign.rglob("*") if p.is_file())
    assert left == [".draft-notes.txt", "epoch-notes/mine.txt", "thesis.txt"]


def test_a_directory_of_our_files_only_is_gone_at_the_end(tmp_path):
    s = script(tmp_path)
    s.run(Kill(17))
    s.run(delete_checkpoint=True)
    assert not os.path.exists(s.directory)


def other_model():
    net = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(7), keras.layers.ReLU(), keras.layers.Dense(1)]
    )
    net.compile("sgd", "mse")
    return net


def test_another_training_is_refused_with_all_differences(tmp_path):
    s = script(tmp_path)
    s.run(Kill(17), save_freq=3)
    scramble()
    net = other_model()
    before = values(net.variables)
    backup = keras_ratchet.BackupAndRestore(s.directory)
    with pytest.raises(ResumeError) as refused:
        net.fit(*arrays(), batch_size=8, verbose=0, callbacks=[backup])
    for word in (
        "variables were saved",
        "optimizer: ",
        "layers: ",
        "batch_size: 4",
        "batches_per_epoch: 10",
    ):
        assert word in str(refused.value), word
    assert all((a == b).all() for a, b in zip(before, values(net.variables), strict=True))
    assert net._initial_epoch is None
    net.fit(*arrays(), verbose=0)  # and it can still be trained
    assert s.run(save_freq=3).differences(script(tmp_path / "w").uninterrupted()) == []


def test_a_mild_difference_is_one_warning(tmp_path):
    s = script(tmp_path)
    s.run(Kill(17))
    s.data = lambda: {**numpy_arrays(), "batch_size": 8}
    with pytest.warns(UserWarning, match="despite these differences") as caught:
        assert s.run().epochs == [0, 1, 2]
    ours = [str(w.message) for w in caught if "despite" in str(w.message)]
    assert len(ours) == 1 and "batch_size: 4 when saved, 8 now" in ours[0]
    assert "batches_per_epoch: 10 when saved, 5 now" in ours[0]


def test_a_finished_training_is_not_repeated(tmp_path, caplog):
    s = script(tmp_path, callbacks=lambda: [Epochs()])
    first = s.run()
    caplog.set_level(logging.WARNING, "keras_ratchet")
    again = s.run()
    assert again.differences(first) == [] and seen(again) == []
    assert re.search(r"resuming from .*-finished: 3 epochs and 0 batches are done", caplog.text)


def stopping():
    return [Epochs(), keras.callbacks.EarlyStopping("loss", patience=0, min_delta=10.0)]


@pytest.mark.parametrize("kill", [None, Kill(17)], ids=["stopped", "killed, then stopped"])
def test_a_training_that_was_stopped_early_is_not_repeated(kill, tmp_path):
    s = script(tmp_path, callbacks=stopping, fit={"epochs": 6})
    if kill is not None:
        assert s.run(kill) is None
    first = s.run()
    again = s.run()
    assert first.epochs == again.epochs == [0, 1] and seen(again) == []
    assert again.differences(first) == []


def test_more_epochs_than_before_go_on(tmp_path):
    s = script(tmp_path, callbacks=lambda: [Epochs()], fit={"epochs": 5})
    whole = s.uninterrupted()
    s.fit = {"epochs": 3}
    s.run()
    s.fit = {"epochs": 5}
    more = s.run()
    assert seen(more) == [3, 4] and more.differences(whole) == []


def test_another_process_is_refused(tmp_path):
    s = script(tmp_path)
    s.run(Kill(17))
    code = (
        "import sys, keras_ratchet._storage.lock as l; "
        f"lock = l.FileLock({os.path.join(s.directory, '.ratchet', 'backup.lock')!r}, 'x'); "
        "lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(LockedError):
            s.run()
    finally:
        holder.communicate()
    assert s.run().epochs == [0, 1, 2]


@pytest.mark.parametrize(("keep", "double", "left"), [(1, False, 1), (3, False, 3), (1, True, 2)])
def test_so_many_are_kept(keep, double, left, tmp_path):
    s = script(tmp_path)
    s.run(Kill(17), save_freq=3, keep=keep, double_checkpoint=double)
    assert len(snapshots(s.directory)) == left


def test_every_s_saves_by_the_clock(tmp_path):
    s = script(tmp_path)
    whole = s.uninterrupted()
    s.run(Kill(17), save_freq=False, every_s=1e-9, background=False)  # no save is still written
    assert snapshots(s.directory)[-1] == "epoch-00001-batch-0000006"
    assert s.run(save_freq=False, every_s=1000).differences(whole) == []


def test_without_regular_saves_only_the_begin_and_the_end_are_saved(tmp_path):
    s = script(tmp_path)
    s.run(Kill(17), save_freq=False)
    assert snapshots(s.directory) == ["epoch-00000-batch-0000000"]
    s.run(save_freq=False)
    assert snapshots(s.directory)[-1] == "epoch-00003-batch-0000000-finished"


@pytest.mark.parametrize("argument", [{"save_freq": 0}, {"save_freq": "batch"}, {"keep": 0}])
def test_arguments_that_cannot_work_are_refused(argument, tmp_path):
    with pytest.raises(ValueError, match=r"save_freq|keep"):
        keras_ratchet.BackupAndRestore(tmp_path, **argument)


def test_tensorflow_without_a_seed_is_warned_about(tmp_path, backend):
    scramble()
    keras.backend.clear_session()
    from keras.src.backend.common import global_state
    from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED

    global_state.set_global_attribute(GLOBAL_RANDOM_SEED, None)
    net = model()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net.fit(
            *arrays(),
            verbose=0,
            callbacks=[keras_ratchet.BackupAndRestore(tmp_path / "b")],
        )
    said = [w for w in caught if "set_random_seed" in str(w.message)]
    assert len(said) == (1 if backend == "tensorflow" else 0)


def by_keras(directory, kill=None, save_freq="epoch"):
    """Train with Keras's own class, and be killed."""
    scramble()
    keras.utils.set_random_seed(5)
    net = model()
    backup = keras.callbacks.BackupAndRestore(
        directory, save_freq=save_freq, double_checkpoint=True
    )
    callbacks = [backup, kill or Kill(17)]
    data = numpy_arrays()
    with pytest.raises(Killed):
        net.fit(**data, epochs=EPOCHS, verbose=0, callbacks=callbacks)


def test_a_backup_by_keras_goes_on_at_its_epoch_with_one_warning(tmp_path):
    s = script(tmp_path, callbacks=lambda: [Epochs()])
    by_keras(s.directory, Kill(epoch=1))
    files = {p.name: p.read_bytes() for p in Path(s.directory).iterdir()}
    assert json.loads(files["training_metadata.json"])["epoch"] == 2
    with pytest.warns(UserWarning, match=r"epoch 2 .*Keras's BackupAndRestore") as caught:
        outcome = s.run(delete_checkpoint=True)
    assert len([w for w in caught if "Keras's" in str(w.message)]) == 1
    assert seen(outcome) == [2] and outcome.epochs == [2]
    iterations = max(int(v) for v in outcome.optimizer if v.shape == ())
    assert iterations == EPOCHS * PER_EPOCH
    assert {p.name: p.read_bytes() for p in Path(s.directory).iterdir()} == files


def test_our_own_snapshots_win_over_a_backup_by_keras(tmp_path):
    s = script(tmp_path, callbacks=lambda: [Epochs()])
    by_keras(s.directory, Kill(epoch=0))
    with pytest.warns(UserWarning, match="epoch 1 "):
        assert s.run(Kill(25)) is None
    assert seen(s.run()) == [2]  # no warning: it is an error here


def test_a_torn_backup_by_keras_falls_back_to_its_copy(tmp_path):
    s = script(tmp_path)
    by_keras(s.directory, Kill(epoch=1))
    latest = Path(s.directory) / "latest.weights.h5"
    latest.write_bytes(latest.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"epoch 1 .*\.bkp"):
        assert s.run().epochs == [1, 2]


def test_an_unreadable_backup_by_keras_starts_nothing(tmp_path):
    for name, text in (("latest.weights.h5", "x"), ("training_metadata.json", '{"epoch": -1}')):
        (tmp_path / name).write_text(text)
    with pytest.raises(CorruptError, match="that Keras wrote"):
        model().fit(*arrays(), verbose=0, callbacks=[keras_ratchet.BackupAndRestore(tmp_path)])


def test_a_backup_by_keras_of_another_model_is_refused(tmp_path):
    s = script(tmp_path)
    by_keras(s.directory)
    net = other_model()
    before = values(net.variables)
    with pytest.raises(ResumeError, match="does not fit this model"):
        net.fit(*arrays(), verbose=0, callbacks=[keras_ratchet.BackupAndRestore(s.directory)])
    assert all(np.array_equal(a, b) for a, b in zip(before, values(net.variables), strict=True))


def test_a_snapshot_tells_the_batches_that_are_done(tmp_path):
    backup = keras_ratchet.BackupAndRestore(tmp_path, save_freq=3, keep=99, delete_checkpoint=False)
    fit(dense(), [backup], epochs=2)  # of four batches
    steps = [info.position.step for info in keras_ratchet.checkpoints(tmp_path)]
    assert steps == [0, 3, 6, 8]
