"""What is restored, what it scored, and what it costs in memory."""

import gc
import weakref

import keras
import numpy as np
import pytest
from support.models import Curve, Stamp, data, dense, fit, stamp_of
from support.runs import KERAS_IS_AS_DESCRIBED, At, press_ctrl_c, run, tiny, warns_once

import keras_ratchet
from keras_ratchet.errors import ConfigError

CURVE = [1.0, 0.2, 0.5, 0.6]  # the epoch with index 1 is the best


def adam():
    return keras.optimizers.Adam(0.1)


def adam_with_averages():
    return keras.optimizers.Adam(0.1, use_ema=True)


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def rate(model):
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


def train(model, *callbacks):
    """Train while the learning rate falls; return the optimizer as it was at the best epoch."""
    seen = []
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, lr: 0.1 / 2**epoch)
    look = At("epoch_end", 1, lambda: seen.extend(values(model.optimizer.variables)))
    fit(model, [Curve(val_loss=CURVE), Stamp(), halve, look, *callbacks], len(CURVE))
    return seen


def stopper(module=keras_ratchet, **arguments):
    return module.EarlyStopping(patience=9, restore_best_weights=True, **arguments)


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("optimizer", [adam, adam_with_averages])
def test_the_optimizer_can_be_restored_with_the_weights(optimizer):
    if KERAS_IS_AS_DESCRIBED and optimizer is adam:
        model = tiny(adam)
        then = train(model, stopper(keras.callbacks))
        assert stamp_of(model) == 2
        assert not same(values(model.optimizer.variables), then)
        assert int(model.optimizer.iterations) == 4 * 4
        assert rate(model) == pytest.approx(0.1 / 8)
    model = tiny(optimizer)
    then = train(model, stopper(restore_optimizer=True))
    assert stamp_of(model) == 2
    assert same(values(model.optimizer.variables), then)
    assert int(model.optimizer.iterations) == 2 * 4
    assert rate(model) == pytest.approx(0.1 / 2)


def test_the_optimizer_is_left_alone_unless_asked_for():
    model = tiny(adam)
    train(model, stopper())
    assert int(model.optimizer.iterations) == 4 * 4


def test_ctrl_c_restores_the_optimizer_too():
    model = tiny(adam)
    with pytest.raises(KeyboardInterrupt):
        train(model, stopper(restore_optimizer=True), At("train_batch_end", 3, press_ctrl_c))
    assert stamp_of(model) == 2
    assert int(model.optimizer.iterations) == 2 * 4


def test_an_optimizer_that_is_not_there_is_reported_at_the_beginning():
    ours = stopper(restore_optimizer=True)
    callbacks = keras.callbacks.CallbackList([ours], model=keras.Sequential())
    with pytest.raises(ConfigError, match="restore_optimizer needs an optimizer"):
        callbacks.on_train_begin()


def test_a_training_metric_does_not_describe_the_weights_at_the_end_of_its_epoch():
    class Jump(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:  # the last step of each epoch makes the model useless
                self.model.set_weights([w + 10 for w in self.model.get_weights()])

    def gap(ours):
        model = tiny()
        fit(model, [Jump(), ours])
        return model.evaluate(*data(), verbose=0) / ours.best

    if KERAS_IS_AS_DESCRIBED:
        theirs = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
        assert gap(theirs) > 10  # and not a word about it
    with warns_once("'loss', a mean over the batches .* such as 'val_loss'"):
        gap(keras_ratchet.EarlyStopping("loss", restore_best_weights=True))


def test_a_metric_of_validation_scores_the_restored_weights_exactly():
    model, ours = tiny(), stopper()
    validation = data(16, seed=1)
    harm = At("epoch_begin", 2, lambda: model.set_weights([w + 9 for w in model.get_weights()]))
    fit(model, [ours, harm], epochs=3, validation_data=validation)
    assert ours.best_epoch == 1
    assert model.evaluate(*validation, verbose=0) == pytest.approx(ours.best_value, rel=1e-6)


class LookAtBest(keras.callbacks.Callback):
    """Notes the arrays that hold the best weights, after each epoch."""

    def __init__(self, stopper):
        super().__init__()
        self.stopper = stopper
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([weakref.ref(array) for array in self.stopper.best_weights])


@pytest.mark.parametrize("optimizer", [False, True])
def test_one_copy_of_the_weights_is_held_and_only_while_training_runs(optimizer):
    if KERAS_IS_AS_DESCRIBED and not optimizer:
        theirs = stopper(keras.callbacks)
        look = LookAtBest(theirs)
        run(theirs, look, val_loss=[3.0, 2.0, 1.0])
        gc.collect()
        assert all(ref() is None for ref in look.seen[0])  # new arrays for each improvement
        assert all(ref() is not None for ref in look.seen[-1])  # held for ever
    ours = stopper(restore_optimizer=optimizer)
    look = LookAtBest(ours)
    run(ours, look, val_loss=[3.0, 2.0, 1.0])
    assert look.seen[0] == look.seen[1] == look.seen[2]
    assert ours.best_weights is None
    gc.collect()
    assert all(ref() is None for refs in look.seen for ref in refs)


def test_the_best_weights_can_be_read_while_training_runs():
    ours = stopper()

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append({float(w.flat[0]) for w in ours.best_weights})

    seen = []
    run(ours, Look(), val_loss=CURVE)
    assert seen == [{1.0}, {2.0}, {2.0}, {2.0}]


def test_no_copy_is_taken_unless_weights_are_to_be_restored():
    ours = keras_ratchet.EarlyStopping(patience=9)
    assert stamp_of(run(ours, val_loss=CURVE)) == len(CURVE)
    assert ours.best_weights is None
    assert (ours.best_epoch, ours.best_value) == (1, 0.2)


@pytest.mark.parametrize("dtype", ["mixed_float16", "bfloat16"])
def test_weights_of_any_float_type_are_restored(dtype):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = dense()
    finally:
        keras.config.set_dtype_policy(before)
    run(stopper(), model=model, val_loss=[1.0, 0.5, 0.7])
    assert {float(np.asarray(w, "float32").flat[0]) for w in model.get_weights()} == {2.0}


def test_weights_that_are_not_trained_are_restored_too():
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])
    model.add(keras.layers.Dense(1, trainable=False))
    model.compile("sgd", "mse")
    seen = []
    look = At("epoch_end", 0, lambda: seen.extend(model.get_weights()))
    fit(model, [Curve(val_loss=[1.0, 2.0]), look, stopper()], epochs=2)
    assert len(seen) == 6
    assert same(model.get_weights(), seen)
