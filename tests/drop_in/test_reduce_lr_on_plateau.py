"""Cuts of the learning rate that NaN cannot poison, and what they go back to."""

import logging
import math

import keras
import numpy as np
import pytest
from support.models import Curve, Stamp, fit, stamp_of
from support.runs import KERAS_IS_AS_DESCRIBED, At, run, tiny, warns_once

import keras_ratchet
from keras_ratchet import ReduceLROnPlateau
from keras_ratchet.errors import ConfigError, MissingMetricError, ScheduleError

NAN = math.nan
THEIRS = keras.callbacks.ReduceLROnPlateau


def rate(model):
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


def rates(callback, curve, model=None, **args):
    """Return the learning rate of each epoch, as the callback adds it to the logs."""
    model = run(callback, model=model or tiny(), val_loss=curve, **args)
    return [round(r, 8) for r in model.history.history["learning_rate"]] + [round(rate(model), 8)]


def test_a_nan_in_the_first_epoch_cuts_nothing():
    curve = [NAN, 1.0, 0.5, 0.4, 0.3, 0.2]
    if KERAS_IS_AS_DESCRIBED:
        assert rates(THEIRS(patience=2), curve)[-1] < 0.01 * 0.02
    ours = ReduceLROnPlateau(patience=2)
    assert rates(ours, curve) == [0.01] * 7
    assert ours.best == ours.best_value == 0.2 and ours.best_epoch == 5 and ours.reductions == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"patience": 1},
        {"patience": 2, "factor": 0.5},
        {"patience": 1, "cooldown": 2},
        {"patience": 1, "min_lr": 0.004, "factor": 0.5},
        {"patience": 2, "min_delta": 0.2},
        {"patience": 1, "mode": "max"},
    ],
    ids=str,
)
def test_without_nan_the_cuts_are_those_of_keras(arguments):
    curve = [1.0, 0.9, 0.95, 0.85, 0.85, 0.85, 0.1, 0.2, 0.2, 0.2, 0.2]
    theirs, ours = THEIRS(**arguments), ReduceLROnPlateau(**arguments)
    assert rates(ours, curve) == rates(theirs, curve)
    for name in ("wait", "best", "cooldown_counter"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name))
    assert ours.reductions


def test_each_line_is_that_of_keras_and_each_cut_has_a_record(capsys, caplog):
    curve = [1.0, 1.0, 1.0]
    said = []
    for module in (keras.callbacks, keras_ratchet):
        with caplog.at_level(logging.INFO, "keras_ratchet"):
            rates(module.ReduceLROnPlateau(patience=1, factor=0.5, verbose=1), curve)
        said.append(capsys.readouterr().out)
    if KERAS_IS_AS_DESCRIBED:
        assert said[0] == said[1]
    assert "ReduceLROnPlateau reducing learning rate to" in said[1]
    assert "epoch 2: ReduceLROnPlateau reducing learning rate to" in caplog.text
    ours = ReduceLROnPlateau(patience=1, factor=0.5)
    rates(ours, curve)
    first = ours.reductions[0]
    assert first.epoch == 1 and first.why == (
        "val_loss has not improved on 1 by more than min_delta=0.0001 for 1 epoch (now: 1)"
    )
    assert (first.before, first.after) == pytest.approx((0.01, 0.005))


def test_a_schedule_is_an_error_when_training_begins():
    def epochs_until_it_fails(callback):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
        model = tiny(lambda: keras.optimizers.SGD(schedule))
        seen = []
        count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: seen.append(1))
        with pytest.raises(TypeError, match="created with a `LearningRateSchedule`") as caught:
            fit(model, [Curve(val_loss=[1.0] * 5), count, callback], epochs=5)
        return len(seen), caught.value

    if KERAS_IS_AS_DESCRIBED:
        assert epochs_until_it_fails(THEIRS(patience=2))[0] == 3
    number, error = epochs_until_it_fails(ReduceLROnPlateau(patience=2))
    assert number == 0 and isinstance(error, ScheduleError)
    assert "remove ReduceLROnPlateau" in str(error)


@pytest.mark.parametrize("factor", [-1.0, 0.0, 1.0, 2.0, NAN])
def test_a_factor_that_cannot_work_is_refused(factor):
    if KERAS_IS_AS_DESCRIBED and factor < 1:
        THEIRS(factor=factor)  # a learning rate below 0 would be set
    with pytest.raises(ConfigError, match="factor"):
        ReduceLROnPlateau(factor=factor)


def test_numbers_that_cannot_work_are_refused():
    for arguments in ({"patience": -1}, {"cooldown": 1.5}, {"min_lr": -1.0}, {"min_lr": NAN}):
        with pytest.raises(ConfigError):
            ReduceLROnPlateau(**arguments)
    with pytest.raises(TypeError, match="epsilon"):
        ReduceLROnPlateau(epsilon=1e-4)  # Keras takes and forgets whatever it does not know


