"""Averaged weights (`use_ema`), and which weights the best value scored."""

import keras
import numpy as np
import pytest
from support.models import Curve, Stamp, data, dense, fit, stamp_of
from support.runs import KERAS_IS_AS_DESCRIBED, At, press_ctrl_c, tiny

import keras_ratchet
from keras_ratchet._keras.ema import ema_pairs, is_swapped

VALIDATION = data(16, seed=1)


def sgd():
    return keras.optimizers.SGD(0.02, use_ema=True, ema_momentum=0.8)


def loss_scaled():
    return keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=2.0)


def several():
    optimizers = keras.optimizers.OptimizerMap(sgd(), {".*bias": keras.optimizers.SGD(0.01)})
    return keras.optimizers.MultiOptimizer(optimizers)


OPTIMIZERS = [
    pytest.param(loss_scaled, id="loss scale"),
    pytest.param(
        several,
        id="several",
        marks=pytest.mark.skipif(
            not hasattr(keras.optimizers, "MultiOptimizer"), reason="newer than this Keras"
        ),
    ),
]


def harm(model):
    """Return a callback that makes the model worse, so that the epoch with index 1 is the best."""
    return At("epoch_begin", 2, lambda: model.set_weights([w * 3 + 2 for w in model.get_weights()]))


def train(callback, swap, optimizer=sgd, epochs=3, ours_is_first=False):
    """Train for real; the epoch with index 1 is the best one."""
    keras.utils.set_random_seed(0)
    model = tiny(optimizer)
    callbacks = [callback, swap] if ours_is_first else [swap, callback]
    fit(model, [*callbacks, harm(model)], epochs, validation_data=VALIDATION, shuffle=False)
    return model


def score(model):
    return model.evaluate(*VALIDATION, verbose=0)


def averages(model):
    """Return the averages as arrays."""
    return [keras.ops.convert_to_numpy(a) for _, a in ema_pairs(model.optimizer)]


