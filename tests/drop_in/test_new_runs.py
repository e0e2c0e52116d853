"""A run on the path of an earlier one: new runs begin anew and lose nothing, resumed ones go on."""

import logging
import os

import keras
import pytest
from support.models import Curve, Stamp, dense, fit, stamp_of
from support.runs import At

import keras_ratchet
from keras_ratchet._storage import journal

PATH = "best.weights.h5"
ASIDE = "best.before-01.weights.h5"


def train(directory, model, losses, *others, name=PATH, first=0, stamps=10, **arguments):
    """Train with dictated losses; each weight is `stamps` plus the epoch, from 1."""
    weights_only = name.endswith(".weights.h5")
    arguments = {"save_best_only": True, "save_weights_only": weights_only, **arguments}
    callback = keras_ratchet.ModelCheckpoint(directory / name, mode="min", **arguments)
    curve = Curve(val_loss=[None] * first + losses)
    callbacks = [curve, Stamp(stamps), *others, callback]
    epochs = first + len(losses)
    fit(model, callbacks, epochs, initial_epoch=first, batch_size=32, shuffle=False)
    return callback


def held(path):
    """Return the number that the weights of a file hold; it has to verify, and Keras loads it."""
    assert keras_ratchet.verify(path)
    if not str(path).endswith(".weights.h5"):
        return stamp_of(keras.models.load_model(path, compile=False))
    model = dense()
    model.load_weights(path)
    return stamp_of(model)


def runs_in(directory):
    return {saved.name: saved.run for saved in keras_ratchet.checkpoints(directory)}


def test_each_fold_of_a_loop_on_one_path_gets_its_own_model(tmp_path, caplog):
    for fold, losses in enumerate([[0.1, 0.5], [0.9, 0.4, 0.6], [0.3]]):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "keras_ratchet"):
            callback = train(tmp_path, dense(), losses, stamps=10 * fold)
        assert callback.best == min(losses)
        assert held(tmp_path / PATH) == 10 * fold + losses.index(min(losses)) + 1
        lines = [r.message for r in caplog.records if "belongs to an earlier run" in r.message]
        assert len(lines) == (fold > 0)
    assert "best.before-02.weights.h5" in lines[0]
    assert held(tmp_path / ASIDE) == 1
    assert held(tmp_path / "best.before-02.weights.h5") == 12
    assert len(set(runs_in(tmp_path).values())) == 3
    kept = [e["name"] for e in journal.read(str(tmp_path)) if e["event"] == "aside"]
    assert kept == [ASIDE, "best.before-02.weights.h5"]


def test_the_file_of_an_earlier_run_stays_until_there_is_a_first_best(tmp_path):
    train(tmp_path, dense(), [0.1])
    train(tmp_path, dense(), [float("nan")])
    assert held(tmp_path / PATH) == 11
    assert not (tmp_path / ASIDE).exists()


@pytest.mark.parametrize("name", ["best.weights.h5", "best.keras", "best.h5"])
def test_a_model_that_holds_the_weights_of_the_file_goes_on(name, tmp_path, caplog):
    train(tmp_path, dense(), [0.2], name=name)
    model = dense()
    model.load_weights(tmp_path / name)
    with caplog.at_level(logging.WARNING, "keras_ratchet"):
        callback = train(tmp_path, model, [0.5, 0.3], name=name, stamps=20)
    assert callback.best == 0.2
    assert held(tmp_path / name) == 11
    assert "val_loss=0.2" in caplog.text
    assert "fresh=True" in caplog.text
    assert len(runs_in(tmp_path)) == 1


@pytest.mark.parametrize("how", ["initial_epoch", "fresh=False", "the same callback"])
def test_a_run_that_goes_on_knows_the_best_value_of_before(how, tmp_path):
    before = train(tmp_path, dense(), [0.2])
    if how == "the same callback":
        fit(dense(), [Curve(val_loss=[0.5]), Stamp(20), before], 1, batch_size=32)
        callback = before
    else:
        arguments = {"first": 1} if how == "initial_epoch" else {"fresh": False}
        callback = train(tmp_path, dense(), [0.5, 0.3], stamps=20, **arguments)
    assert callback.best == 0.2
    assert held(tmp_path / PATH) == 11
    assert len(runs_in(tmp_path)) == 1


def test_fresh_is_a_new_run_whatever_the_model_holds(tmp_path):
    model = dense()
    train(tmp_path, model, [0.2])
    model.load_weights(tmp_path / PATH)
    train(tmp_path, model, [0.5], stamps=20, fresh=True)
    assert held(tmp_path / PATH) == 21
    assert held(tmp_path / ASIDE) == 11


