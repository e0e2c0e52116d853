"""When EarlyStopping stops, and what it says about it."""

import keras
import pytest
from support.models import dense, fit, stamp_of
from support.runs import KERAS_IS_AS_DESCRIBED, run, tiny, warnings_like, warns_once

import keras_ratchet
from keras_ratchet.errors import ConfigError, MetricError


def epochs(*arguments, **curves):
    return len(run(*arguments, **curves).history.epoch)


@pytest.mark.parametrize("patience", [0, 1])
def test_patience_0_acts_as_1_as_in_keras(patience):
    for module in (keras.callbacks, keras_ratchet):
        assert epochs(module.EarlyStopping(patience=patience), val_loss=[1, 2, 3, 4]) == 2


def test_a_negative_patience_is_an_error():
    if KERAS_IS_AS_DESCRIBED:
        assert keras.callbacks.EarlyStopping(patience=-3).patience == -3
    with pytest.raises(ConfigError, match=r"patience counts epochs.*Got: -3"):
        keras_ratchet.EarlyStopping(patience=-3)


def test_min_delta_does_not_hide_the_best_weights():
    curve = [1.0, 0.5, 0.45, 0.41]
    arguments = {"min_delta": 0.1, "patience": 9, "restore_best_weights": True}
    if KERAS_IS_AS_DESCRIBED:
        assert stamp_of(run(keras.callbacks.EarlyStopping(**arguments), val_loss=curve)) == 2
    ours = keras_ratchet.EarlyStopping(**arguments)
    assert stamp_of(run(ours, val_loss=curve)) == 4
    assert (ours.best, ours.best_value) == (0.5, 0.41)
    assert ours.wait == 2  # min_delta still decides about patience


def test_an_improvement_too_small_for_float32_counts():
    curve = [1 - k * 2.0**-27 for k in range(6)]
    if KERAS_IS_AS_DESCRIBED:
        assert epochs(keras.callbacks.EarlyStopping(patience=2), val_loss=curve) < 6
    assert epochs(keras_ratchet.EarlyStopping(patience=2), val_loss=curve) == 6


def test_an_epoch_to_start_from_that_is_never_reached_is_reported():
    arguments = {"start_from_epoch": 10, "restore_best_weights": True}
    if KERAS_IS_AS_DESCRIBED:
        theirs = keras.callbacks.EarlyStopping(**arguments)
        run(theirs, val_loss=[1, 2, 3])
        assert theirs.best_weights is None
    with warns_once("no epoch reached start_from_epoch=10"):
        assert stamp_of(run(keras_ratchet.EarlyStopping(**arguments), val_loss=[1, 2, 3])) == 3


def test_epochs_before_the_start_are_neither_counted_nor_best():
    ours = keras_ratchet.EarlyStopping(patience=2, start_from_epoch=2, restore_best_weights=True)
    assert stamp_of(run(ours, val_loss=[0.1, 0.2, 5, 4, 6, 7, 1])) == 4
    assert ours.stopped_epoch == 5


def test_epochs_without_validation_are_not_counted_and_not_complained_of():
    curve = [None, 1.0, None, 2.0, None, 3.0, None, 4.0, None]
    for module in (keras.callbacks, keras_ratchet):
        stopper = module.EarlyStopping(patience=3)
        with warnings_like("not available|ran no validation") as count:
            assert epochs(stopper, val_loss=curve) == 8
        if module is keras_ratchet:
            assert count() == 1
        elif KERAS_IS_AS_DESCRIBED:
            assert count() == 4


@pytest.mark.parametrize("module", [keras.callbacks, keras_ratchet], ids=["keras", "ratchet"])
def test_a_baseline_has_to_be_beaten_within_the_patience_as_in_keras(module):
    curve = [10, 9, 8, 7, 6, 5, 5.5, 3, 2]
    assert epochs(module.EarlyStopping(baseline=0.5, patience=3), val_loss=curve) == 7
    assert epochs(module.EarlyStopping(baseline=8.5, patience=3), val_loss=curve) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patience": 1.5}, "patience counts epochs"),
        ({"patience": True}, "patience counts epochs"),
        ({"start_from_epoch": -1}, "start_from_epoch counts epochs"),
        ({"min_delta": float("nan")}, "min_delta is the smallest gain"),
        ({"baseline": float("nan")}, "baseline is NaN"),
        ({"nan": "skip"}, "nan must be one of"),
        ({"min_delta_mode": "percent"}, "min_delta_mode must be one of"),
        ({"monitor": ["val_loss", "val_mae"]}, "monitor must be the name of one metric"),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_when_it_is_given(arguments, message):
    with pytest.raises(ConfigError, match=message):
        keras_ratchet.EarlyStopping(**arguments)


