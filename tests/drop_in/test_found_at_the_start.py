"""What would spoil a run later is found when it begins, where it can be, and else survived."""

import os
import shutil

import keras
import numpy as np
import pytest
from support import background_saves
from support.models import Curve, Stamp, dense, fit, stamp_of
from support.runs import At, warnings_like, warns_once

import keras_ratchet
from keras_ratchet._storage.lock import FileLock, _held
from keras_ratchet.errors import ConfigError, LockedError

LOSSES = [0.9, 0.5, 0.4, 0.6]


def saving(path, **arguments):
    weights_only = str(path).endswith(".weights.h5")
    arguments = {"save_weights_only": weights_only, "mode": "min", **arguments}
    return keras_ratchet.ModelCheckpoint(path, **arguments)


def train(*callbacks, model=None, losses=LOSSES):
    """Train with dictated losses; each weight is its epoch, from 1."""
    model = model or dense()
    callbacks = [Curve(val_loss=losses), Stamp(), *callbacks]
    fit(model, callbacks, len(losses), batch_size=32, shuffle=False)
    return model


def held(path):
    model = dense()
    keras_ratchet.load_weights(model, path)
    return stamp_of(model)


def boom():
    raise RuntimeError("killed")


# Where files go.


@pytest.mark.parametrize("name", ["best.weights.h5", "e{epoch}.weights.h5"])
def test_a_script_may_change_its_working_directory(name, tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "a{b}", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()

    def go(*others):
        monkeypatch.chdir(home)
        checkpoint = saving(f"runs/{name}", save_best_only=True)
        backup = keras_ratchet.BackupAndRestore("backup", delete_checkpoint=False)
        train(checkpoint, *others, backup)
        assert checkpoint.best == 0.4

    away = At("epoch_end", 0, lambda: os.chdir(elsewhere))
    with pytest.raises(RuntimeError, match="killed"):
        go(away, At("epoch_begin", 3, boom))
    go(away)
    assert held(home / "runs" / name.format(epoch=3)) == 3
    assert list(elsewhere.iterdir()) == []
    assert (home / "backup").is_dir()


def test_a_literal_brace_in_a_directory_is_a_part_of_its_name(tmp_path):
    train(saving(tmp_path / "{{a}}" / "best.weights.h5", save_best_only=True))
    assert held(tmp_path / "{a}" / "best.weights.h5") == 3
    assert len(keras_ratchet.checkpoints(tmp_path / "{a}")) == 1


def test_a_directory_that_is_deleted_during_the_run_is_made_anew(tmp_path):
    def delete():
        background_saves.settle()
        shutil.rmtree(tmp_path / "run")

    def is_locked():
        background_saves.settle()
        (path,) = (tmp_path / "run" / "backup" / ".ratchet").glob("*.lock")
        seen.append(any(os.path.samestat(os.fstat(fd), path.stat()) for fd, _ in _held.values()))

    seen = []
    checkpoint = saving(tmp_path / "run" / "e{epoch}.weights.h5", keep_last=2)
    backup = keras_ratchet.BackupAndRestore(tmp_path / "run" / "backup", delete_checkpoint=False)
    with warnings_like("was deleted during training") as count:
        train(At("epoch_begin", 2, delete), checkpoint, backup, At("epoch_begin", 3, is_locked))
    assert count() == 2  # one for each of the two
    assert seen == [True]
    assert held(tmp_path / "run" / "e4.weights.h5") == 4
    with pytest.warns(UserWarning, match="already trained another model"):
        resumed = train(keras_ratchet.BackupAndRestore(tmp_path / "run" / "backup"))
    assert resumed.history.history["val_loss"] == LOSSES


def test_a_deleted_directory_that_another_run_has_taken_is_left_alone(tmp_path, monkeypatch):
    def refuse(fd):
        raise PermissionError(13, "held by another process")

    def taken():
        background_saves.settle()
        shutil.rmtree(tmp_path / "run")
        monkeypatch.setattr("keras_ratchet._storage.lock._take", refuse)

    with pytest.raises(LockedError):
        train(At("epoch_begin", 1, taken), saving(tmp_path / "run" / "e{epoch}.weights.h5"))


def test_a_lock_whose_file_is_there_is_not_taken_again(tmp_path):
    lock = FileLock(str(tmp_path / "x.lock"), "x")
    lock.acquire()
    assert not lock.renew()
    (tmp_path / "x.lock").unlink()
    assert lock.renew()
    assert not lock.renew()
    lock.release()
    assert not lock.renew()


# Models that cannot be saved, or not be loaded.


def model_of(*layers):
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


class Twins(keras.layers.Layer):
    """Two variables of one name."""

    def build(self, shape):
        self.a = self.add_weight(shape=(4,), name="w")
        self.b = self.add_weight(shape=(4,), name="w")

    def call(self, x):
        return x * self.a + self.b


class NoKwargs(keras.layers.Layer):
    """Keras saves it, and cannot make it again: its __init__ knows no `trainable`."""

    def __init__(self, n):
        super().__init__()
        self.inner = keras.layers.Dense(n)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


class Whole(NoKwargs):
    """The same, as it should be."""

    def __init__(self, n, **kwargs):
        keras.layers.Layer.__init__(self, **kwargs)
        self.n, self.inner = n, keras.layers.Dense(n)

    def get_config(self):
        return {**super().get_config(), "n": self.n}


class Unsaid(keras.layers.Layer):
    """Keras refuses to save it: it cannot know what `scale` is."""

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, x):
        return self.scale(x)


def begin(model, path, *callbacks):
    """Train, and return whether the first epoch was begun."""
    begun = []
    saw = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: begun.append(1))
    try:
        train(*callbacks, saving(path), saw, model=model, losses=[0.5])
    except ConfigError as error:
        return begun, error
    return begun, None


