"""One callback for several runs; copies and pickles of it before training."""

import copy
import pickle

import keras
import pytest
from support.models import dense, stamp_of
from support.runs import run

import keras_ratchet


def make(kind, folder, module=keras_ratchet):
    if kind == "stopper":
        return module.EarlyStopping(patience=1, restore_best_weights=True)
    save_freq = 1 if kind == "batches" else "epoch"
    return module.ModelCheckpoint(
        folder / "m.weights.h5", "loss", save_weights_only=True, save_freq=save_freq
    )


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
@pytest.mark.parametrize("kind", ["stopper", "epochs", "batches"])
def test_a_callback_can_be_copied_and_pickled_before_training(kind, duplicate, tmp_path):
    callback = make(kind, tmp_path)
    twin = duplicate(callback)
    assert type(twin) is type(callback)
    model = run(twin, val_loss=[1.0, 2.0, 3.0])
    if kind == "stopper":
        assert twin.stopped_epoch == 1
        assert callback.stopped_epoch == 0
        assert stamp_of(model) == 1
    else:
        file = dense()
        file.load_weights(tmp_path / "m.weights.h5")
        if kind == "epochs":
            assert stamp_of(file) == 3


def test_a_stopper_begins_anew_with_each_fit():
    ours = keras_ratchet.EarlyStopping(patience=1, restore_best_weights=True)
    for curve, best in [([1.0, 2.0], 1.0), ([9.0, 5.0, 7.0], 5.0), ([8.0], 8.0)]:
        model = run(ours, val_loss=curve)
        assert ours.best_value == best
        assert stamp_of(model) == curve.index(best) + 1
        assert (ours.stop_reason is None) == (len(curve) == 1)


def test_a_checkpoint_keeps_its_best_over_several_fits_as_in_keras(tmp_path):
    for module in (keras.callbacks, keras_ratchet):
        path = tmp_path / f"{module.__name__}.weights.h5"
        callback = module.ModelCheckpoint(path, save_best_only=True, save_weights_only=True)
        run(callback, val_loss=[0.5, 0.1])
        run(callback, val_loss=[0.4, 0.3, 0.2])
        assert callback.best == 0.1
        file = dense()
        file.load_weights(path)
        assert stamp_of(file) == 2


def test_a_stopper_can_change_its_model():
    ours = keras_ratchet.EarlyStopping(patience=1, restore_best_weights=True)
    small = run(ours, val_loss=[1.0, 2.0])
    large = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16), keras.layers.Dense(1)])
    large.compile("sgd", "mse")
    run(ours, model=large, val_loss=[3.0, 1.0, 2.0])
    assert stamp_of(small) == 1
    assert stamp_of(large) == 2


def test_the_same_callback_twice_in_a_list_does_no_harm():
    ours = keras_ratchet.EarlyStopping(patience=2, restore_best_weights=True)
    model = run(ours, ours, val_loss=[1.0, 2.0, 3.0, 4.0])
    assert stamp_of(model) == 1


def test_two_stoppers_on_two_metrics_work_side_by_side():
    loss = keras_ratchet.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    score = keras_ratchet.EarlyStopping("score", patience=1, mode="max")
    model = run(loss, score, val_loss=[3.0, 1.0, 2.0, 0.5], score=[0.1, 0.9, 0.8, 0.7])
    assert stamp_of(model) == 2
    assert loss.stop_reason is None
    assert score.stop_reason.kind == "patience"


def test_another_callbacks_stop_restores_the_best_weights_too():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    model = run(
        keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True),
        Stop(),
        val_loss=[2.0, 1.0, 3.0, 0.1],
    )
    assert stamp_of(model) == 2


def test_keras_and_our_classes_take_the_same_arguments_in_the_same_order():
    import inspect

    for name in ("EarlyStopping", "ModelCheckpoint"):
        theirs = inspect.signature(getattr(keras.callbacks, name)).parameters.values()
        ours = list(inspect.signature(getattr(keras_ratchet, name)).parameters.values())
        for a, b in zip(theirs, ours, strict=False):
            assert (a.name, a.default) == (b.name, b.default)
        extra = ours[len(list(theirs)) :]
        assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in extra)