def test_several_metrics_are_refused_with_a_sentence():
    if KERAS_IS_AS_DESCRIBED:
        with pytest.raises(TypeError, match="unhashable"):
            run(keras.callbacks.EarlyStopping(["val_loss"], mode="min"), val_loss=[1])
    with pytest.raises(ConfigError, match="monitor must be the name of one metric"):
        keras_ratchet.EarlyStopping(["val_loss"], mode="min")


def test_an_unknown_mode_falls_back_to_auto_as_in_keras():
    with pytest.warns(UserWarning, match="mode 'down' is unknown, fallback to auto mode"):
        ours = keras_ratchet.EarlyStopping(mode="down")
    assert ours.mode == "auto"


def test_a_stop_says_why():
    if KERAS_IS_AS_DESCRIBED:
        theirs = keras.callbacks.EarlyStopping(patience=2)
        run(theirs, val_loss=[1.0, 0.2, 0.5, 0.6])
        assert not any("reason" in name for name in vars(theirs))
    ours = keras_ratchet.EarlyStopping(patience=2)
    run(ours, val_loss=[1.0, 0.2, 0.5, 0.6])
    reason = ours.stop_reason
    assert (reason.kind, reason.epoch) == ("patience", 3)
    assert dict(reason.values) == {"value": 0.6, "best": 0.2, "wait": 2.0}
    assert str(reason) == (
        "val_loss has not improved on 0.2 for 2 checks (best: 0.2 in epoch 2, now: 0.6)"
    )
    assert (ours.best_epoch, ours.best_value, ours.stopped_epoch) == (1, 0.2, 3)


def test_a_run_that_was_not_stopped_has_no_reason():
    ours = keras_ratchet.EarlyStopping(patience=9)
    run(ours, val_loss=[1.0, 0.2])
    assert ours.stop_reason is None
    assert ours.stopped_epoch == 0


def test_verbose_prints_the_reason_and_the_epoch(capsys):
    ours = keras_ratchet.EarlyStopping(patience=1, verbose=1, restore_best_weights=True)
    run(ours, val_loss=[1.0, 2.0])
    out = capsys.readouterr().out
    assert "Epoch 2: early stopping: val_loss has not improved on 1 for 1 check" in out
    assert "Restoring model weights from the end of the best epoch: 1." in out


def test_a_metric_with_one_element_is_a_number_and_a_longer_one_is_an_error():
    import numpy as np

    ours = keras_ratchet.EarlyStopping("f1", mode="max", patience=1)
    run(ours, f1=[np.array([0.5]), np.array([0.4])])
    assert ours.best_value == 0.5
    with pytest.raises(MetricError, match=r"of shape \(3,\)"):
        run(keras_ratchet.EarlyStopping("f1", mode="max"), f1=[np.ones(3)])


def test_a_relative_min_delta_asks_for_a_share_of_the_best_value():
    curve = [-1.0, -1.005, -1.009, -1.012]
    arguments = {"min_delta": 0.01, "patience": 2}
    relative = keras_ratchet.EarlyStopping(min_delta_mode="relative", **arguments)
    assert epochs(relative, val_loss=curve) == 3


def test_a_subclass_can_compute_the_value_as_in_keras():
    class Sum(keras_ratchet.EarlyStopping):
        def get_monitor_value(self, logs):
            return logs["a"] + logs["b"]

    ours = Sum("a+b", mode="min", restore_best_weights=True, patience=9)
    assert stamp_of(run(ours, a=[1, 1, 3], b=[3, 1, 0])) == 2


def test_a_model_without_a_fit_is_enough():
    class Dummy:
        stop_training = False

        def __init__(self):
            self.weights_ = -1

        def get_weights(self):
            return self.weights_

        def set_weights(self, weights):
            self.weights_ = weights

    ours = keras_ratchet.EarlyStopping(patience=2, restore_best_weights=True)
    ours.set_model(Dummy())
    ours.on_train_begin()
    for epoch, loss in enumerate([0.2, 0.15, 0.1, 0.2, 0.3]):
        ours.on_epoch_begin(epoch)
        ours.model.weights_ = epoch
        ours.on_epoch_end(epoch, logs={"val_loss": loss})
        if ours.model.stop_training:
            break
    ours.on_train_end()
    assert (epoch, ours.model.get_weights()) == (4, 2)


def test_no_epochs_are_no_error():
    fit(tiny(), keras_ratchet.EarlyStopping(restore_best_weights=True), epochs=0)
    fit(dense(), [keras_ratchet.EarlyStopping()], epochs=3, initial_epoch=3)