def test_training_goes_on_from_the_best_weights_after_a_cut():
    curve = [1.0, 0.5, 0.6, 0.7, 0.8, 0.9]
    seen = []

    def weights():
        seen.append(stamp_of(model))

    model = tiny()
    ours = ReduceLROnPlateau(patience=2, restore_best_weights=True)
    looks = [At("epoch_begin", epoch, weights) for epoch in (3, 4, 5)]
    model = run(ours, *looks, model=model, val_loss=curve)
    assert seen == [3.0, 2.0, 5.0]  # cut after the 4th epoch: back to the 2nd
    assert stamp_of(model) == 2.0  # and after the 6th
    assert "training continues from the weights of epoch 2" in ours.reductions[0].why
    assert not ours._best_weights.is_captured


def test_the_optimizer_goes_back_too_if_asked_to():
    def steps(**arguments):
        model = tiny(lambda: keras.optimizers.SGD(0.01, momentum=0.9))
        ours = ReduceLROnPlateau(patience=2, factor=0.5, restore_best_weights=True, **arguments)
        run(ours, model=model, val_loss=[1.0, 0.5, 0.6, 0.7])
        return int(keras.ops.convert_to_numpy(model.optimizer.iterations)), rate(model)

    assert steps() == (4, pytest.approx(0.005))
    assert steps(restore_optimizer=True) == (2, pytest.approx(0.005))


def test_min_delta_decides_about_cuts_and_not_about_the_weights():
    ours = ReduceLROnPlateau(patience=3, min_delta=0.1, restore_best_weights=True)
    model = run(ours, val_loss=[1.0, 0.95, 0.96, 0.97])
    assert len(ours.reductions) == 1 and ours.best == 1.0
    assert stamp_of(model) == 2 and (ours.best_value, ours.best_epoch) == (0.95, 1)


def test_min_delta_can_be_relative():
    curve = [100.0, 99.0, 98.0]
    absolute = ReduceLROnPlateau(patience=1, min_delta=0.05)
    relative = ReduceLROnPlateau(patience=1, min_delta=0.05, min_delta_mode="relative")
    rates(absolute, curve)
    rates(relative, curve)
    assert (len(absolute.reductions), len(relative.reductions)) == (0, 2)


def test_weights_that_are_not_finite_are_not_gone_back_to():
    model = tiny()
    good = model.get_weights()

    def poison():
        model.set_weights([np.full_like(w, NAN) for w in good])

    ours = ReduceLROnPlateau(patience=1, restore_best_weights=True)
    callbacks = [
        Curve(val_loss=[1.0, 0.1, 2.0]),
        At("epoch_end", 1, poison),
        ours,
        At("epoch_begin", 2, lambda: model.set_weights(good)),
    ]
    fit(model, callbacks, epochs=3)
    assert ours.best_epoch == 0 and all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.skipif(not hasattr(keras.optimizers, "MultiOptimizer"), reason="older Keras")
def test_each_of_several_optimizers_is_cut():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(3, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="second")(hidden))
    one, two = keras.optimizers.SGD(0.1, name="one"), keras.optimizers.SGD(0.01, name="two")
    optimizer = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(one, {"second/.*": two})
    )
    model.compile(optimizer, "mse")
    ours = ReduceLROnPlateau(patience=1, factor=0.5, min_lr=0.01)
    fit(model, [Curve(val_loss=[1.0, 1.0]), ours], epochs=2)
    history = model.history.history
    assert history["learning_rate_one"] == pytest.approx([0.1, 0.1])
    found = [float(keras.ops.convert_to_numpy(o.learning_rate)) for o in (one, two)]
    assert found == pytest.approx([0.05, 0.01])
    assert (ours.reductions[0].before, ours.reductions[0].after) == pytest.approx((0.1, 0.05))


def test_the_learning_rate_behind_loss_scaling_is_cut():
    model = tiny(lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    assert rates(ReduceLROnPlateau(patience=1), [1.0, 1.0], model) == [0.1, 0.1, 0.01]


def test_a_metric_that_is_missing_is_an_error_and_one_that_is_late_a_warning():
    if KERAS_IS_AS_DESCRIBED:
        with warns_once("Learning rate reduction is conditioned on metric `val_los`"):
            run(THEIRS("val_los", mode="min"), val_loss=[1.0])
    with pytest.raises(MissingMetricError, match="Did you mean 'loss'"):
        fit(tiny(), [ReduceLROnPlateau("los", mode="min")])
    ours = ReduceLROnPlateau(patience=1)
    with warns_once("no 'val_loss' yet"):
        run(ours, val_loss=[None, 1.0, None, 1.0])
    assert [r.epoch for r in ours.reductions] == [3]


def test_a_cut_is_in_the_journal(tmp_path):
    from keras_ratchet._storage import journal

    checkpoint = keras_ratchet.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True
    )
    run(ReduceLROnPlateau(patience=1, factor=0.5), checkpoint, val_loss=[1.0, 1.0])
    cuts = [e for e in journal.read(str(tmp_path)) if e["event"] == "reduce_lr"]
    assert [e["epoch"] for e in cuts] == [2]
    assert "val_loss has not improved on 1 by more than min_delta=0.0001" in cuts[0]["reason"]


def test_a_second_fit_begins_anew():
    ours = ReduceLROnPlateau(patience=2)
    model = tiny()
    for _ in range(2):
        fit(model, [Curve(val_loss=[1.0, 1.0]), Stamp(), ours], epochs=2)
        assert ours.reductions == [] and ours.wait == 1
