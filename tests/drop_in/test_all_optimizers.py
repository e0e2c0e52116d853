"""Callbacks that go back, or cut learning rates, do so for every optimizer that trains."""

import keras
import numpy as np
import pytest
from support.many_optimizers import BACKEND, Gan, InDict, WithTorch, made

import keras_ratchet
from keras_ratchet._engine.capture import optimizers
from keras_ratchet._engine.capture.optimizers import rates_of

needs_own_steps = pytest.mark.skipif(
    BACKEND == "jax", reason="needs steps with optimizers of theirs"
)
x = np.random.default_rng(1).normal(size=(16, 4)).astype("float32")


def fit(model, *callbacks, epochs=3, data=x, **arguments):
    return model.fit(data, epochs=epochs, batch_size=4, verbose=0, callbacks=callbacks, **arguments)


def slots(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in optimizers.all_variables(model)]


class Note(keras.callbacks.Callback):
    """Notes the optimizers' variables after an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.slots = slots(self.model)


class Score(keras.callbacks.Callback):
    """Makes the first epoch the best one."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = float(epoch)


@needs_own_steps
@pytest.mark.parametrize("kind", [Gan, InDict])
def test_plateaus_cut_the_rates_of_all_optimizers_that_train(kind):
    model = made(kind)()
    plateau = keras_ratchet.ReduceLROnPlateau("val_loss", factor=0.5, patience=1)
    before = rates_of(model).read()
    history = fit(model, Score(), plateau, epochs=3).history
    rates = rates_of(model).read()
    assert len(rates) == 2 and len(plateau.reductions) == 2
    assert all(rates[name] == pytest.approx(before[name] / 4) for name in rates)
    assert sorted(n for n in history if n.startswith("learning_rate")) == sorted(
        f"learning_rate_{name}" for name in rates
    )


@needs_own_steps
def test_a_rate_that_belongs_to_a_schedule_is_told_of_and_the_others_are_cut():
    model = Gan()
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 10, 0.5)
    model.compile(keras.optimizers.Adam(schedule), keras.optimizers.Adam(1e-2))
    plateau = keras_ratchet.ReduceLROnPlateau("val_loss", factor=0.5, patience=1)
    with pytest.warns(UserWarning, match="cannot cut that of d_optimizer"):
        fit(model, Score(), plateau)
    assert float(model.g_optimizer.learning_rate) == pytest.approx(1e-2 / 4)


@needs_own_steps
def test_best_weights_come_with_all_optimizers():
    model, note = made(Gan)(), Note(0)
    stop = keras_ratchet.EarlyStopping(
        patience=5, restore_best_weights=True, restore_optimizer=True
    )
    fit(model, Score(), stop, note)
    assert all(np.array_equal(a, b) for a, b in zip(slots(model), note.slots, strict=True))
    assert int(model.g_optimizer.iterations) == 4


@needs_own_steps
@pytest.mark.parametrize("kind", [Gan, InDict])
def test_a_stop_at_nan_puts_all_optimizers_back(kind):
    model, note = made(kind)(), Note(0)
    bad = np.concatenate([x] * 1)

    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                model.generator.layers[0].kernel.assign(np.full((4, 4), np.nan, "float32"))

    class Begin(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                Poison.on_epoch_begin(self, 1 if self.epoch == 1 else 0)

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    terminate = keras_ratchet.TerminateOnNaN(monitor=("d_loss", "g_loss"))
    fit(model, terminate, Begin(), note, data=bad)
    assert terminate.stop_reason is not None
    assert all(np.array_equal(a, b) for a, b in zip(slots(model), note.slots, strict=True))
    assert all(np.isfinite(w).all() for w in model.get_weights())


@needs_own_steps
def test_going_back_after_the_first_epoch_puts_all_optimizers_back_and_cuts_their_rates():
    model = made(Gan)()
    bad = np.concatenate([x, x[:4] * np.nan, x])
    rollback = keras_ratchet.Rollback("d_loss", factor=0.5, every=1, confirm=0)
    before = rates_of(model).read()
    fit(model, rollback, epochs=1, data=bad, shuffle=False)
    assert len(rollback.rollbacks) == 1
    rates = rates_of(model).read()
    assert {n: r * 2 for n, r in rates.items()} == pytest.approx({n: before[n] for n in rates})
    assert all(np.isfinite(v).all() for v in [*slots(model), *model.get_weights()])
    assert int(model.d_optimizer.iterations) == 8


@pytest.mark.skipif(BACKEND != "torch", reason="torch's optimizers train on torch")
def test_optimizers_of_torch_in_attributes_are_cut_and_put_back():
    model = made(WithTorch)()
    plateau = keras_ratchet.ReduceLROnPlateau(
        "val_loss", factor=0.5, patience=1, restore_best_weights=True, restore_optimizer=True
    )

    class Steps(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            state = self.model.torch_one.state_dict()["state"]
            seen.append(float(state[0]["step"]))

    seen = []
    fit(model, Score(), plateau, Steps(), epochs=3)
    assert seen == [4.0, 4.0, 4.0]  # each time back to the best epoch, the first
    assert model.torch_one.param_groups[0]["lr"] < 1e-2 / 2


@pytest.mark.skipif(BACKEND != "tensorflow", reason="elsewhere Keras builds the optimizer itself")
@pytest.mark.parametrize("kind", ["nan", "rollback", "backup"])
@pytest.mark.parametrize("built", [False, True])
def test_no_optimizer_is_built_for_more_than_the_step_optimizes(tmp_path, kind, built):
    import tensorflow as tf

    class Averaged(keras.Model):
        def __init__(self):
            super().__init__()
            self.net, self.average = (keras.Sequential([keras.layers.Dense(4)]) for _ in range(2))
            self.tracker = keras.metrics.Mean(name="loss")

        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.net(data) - data) ** 2)
            weights = self.net.trainable_weights
            self.average(data)
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            self.tracker.update_state(loss)
            return {"loss": self.tracker.result()}

    make = {
        "nan": keras_ratchet.TerminateOnNaN,
        "rollback": keras_ratchet.Rollback,
        "backup": lambda: keras_ratchet.BackupAndRestore(tmp_path / "b"),
    }
    keras.utils.set_random_seed(1)
    model = Averaged()
    model.compile("adam")
    if built:
        model.built = True
    fit(model, make[kind](), epochs=1)
    assert len(model.optimizer.variables) == 6