@pytest.mark.parametrize("first", [0, 1])
def test_another_architecture_is_a_new_run(first, tmp_path):
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16), keras.layers.Dense(1)])
    wide.compile("sgd", "mse")
    train(tmp_path, dense(), [0.1])
    train(tmp_path, wide, [0.4], first=first, stamps=20)
    wide.load_weights(tmp_path / PATH)
    assert stamp_of(wide) == 21 + first
    assert held(tmp_path / ASIDE) == 11


def test_files_of_an_earlier_run_neither_compete_nor_are_they_deleted(tmp_path):
    name = "e{epoch}.weights.h5"
    rules = {"keep_best": 1, "keep_last": 1, "save_best_only": False}
    train(tmp_path, dense(), [0.2, 0.1, 0.3, 0.4], name=name, **rules)
    first = {"e2.weights.h5": 12, "e4.weights.h5": 14}
    assert {n: held(tmp_path / n) for n in runs_in(tmp_path)} == first
    train(tmp_path, dense(), [0.9, 0.8, 0.6, 0.7, 0.75], name=name, stamps=20, **rules)
    assert {n: held(tmp_path / n) for n in runs_in(tmp_path)} == {
        "e2.before-01.weights.h5": 12,  # epoch 2 of the new run was saved here, and dropped
        "e4.before-01.weights.h5": 14,
        "e3.weights.h5": 23,
        "e5.weights.h5": 25,
    }
    model = dense()
    keras_ratchet.load_weights(model, tmp_path)
    assert stamp_of(model) == 23


@pytest.mark.parametrize("at", [0, 2])
def test_a_resumed_run_stays_the_same_one(at, tmp_path):
    """Killed in its first epoch, when no file is its own yet, or later."""

    def boom():
        raise RuntimeError("killed")

    def go(*others):
        backup = keras_ratchet.BackupAndRestore(tmp_path / "backup", save_freq=1)
        return train(tmp_path, dense(), [0.9, 0.5, 0.6, 0.7], *others, backup, stamps=20)

    train(tmp_path, dense(), [0.1])
    with pytest.raises(RuntimeError, match="killed"):
        go(At("train_batch_end", at, boom))
    callback = go()
    assert callback.best == 0.5
    assert held(tmp_path / PATH) == 22
    assert held(tmp_path / ASIDE) == 11
    assert len(runs_in(tmp_path)) == 2


def test_a_run_that_goes_on_and_is_killed_at_once_goes_on_again(tmp_path):
    """Its only snapshot is of its beginning, when the model held the file's weights."""

    def boom():
        raise RuntimeError("killed")

    def go(*others):
        model = dense()
        model.load_weights(tmp_path / "start.weights.h5")
        backup = keras_ratchet.BackupAndRestore(tmp_path / "backup", save_freq=False)
        return train(tmp_path, model, [0.1, 0.3], *others, backup, stamps=20)

    train(tmp_path, dense(), [0.2])
    (tmp_path / "start.weights.h5").write_bytes((tmp_path / PATH).read_bytes())
    with pytest.raises(RuntimeError, match="killed"):
        go(At("epoch_begin", 1, boom))
    assert held(tmp_path / PATH) == 21  # no longer what the model held
    assert go().best == 0.1
    assert set(runs_in(tmp_path)) == {PATH, "start.weights.h5"}


def test_after_keras_own_backup_the_run_goes_on(tmp_path):
    def boom():
        raise RuntimeError("killed")

    def go(*others):
        # their callback stands behind ours, so that the first epoch is known late
        callback = keras_ratchet.ModelCheckpoint(
            tmp_path / PATH, mode="min", save_best_only=True, save_weights_only=True
        )
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        curve = Curve(val_loss=[0.1, 0.4, 0.3])
        fit(dense(), [curve, Stamp(10), callback, *others, backup], 3, batch_size=32)
        return callback

    with pytest.raises(RuntimeError, match="killed"):
        go(At("epoch_begin", 2, boom))
    assert go().best == 0.1
    assert held(tmp_path / PATH) == 11


def test_the_callbacks_of_one_run_tell_the_same_run(tmp_path):
    last = keras_ratchet.ModelCheckpoint(tmp_path / "last.weights.h5", save_weights_only=True)
    train(tmp_path, dense(), [0.1], last)
    assert len(set(runs_in(tmp_path).values())) == 1
    assert all(runs_in(tmp_path).values())


def test_a_file_that_is_saved_each_epoch_is_replaced_as_in_keras(tmp_path):
    for _ in range(2):
        train(tmp_path, dense(), [0.2, 0.3], save_best_only=False)
    assert sorted(p for p in os.listdir(tmp_path) if p.endswith(".h5")) == [PATH]


def test_a_file_of_keras_is_kept_too(tmp_path):
    dense().save_weights(tmp_path / PATH)
    before = (tmp_path / PATH).read_bytes()
    train(tmp_path, dense(), [0.2])
    assert (tmp_path / ASIDE).read_bytes() == before
    assert held(tmp_path / PATH) == 11