def test_two_variables_of_one_name_in_h5_are_an_error_at_the_start(tmp_path):
    begun, error = begin(model_of(Twins()), tmp_path / "best.h5")
    assert "2 variables with one name" in str(error)
    assert "'.keras'" in str(error)
    assert not begun
    assert begin(model_of(Twins()), tmp_path / "best.keras")[1] is None


def test_a_layer_that_keras_does_not_save_is_an_error_at_the_start(tmp_path):
    layer = Unsaid(lambda x: x)
    begun, error = begin(model_of(layer), tmp_path / "best.keras")
    assert "get_config" in str(error)
    assert not begun
    assert begin(model_of(layer), tmp_path / "best.weights.h5")[1] is None


@pytest.mark.parametrize("name", ["best.keras", "best.h5"])
def test_a_layer_that_cannot_be_made_again_is_a_warning_at_the_start(name, tmp_path):
    with warns_once(r"not loaded: a NoKwargs cannot .*trainable.*get_config"):
        begin(model_of(NoKwargs(3), NoKwargs(2)), tmp_path / name)
    with pytest.raises(TypeError):
        keras_ratchet.load_model(tmp_path / name, custom_objects={"NoKwargs": NoKwargs})


def test_layers_that_can_be_made_again_are_no_matter(tmp_path):
    path = tmp_path / "best.keras"
    model = model_of(Whole(4), model_of(Whole(2)), keras.layers.Dropout(0.5))
    with warnings_like("loaded") as count:
        begin(model, path)
    assert count() == 0
    keras_ratchet.load_model(path, custom_objects={"Whole": Whole})


def test_the_look_at_layers_changes_neither_random_streams_nor_names(tmp_path):
    def go(*callbacks):
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model = model_of(Whole(3), keras.layers.Dropout(0.5))
        fit(model, [*callbacks], 2, batch_size=8)
        return model.get_weights(), keras.layers.Dense(1).name

    plain, with_ours = go(), go(saving(tmp_path / "best.keras", monitor="loss"))
    assert plain[1] == with_ours[1]
    for a, b in zip(plain[0], with_ours[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_fails_only_now_is_a_warning(tmp_path):
    class Late(keras.layers.Dense):
        """What it saves is there after the first step only."""

        seen = None

        def save_own_variables(self, store):
            store["seen"] = np.float32(self.seen + 0)

    model = model_of(Late(2))
    step = At("train_batch_end", 0, lambda: setattr(Late, "seen", 1.0))
    with warns_once("cannot be saved yet: TypeError"):
        begin(model, tmp_path / "best.weights.h5", step)
    assert (tmp_path / "best.weights.h5").exists()


@pytest.mark.parametrize("name", ["best.keras", "best.h5"])
def test_a_lambda_is_a_word_at_the_start(name, tmp_path, caplog):
    begin(model_of(keras.layers.Lambda(lambda x: x * 2)), tmp_path / name)
    assert "safe_mode=False" in caplog.text


# Names.


@pytest.mark.parametrize("path", ["runs/{model}/best.keras", "{run}/{epoch}/best.weights.h5"])
def test_a_placeholder_in_a_directory_that_nothing_fills_in_is_an_error(path, tmp_path):
    begun = []
    saw = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: begun.append(1))
    with pytest.raises(ConfigError, match=r"neither a counter nor a metric.*write \{\{"):
        fit(dense(), [saving(tmp_path / path), saw])
    assert not begun
    assert list(tmp_path.iterdir()) == []


def test_a_dict_in_a_path_is_an_error_in_the_constructor(tmp_path):
    with pytest.raises(ConfigError, match="neither a counter nor a metric"):
        saving(tmp_path / str({"lr": 0.1}) / "best.keras")


def test_beside_a_callback_of_the_users_own_it_is_one_at_the_first_save(tmp_path):
    class Mine(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = 0.25

    begin(dense(), tmp_path / "{score}" / "best.weights.h5", Mine())
    assert (tmp_path / "0.25" / "best.weights.h5").exists()
    begun, error = begin(dense(), tmp_path / "{scor}" / "best.weights.h5", Mine())
    assert begun
    assert "neither a counter nor a metric" in str(error)
    assert not (tmp_path / "nan").exists()


@pytest.mark.parametrize("part", ["{epoch}", "{val_loss:.1f}", "{loss:.0f}", "{mae:.0f}"])
def test_counters_and_metrics_may_stand_in_directories(part, tmp_path):
    model = dense(metrics=["mae"])
    assert begin(model, tmp_path / part / "best.weights.h5")[1] is None


def test_two_checkpoints_on_one_path_are_an_error_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = saving(tmp_path / "best.keras", monitor="val_accuracy")
    begun, error = begin(dense(), "best.keras", other)
    assert "Two ModelCheckpoints" in str(error)
    assert not begun
    one = saving("best.weights.h5")
    assert begin(dense(), "last.weights.h5", one, one)[1] is None


@pytest.mark.parametrize("limit", [255, 143])
def test_a_name_that_leaves_no_room_for_the_manifest_is_an_error_at_the_start(
    limit, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "pathconf", lambda path, name: limit)
    longest = limit - 48
    name = "x" * (longest - len(".weights.h5")) + ".weights.h5"
    for _ in range(2):  # the second time the file of the first run is kept aside
        train(saving(tmp_path / name, save_best_only=True))
    assert max(len(p.name) for p in tmp_path.rglob("*")) == limit
    begun, error = begin(dense(), tmp_path / f"x{name}")
    assert f"{longest} bytes are allowed" in str(error)
    assert not begun
