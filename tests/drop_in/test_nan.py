"""NaN is never best, and never replaces something better."""

import math

import keras
import numpy as np
import pytest
from support.models import Curve, dense, fit, stamp_of
from support.runs import KERAS_IS_AS_DESCRIBED, At, run, tiny, warns_once

import keras_ratchet
from keras_ratchet.errors import NonFiniteError

NAN = math.nan


def poison(model):
    """Set every weight to NaN."""
    model.set_weights([np.full_like(w, NAN) for w in model.get_weights()])


def is_finite(model):
    return all(np.isfinite(w).all() for w in model.get_weights())


def test_a_nan_in_the_first_epoch_does_not_stop_a_training_that_improves():
    curve = [NAN, 1.0, 0.5, 0.4, 0.3]
    if KERAS_IS_AS_DESCRIBED:
        theirs = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
        model = run(theirs, val_loss=curve)
        assert len(model.history.epoch) == 4
        assert stamp_of(model) == 1  # the epoch of the NaN
    ours = keras_ratchet.EarlyStopping(patience=3, restore_best_weights=True)
    model = run(ours, val_loss=curve)
    assert len(model.history.epoch) == 5
    assert stamp_of(model) == 5
    assert ours.best_value == 0.3


def test_a_nan_in_the_first_epoch_does_not_stop_saving(tmp_path):
    curve = [NAN, 1.0, 0.5, 0.7]
    name = "{epoch}.weights.h5"
    saved = {}
    for module in (keras.callbacks, keras_ratchet):
        folder = tmp_path / module.__name__
        folder.mkdir()
        checkpoint = module.ModelCheckpoint(
            folder / name, save_best_only=True, save_weights_only=True
        )
        run(checkpoint, val_loss=curve)
        saved[module] = {path.name for path in folder.glob("*.weights.h5")}
    if KERAS_IS_AS_DESCRIBED:
        assert saved[keras.callbacks] == {"1.weights.h5"}
    assert saved[keras_ratchet] == {"2.weights.h5", "3.weights.h5"}


def test_a_run_that_ends_in_nan_keeps_its_files_and_its_best_weights(tmp_path):
    def train(module):
        model = tiny()
        path = tmp_path / f"{module.__name__}.keras"
        callbacks = [
            Curve(val_loss=[0.5, 0.9]),
            module.EarlyStopping(patience=9, restore_best_weights=True),
            module.ModelCheckpoint(path),
            At("epoch_begin", 1, lambda: poison(model)),
            keras.callbacks.TerminateOnNaN(),
        ]
        fit(model, callbacks, epochs=4)
        assert len(model.history.epoch) == 2
        return model, keras.models.load_model(path)

    if KERAS_IS_AS_DESCRIBED:
        model, file = train(keras.callbacks)
        assert is_finite(model)
        assert not is_finite(file)
    with warns_once("did not save .*: weight .*kernel.* is not finite"):
        model, file = train(keras_ratchet)
    assert is_finite(model)
    assert is_finite(file)


def test_nan_in_the_first_epoch_is_not_restored():
    def train(stopper):
        model = tiny()
        good = model.get_weights()
        callbacks = [
            Curve(val_loss=[NAN, 1.0, 2.0]),
            stopper,
            At("epoch_begin", 0, lambda: poison(model)),
            At("epoch_begin", 1, lambda: model.set_weights(good)),
        ]
        fit(model, callbacks, epochs=3)
        return model

    if KERAS_IS_AS_DESCRIBED:
        theirs = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        assert not is_finite(train(theirs))
    ours = keras_ratchet.EarlyStopping(patience=2, restore_best_weights=True)
    assert is_finite(train(ours))
    assert ours.best_epoch == 1


def test_weights_that_are_not_finite_are_never_best_however_good_the_metric(tmp_path):
    def train(module):
        model = tiny()
        stopper = module.EarlyStopping(patience=9, restore_best_weights=True)
        path = tmp_path / f"{module.__name__}.weights.h5"
        checkpoint = module.ModelCheckpoint(path, save_best_only=True, save_weights_only=True)
        harm = At("epoch_end", 1, lambda: poison(model))
        fit(model, [Curve(val_loss=[0.5, 0.1]), harm, stopper, checkpoint], epochs=2)
        file = dense()
        file.load_weights(path)
        return model, file, checkpoint

    if KERAS_IS_AS_DESCRIBED:
        model, file, checkpoint = train(keras.callbacks)
        assert not is_finite(model)
        assert not is_finite(file)
        assert checkpoint.best == 0.1
    with warns_once("is not finite"):
        model, file, checkpoint = train(keras_ratchet)
    assert is_finite(model)
    assert is_finite(file)
    assert checkpoint.best == 0.5


def test_a_nan_of_a_validation_metric_can_stop_training():
    curve = [0.5, NAN, 0.4]
    if KERAS_IS_AS_DESCRIBED:
        model = run(keras.callbacks.TerminateOnNaN(), val_loss=curve)
        assert len(model.history.epoch) == 3
    ours = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True, nan="stop")
    model = run(ours, val_loss=curve)
    assert len(model.history.epoch) == 2
    assert stamp_of(model) == 1
    assert ours.stop_reason.kind == "nan"


def test_a_nan_can_be_an_error_that_leaves_the_best_weights():
    model = tiny()
    ours = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True, nan="raise")
    with pytest.raises(NonFiniteError, match="val_loss is NaN in epoch 2"):
        run(ours, model=model, val_loss=[0.5, NAN, 0.4])
    assert stamp_of(model) == 1
    assert ours.best_weights is None


def test_a_metric_that_is_always_nan_restores_nothing_and_says_so():
    ours = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True)
    with warns_once("val_loss was NaN in every epoch, so the model keeps its last weights"):
        model = run(ours, val_loss=[NAN, NAN])
    assert stamp_of(model) == 2


def test_a_file_that_is_not_there_yet_may_hold_weights_that_are_not_finite(tmp_path):
    model = tiny()
    harm = At("epoch_end", 0, lambda: poison(model))
    path = tmp_path / "{epoch}.weights.h5"
    fit(model, [harm, keras_ratchet.ModelCheckpoint(path, save_weights_only=True)])
    assert (tmp_path / "1.weights.h5").exists()
