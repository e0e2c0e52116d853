"""Numbers that are infinite or NaN on purpose: masks, and minima that have seen nothing yet."""

import keras
import numpy as np
import pytest
from support.models import data, fit
from support.resuming import Kill, Script
from support.runs import KERAS_IS_AS_DESCRIBED

import keras_ratchet


@keras.saving.register_keras_serializable("test_constants")
class Observer(keras.layers.Layer):
    """Keeps the smallest and the largest input, as PyTorch's MinMaxObserver does."""

    def build(self, shape):
        self.smallest = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(np.inf), trainable=False
        )
        self.largest = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(-np.inf), trainable=False
        )

    def call(self, x):
        return x


@keras.saving.register_keras_serializable("test_constants")
class Masked(keras.layers.Layer):
    """Adds a causal mask of minus infinities to scores, whose softmax it takes."""

    def build(self, shape):
        n = shape[-1]
        self.mask = self.add_weight(
            shape=(n, n),
            initializer=lambda s, dtype=None: keras.ops.convert_to_tensor(causal(n), dtype),
            trainable=False,
        )

    def call(self, x):
        scores = x[:, :, None] * x[:, None, :] + self.mask
        return keras.ops.sum(keras.ops.softmax(scores) * x[:, None, :], axis=-1)


def causal(n):
    return np.where(np.tri(n, dtype=bool), 0.0, -np.inf).astype("float32")


def net(layer, optimizer="sgd", built=True):
    model = keras.Sequential([keras.Input((4,))] if built else [])
    model.add(layer())
    model.add(keras.layers.Dense(1))
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def train(model, *callbacks, epochs=3, **args):
    return fit(model, list(callbacks), epochs, validation_data=data(8, seed=1), **args)


LAYERS = pytest.mark.parametrize("layer", [Observer, Masked])


@LAYERS
@pytest.mark.parametrize("built", [True, False])
def test_a_constant_that_is_infinite_neither_stops_training_nor_keeps_it_from_being_saved(
    layer, built, tmp_path
):
    stop = keras_ratchet.EarlyStopping(patience=2, restore_best_weights=True)
    save = keras_ratchet.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    model = net(layer, built=built)
    history = train(model, stop, save)
    assert history.epoch == [0, 1, 2]
    assert stop.stop_reason is None
    assert stop.best == save.best == min(history.history["val_loss"])
    loaded = keras.models.load_model(tmp_path / "best.keras")
    for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@LAYERS
def test_an_average_and_a_cut_of_the_learning_rate_take_no_notice_of_such_constants(layer):
    stop = keras_ratchet.EarlyStopping(
        patience=5,
        restore_best_weights=True,
        average="soup",
        validation_data=data(8, seed=1),
    )
    plateau = keras_ratchet.ReduceLROnPlateau(patience=5, restore_best_weights=True)
    train(net(layer), stop, plateau)
    assert all(np.isfinite(trial.value) for trial in stop.average_record.trials)
    assert len(stop.average_record.trials) > 0
    assert plateau.best_value is not None


@LAYERS
def test_going_back_takes_no_notice_of_them(layer):
    terminate = keras_ratchet.TerminateOnNaN()
    rollback = keras_ratchet.Rollback()
    train(net(layer), terminate)
    train(net(layer), rollback)
    assert terminate.stop_reason is rollback.stop_reason is None
    assert rollback.rollbacks == []


class Poison(keras.callbacks.Callback):
    """Puts NaN into one place of a variable, at the end of an epoch."""

    def __init__(self, layer, place, epoch=1):
        super().__init__()
        self.layer, self.place, self.epoch = layer, place, epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= self.epoch:
            variable = self.model.layers[self.layer].weights[0]
            value = np.array(keras.ops.convert_to_numpy(variable))
            value[self.place] = np.nan
            variable.assign(value)


def test_a_mask_is_still_watched_in_its_other_places(tmp_path):
    poison = Poison(0, (2, 1))
    stop = keras_ratchet.EarlyStopping(restore_best_weights=True, patience=9)
    save = keras_ratchet.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    rollback = keras_ratchet.Rollback()
    with pytest.warns(UserWarning, match="did not save .* is not finite"):
        train(net(Masked), poison, stop, save, epochs=2)
    assert stop.best_epoch == 0
    saved = keras.models.load_model(tmp_path / "best.keras").get_weights()
    np.testing.assert_array_equal(saved[0], causal(4))
    train(net(Masked), poison, rollback, epochs=2)
    assert len(rollback.rollbacks) == 1
    terminate = keras_ratchet.TerminateOnNaN()
    train(net(Masked), poison, terminate, epochs=2)
    assert terminate.stop_reason is not None


def test_a_weight_that_is_trained_counts_even_if_it_was_not_there_at_first(tmp_path):
    stop = keras_ratchet.EarlyStopping(restore_best_weights=True, patience=9)
    save = keras_ratchet.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    with pytest.warns(UserWarning, match="did not save|NaN in every epoch"):
        train(net(Observer, built=False), Poison(1, (0, 0), epoch=0), stop, save, epochs=1)
    assert stop.best_value is None
    assert not (tmp_path / "best.keras").exists()


class Minimum(keras.callbacks.Callback):
    """Moves the observer's minimum: infinite at first, a number later, then infinite again."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.layers[0].smallest.assign(np.inf if epoch == 2 else -1.0)


def test_a_minimum_that_becomes_a_number_and_is_reset_is_no_evidence():
    stop = keras_ratchet.EarlyStopping(restore_best_weights=True, patience=9)
    history = train(net(Observer), Minimum(), stop, epochs=4)
    assert stop.best == min(history.history["val_loss"])


@pytest.mark.parametrize("kind", ["masks", "minima"])
def test_a_resumed_run_has_the_same_notion_of_what_a_constant_is(kind, tmp_path):
    """The script that goes on has a mask at once; a minimum has become a number by then."""
    layer = Masked if kind == "masks" else Observer

    def callbacks():
        made = [
            keras_ratchet.EarlyStopping(restore_best_weights=True, patience=9),
            keras_ratchet.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True, fresh=True),
            keras_ratchet.TerminateOnNaN(),
            keras_ratchet.ReduceLROnPlateau(restore_best_weights=True),
        ]
        return [Minimum(), *made] if kind == "minima" else made

    x, y = data(40)
    script = Script(
        str(tmp_path / "backup"),
        lambda: {"x": x, "y": y, "batch_size": 4, "validation_data": data(8, seed=1)},
        lambda: net(layer, optimizer="adam"),
        callbacks,
        fit={"epochs": 4},
    )
    uninterrupted = script.uninterrupted()
    resumed = script.chain(Kill(epoch=1))
    assert resumed.differences(uninterrupted) == []
    for mine, theirs in zip(resumed.callbacks[-4:], uninterrupted.callbacks[-4:], strict=True):
        assert getattr(mine, "best", None) == getattr(theirs, "best", None)
    stop, save, terminate, _ = resumed.callbacks[-4:]
    assert stop.best == save.best == min(resumed.history["val_loss"])
    assert terminate.stop_reason is None


@pytest.mark.skipif(not KERAS_IS_AS_DESCRIBED, reason="what Keras does is that of one version")
def test_keras_takes_no_notice_of_them_either():
    stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    assert train(net(Observer), stop, epochs=2).epoch == [0, 1]
