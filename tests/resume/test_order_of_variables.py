"""Weights come back in their own variables, whatever was frozen or unfrozen meanwhile."""

import keras
import numpy as np
import pytest
from support.resuming import Kill, Script, arrays, scramble, values

import keras_ratchet
from keras_ratchet._engine.capture.building import changed, flags_of, set_flags
from keras_ratchet._engine.capture.model_state import Places

BACKEND = keras.backend.backend()


class Refreeze(keras.callbacks.Callback):
    """Freezes or unfreezes a layer when an epoch begins, as fine-tuning callbacks do."""

    def __init__(self, trainable, compiles=False, epoch=1):
        super().__init__()
        self.trainable, self.compiles, self.epoch = trainable, compiles, epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.model.layers[0].trainable = self.trainable
            if self.compiles:
                self.model.compile(keras.optimizers.Adam(3e-3), "mse")
                self.model.make_train_function(force=True)


def stack(frozen=False):
    net = keras.Sequential(
        [keras.Input((4,)), *(keras.layers.Dense(4, activation="tanh") for _ in range(3))]
    )
    net.layers[0].trainable = not frozen
    net.compile(keras.optimizers.Adam(1e-2), "mse")
    return net


def data():
    x, _ = arrays()
    return {"x": x, "y": x[:, ::-1], "batch_size": 4}


def script(tmp_path, make, *callbacks, **fit):
    backup = {"save_freq": 5}
    return Script(str(tmp_path / "b"), data, make, lambda: [c() for c in callbacks], backup, fit)


@pytest.mark.skipif(BACKEND == "jax", reason="Keras's step fails there: its optimizer has more")
@pytest.mark.parametrize("kill", [Kill(20), Kill(17)], ids=["between", "within"])
def test_a_run_whose_callback_froze_a_layer_resumes_exactly(tmp_path, kill):
    run = script(tmp_path, stack, lambda: Refreeze(False))
    whole = run.uninterrupted()
    assert run.chain(kill).differences(whole) == []


@pytest.mark.skipif(BACKEND == "jax", reason="Keras's step fails there: nothing builds it anew")
@pytest.mark.parametrize("kill", [Kill(20), Kill(17)], ids=["between", "within"])
@pytest.mark.parametrize("frozen_at_first", [True, False])
def test_a_run_whose_callback_compiled_anew_resumes_exactly(tmp_path, kill, frozen_at_first):
    run = script(tmp_path, lambda: stack(frozen_at_first), lambda: Refreeze(frozen_at_first, True))
    whole = run.uninterrupted()
    assert run.chain(kill).differences(whole) == []


def test_a_flag_that_the_script_sets_otherwise_than_before_is_told_of(tmp_path):
    run = script(tmp_path, stack)
    assert run.run(Kill(epoch=1)) is None
    run.make = lambda: stack(frozen=True)
    with pytest.warns(UserWarning, match="which variables are trainable .*dense"):
        run.run()


def test_flags_that_only_a_callback_changes_are_no_reason_for_a_warning(tmp_path):
    def freeze_at_the_end():
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(net[-1].layers[0], "trainable", False)
        )

    net = []
    run = script(tmp_path, lambda: net.append(stack()) or net[-1], freeze_at_the_end, epochs=1)
    assert run.run() is not None  # warnings are errors
    run.run()
    assert not net[-1].layers[0].trainable


class Odd(keras.Model):
    """Keeps variables, seeds and layers wherever Keras lets one keep them."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(4)
        self.again = self.first
        self.parts = [keras.layers.Dense(4), {"deep": keras.layers.Dropout(0.3), "w": [self.first]}]
        self.loose = self.add_weight(shape=(4,), initializer="ones")
        self.seeds = [keras.random.SeedGenerator(1), keras.random.SeedGenerator(2)]
        shared = keras.Input((4,))
        self.inner = keras.Sequential([shared, keras.layers.BatchNormalization()])
        out = self.inner(self.first(shared))
        self.graph = keras.Model(shared, [out, self.inner(out)])
        self.optimizers = {"a": keras.optimizers.Adam(), "b": [keras.optimizers.SGD(momentum=0.9)]}

    def call(self, x, training=False):
        dropped = self.parts[1]["deep"](self.parts[0](x), training=training)
        return sum(self.graph(dropped)) * self.loose


def odd():
    net = Odd()
    net(np.ones((1, 4), "float32"))
    net.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
    net.optimizer.build(net.trainable_variables)
    for one in (net.optimizers["a"], net.optimizers["b"][0]):
        one.build(net.trainable_variables)
    return net


def test_two_builds_of_a_model_name_their_variables_alike_and_leave_none_out():
    first, second = odd(), odd()
    second.first.trainable = False
    one, two = Places().variables(first), Places().variables(second)
    assert list(one) == list(two)
    assert [v.shape for v in one.values()] == [v.shape for v in two.values()]
    everything = [*first.variables, *first.optimizer.variables, *first.metrics_variables]
    everything += [v for o in (first.optimizers["a"], *first.optimizers["b"]) for v in o.variables]
    assert {id(v) for v in everything} == {id(v) for v in one.values()}


def test_flags_of_shared_and_nested_layers_are_put_back_one_by_one():
    net, places = odd(), Places()
    net.inner.trainable = False
    net.first.kernel.trainable = False
    flags = flags_of(net, places)
    net.trainable = False
    assert changed(flags, flags_of(net, places))
    set_flags(net, places, flags)
    assert flags_of(net, places) == flags
    assert net.trainable and not net.inner.trainable and not net.first.kernel.trainable


@pytest.mark.filterwarnings("ignore:This state of callbacks is lost")  # what they have seen
def test_values_of_the_kill_are_there_when_training_goes_on(tmp_path):
    seen = {}

    class Note(keras.callbacks.Callback):
        def __init__(self, key, epoch):
            super().__init__()
            self.key, self.epoch = key, epoch

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.epoch:
                seen[self.key] = values(self.model.layers[0].weights + self.model.layers[2].weights)

    scramble()
    for key, freezes in (("before", True), ("after", False)):
        net = stack()
        callbacks = [keras_ratchet.BackupAndRestore(tmp_path / "b"), Note(key, 2)]
        if freezes:
            callbacks += [
                keras.callbacks.LambdaCallback(
                    on_epoch_end=lambda e, logs, net=net: (
                        setattr(net.layers[0], "trainable", False) if e == 1 else None
                    )
                ),
                Kill(epoch=2),
            ]
        try:
            net.fit(**data(), epochs=4 if freezes else 3, verbose=0, callbacks=callbacks)
        except Exception as error:
            if not freezes and BACKEND != "jax":  # there Keras's step fails, as it did before
                raise
            callbacks[0]._store.end()
            assert type(error).__name__ in ("Killed", "ValueError")
    assert all(np.array_equal(a, b) for a, b in zip(seen["before"], seen["after"], strict=True))