@pytest.mark.parametrize(("on_epoch", "ours_is_first"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_restored_weights_are_those_that_were_scored(on_epoch, ours_is_first):
    if KERAS_IS_AS_DESCRIBED and not on_epoch and not ours_is_first:
        theirs = keras.callbacks.EarlyStopping(patience=9, restore_best_weights=True)
        model = train(theirs, keras.callbacks.SwapEMAWeights())
        assert theirs.best_epoch == 1
        assert score(model) != pytest.approx(theirs.best, rel=1e-3)  # the raw weights' score
    ours = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True)
    swap = keras.callbacks.SwapEMAWeights(bool(on_epoch))
    model = train(ours, swap, ours_is_first=ours_is_first)
    assert ours.best_epoch == 1
    assert score(model) == pytest.approx(ours.best_value, rel=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_averages_inside_other_optimizers_are_found(optimizer):
    ours = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True)
    model = train(ours, keras.callbacks.SwapEMAWeights(), optimizer)
    assert ours.best_epoch == 1
    assert score(model) == pytest.approx(ours.best_value, rel=1e-5)


@pytest.mark.parametrize("name", ["best.keras", "best.weights.h5"])
def test_the_saved_weights_are_those_that_were_scored(name, tmp_path):
    def saved(module):
        path = tmp_path / f"{module.__name__}.{name}"
        weights_only = name.endswith(".weights.h5")
        checkpoint = module.ModelCheckpoint(
            path, save_best_only=True, save_weights_only=weights_only
        )
        train(checkpoint, keras.callbacks.SwapEMAWeights())
        file = dense(optimizer=sgd()) if weights_only else keras.models.load_model(path)
        if weights_only:
            file.load_weights(path)
        return checkpoint.best, score(file)

    if KERAS_IS_AS_DESCRIBED:
        best, loaded = saved(keras.callbacks)
        assert loaded != pytest.approx(best, rel=1e-3)
    best, loaded = saved(keras_ratchet)
    assert loaded == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("on_epoch", [False, True])
def test_a_save_of_averaged_weights_leaves_the_training_as_it_was(on_epoch, tmp_path):
    def end(callback):
        model = train(callback, keras.callbacks.SwapEMAWeights(on_epoch))
        return [*model.get_weights(), *averages(model)]

    path = tmp_path / "{epoch}.weights.h5"
    plain = end(keras.callbacks.Callback())
    saving = end(keras_ratchet.ModelCheckpoint(path, save_best_only=True, save_weights_only=True))
    assert len(list(tmp_path.glob("*.h5"))) == 2
    for a, b in zip(plain, saving, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ours_is_first", [False, True])
def test_an_early_stop_ends_with_the_averaged_weights(ours_is_first):
    def train_and_stop(stopper):
        model = tiny(sgd)
        swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
        callbacks = [stopper, swap] if ours_is_first else [swap, stopper]
        seen = {}

        class Look(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen["model"] = self.model.get_weights()

        fit(model, [Curve(val_loss=[1.0, 2.0, 3.0]), *callbacks, Look()], epochs=3)
        assert len(model.history.epoch) == 2
        ended = model.get_weights()
        return all(np.allclose(a, b) for a, b in zip(seen["model"], ended, strict=True))

    if KERAS_IS_AS_DESCRIBED:
        assert not train_and_stop(keras.callbacks.EarlyStopping(patience=1))
    assert train_and_stop(keras_ratchet.EarlyStopping(patience=1))


class Cut(Exception):
    """Stands for the end of the process."""


class LookInto(keras.callbacks.Callback):
    """Notes weights and averages at the first batch of an epoch (index from 0)."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch, self._now, self.seen = epoch, None, None

    def on_epoch_begin(self, epoch, logs=None):
        self._now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self._now, batch) == (self._epoch, 0):
            self.seen = [*self.model.get_weights(), *averages(self.model)]

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def weights_after_a_restart(module, directory, swaps):
    """Return what the third epoch begins with, without a restart and after one."""

    def run(*others):
        keras.utils.set_random_seed(0)
        model, look = dense(optimizer=sgd()), LookInto(2)
        swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if swaps else []
        fit(model, [*swap, *others, look], epochs=3, shuffle=False)
        return look.seen

    def cut():
        raise Cut

    saves = module.BackupAndRestore(directory)
    with pytest.raises(Cut), keras_ratchet.guard(None, saves):
        run(saves, At("epoch_begin", 2, cut))
    return run(), run(module.BackupAndRestore(directory))


@pytest.mark.parametrize("swaps", [True, False])
def test_a_backup_taken_while_the_averages_are_in_the_model_resumes_right(swaps, tmp_path):
    def same(module):
        whole, resumed = weights_after_a_restart(module, tmp_path / module.__name__, swaps)
        return all(np.array_equal(a, b) for a, b in zip(whole, resumed, strict=True))

    if KERAS_IS_AS_DESCRIBED:
        assert same(keras.callbacks) is not swaps  # weights and averages have traded places
    assert same(keras_ratchet)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX alone shares the buffers")
def test_training_can_go_on_with_averages_on_jax():
    if KERAS_IS_AS_DESCRIBED:
        model = dense(optimizer=sgd())
        fit(model, [keras.callbacks.EarlyStopping("val_loss")])
        with pytest.raises(Exception, match=r"donate the same buffer twice|not callable"):
            fit(model, [])
    model = dense(optimizer=sgd())
    for stopper in (None, keras_ratchet.EarlyStopping("loss")):
        fit(model, [keras_ratchet.EarlyStopping("loss"), *([stopper] if stopper else [])])
        model.train_on_batch(*data(8))
    assert all(np.isfinite(w).all() for w in model.get_weights())


@pytest.mark.parametrize("hook", ["epoch_begin", "train_batch_end", "test_batch_end"])
def test_ctrl_c_restores_the_best_weights_with_averages_too(hook):
    ours = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True)
    model = tiny(sgd)
    callbacks = [Curve(val_loss=[2, 1, 3]), Stamp(), ours, At(hook, 2, press_ctrl_c)]
    with pytest.raises(KeyboardInterrupt):
        fit(model, callbacks, epochs=3, validation_data=VALIDATION)
    assert stamp_of(model) == 2
    fit(model, callbacks[:-1], epochs=2)  # and training can go on
    assert stamp_of(model) == 2


@pytest.mark.parametrize(
    ("hook", "on_epoch", "ours_is_first"),
    [
        ("epoch_begin", True, True),
        ("train_batch_end", False, False),
        ("train_batch_end", True, False),
        ("test_batch_end", False, True),
        ("test_batch_end", True, True),
    ],
)
def test_ctrl_c_restores_the_best_averages(hook, on_epoch, ours_is_first):
    ours = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True)
    swap = keras.callbacks.SwapEMAWeights(on_epoch)
    keras.utils.set_random_seed(0)
    model = tiny(sgd)
    callbacks = [ours, swap] if ours_is_first else [swap, ours]
    press = At(hook, 2, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        fit(model, [press, *callbacks, harm(model)], epochs=3, validation_data=VALIDATION)
    assert ours.best_epoch == 1
    assert score(model) == pytest.approx(ours.best_value, rel=1e-5)
    before = model.get_weights()

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                seen.append(self.model.get_weights())

    seen = []
    fit(model, [*callbacks, Look()], validation_data=VALIDATION)  # and training goes on from there
    for a, b in zip(before, seen[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not is_swapped(swap) or on_epoch


@pytest.mark.parametrize("ours_is_first", [False, True])
def test_training_goes_on_from_the_restored_averages(ours_is_first):
    ours = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model = train(ours, swap, ours_is_first=ours_is_first)
    before = model.get_weights()
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                seen.append(self.model.get_weights())

    callbacks = [ours, swap] if ours_is_first else [swap, ours]
    fit(model, [*callbacks, Look()], validation_data=VALIDATION)
    for a, b in zip(before, seen[0], strict=True):
        np.testing.assert_array_equal(a, b)
