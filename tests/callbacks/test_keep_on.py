"""Best weights that stay on the device are, bit for bit, those that come to the host."""

import copy
import pickle

import keras
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.models import Curve, data, dense, fit
from support.resuming import Kill, Script, arrays
from support.resuming import model as network
from support.runs import tiny

import keras_ratchet
from keras_ratchet._backends import device_copies
from keras_ratchet._engine.capture.device_copies import DeviceCopies
from keras_ratchet.errors import ConfigError

EPOCHS = 6
BACKEND = keras.backend.backend()


def bits(values):
    arrays_ = [np.asarray(keras.ops.convert_to_numpy(value)) for value in values]
    return [(a.dtype.name, a.shape, a.tobytes()) for a in arrays_]


def state_of(model):
    return bits([*model.variables, *model.optimizer.variables])


class Poison(keras.callbacks.Callback):
    """Makes a weight infinite at the end of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            first, *others = self.model.get_weights()
            first[0] = np.inf
            self.model.set_weights([first, *others])


class Look(keras.callbacks.Callback):
    """Reads the best weights after each epoch."""

    def __init__(self, stopper):
        super().__init__()
        self.stopper = stopper
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        found = self.stopper.best_weights
        self.seen.append(None if found is None else bits(found))


def outcome(keep_on, curve, poisoned=None, swap=False, **arguments):
    """Return all that a run ends with."""
    model = tiny(ema) if swap else tiny(keras.optimizers.Adam)
    stopper = keras_ratchet.EarlyStopping(keep_on=keep_on, **arguments)
    looks = Look(stopper)
    more = [keras.callbacks.SwapEMAWeights()] if swap else []
    callbacks = [*more, Poison(poisoned), Curve(val_loss=curve), stopper, looks]
    x, y = data(16, seed=1)
    fit(model, callbacks, EPOCHS, validation_data=(x, y), shuffle=False)
    found = (stopper.best_epoch, stopper.best_value, stopper.stopped_epoch, stopper.wait)
    return state_of(model), looks.seen, repr(found), repr(stopper.average_record)


def ema():
    return keras.optimizers.Adam(0.1, use_ema=True)


VALUES = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, float("nan")])
RUNS = st.fixed_dictionaries(
    {
        "curve": st.lists(VALUES, min_size=EPOCHS, max_size=EPOCHS),
        "poisoned": st.sampled_from([None, None, 0, 3]),
        "patience": st.integers(0, 3),
        "start_from_epoch": st.integers(0, 2),
        "restore_best_weights": st.just(True),
        "restore_optimizer": st.booleans(),
        "average": st.sampled_from([None, None, "soup", "mean"]),
    }
)
CASE = {"patience": 3, "restore_best_weights": True}


@pytest.mark.filterwarnings("ignore::UserWarning")  # nothing to restore, for one
@settings(max_examples=12)
@example({**CASE, "curve": [0.5, 0.4, 0.3, 0.4, 0.4, 0.2], "restore_optimizer": True})
@example({**CASE, "curve": [0.5, 0.4, 0.3, 0.2, 0.1, 0.2], "poisoned": 3})
@given(RUNS)
def test_both_places_end_with_the_same_bits(case):
    assert outcome("device", **case) == outcome("host", **case)


def test_averages_under_ema_are_the_same_too():
    curve = [0.5, 0.2, 0.4, 0.3, 0.1, 0.2]
    for average in (None, "soup"):
        case = {**CASE, "curve": curve, "swap": True, "average": average}
        assert outcome("device", **case) == outcome("host", **case)


def test_the_weights_do_not_follow_the_training():
    """If `hold` returned the variables' own memory, the last epoch would be restored."""
    x, y = data(32)
    model = dense(optimizer="adam", jit_compile=BACKEND != "torch")
    stopper = keras_ratchet.EarlyStopping(keep_on="device", **CASE)
    first = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: kept.append(bits(model.weights)) if not epoch else None
    )
    kept = []
    model.fit(
        x, y, epochs=3, verbose=0, callbacks=[Curve(val_loss=[0.1, 0.2, 0.3]), first, stopper]
    )
    assert bits(model.weights) == kept[0]


def test_weights_that_are_restored_again_and_again_stay_what_they_were():
    """Training continues from them: on JAX the step is given the memory of the weights."""
    ends = []
    for keep_on in ("host", "device"):
        model = tiny(keras.optimizers.Adam)
        plateau = keras_ratchet.ReduceLROnPlateau(
            patience=1, restore_best_weights=True, restore_optimizer=True, keep_on=keep_on
        )
        fit(model, [Curve(val_loss=[0.1, 0.2, 0.3, 0.4, 0.5]), plateau], 5, shuffle=False)
        assert len(plateau.reductions) == 4
        ends.append(state_of(model))
    assert ends[0] == ends[1]


def layer():
    """Return a layer that computes with something which is no Keras variable, if there is such."""
    if BACKEND == "torch":
        import torch

        return keras.layers.TorchModuleWrapper(torch.nn.BatchNorm1d(4))
    return keras.layers.BatchNormalization()


@pytest.mark.parametrize("places", [("device", "device"), ("host", "device"), ("device", "host")])
def test_a_run_that_is_resumed_has_the_same_best_weights(places, tmp_path):
    x, y = arrays()
    place = []

    def callbacks():
        stopper = keras_ratchet.EarlyStopping(
            patience=9, restore_best_weights=True, restore_optimizer=True, keep_on=place[-1]
        )
        return [Curve(val_loss=[0.3, 0.1, 0.2, 0.4, 0.5]), stopper]

    script = Script(
        directory=str(tmp_path),
        data=lambda: {"x": x, "y": y, "batch_size": 4},
        make=lambda: network(layers=[layer()], jit_compile=BACKEND == "jax"),
        callbacks=callbacks,
        backup={"save_freq": 3},
        fit={"epochs": 5},
    )
    place.append("host")
    expected = script.uninterrupted()
    place.append(places[0])
    assert script.run(Kill(batches=17)) is None
    assert script.run(Kill(batches=34)) is None
    place.append(places[1])
    assert script.run().differences(expected) == []


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_copy_keeps_its_weights_in_the_same_place(duplicate):
    stopper = keras_ratchet.EarlyStopping(keep_on="device", **CASE)
    for _ in range(2):  # before training, and after
        twin = duplicate(stopper)
        fit(tiny(), [Curve(val_loss=[0.1, 0.2]), twin], 2)
        assert twin.keep_on == "device" and twin.best_value == 0.1
        stopper = twin


def test_best_weights_are_tensors_while_training_runs():
    seen = []
    stopper = keras_ratchet.EarlyStopping(keep_on="device", **CASE)
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(stopper.best_weights)
    )
    model = tiny()
    fit(model, [Curve(val_loss=[0.1]), stopper, look])
    assert all(keras.ops.is_tensor(weight) for weight in seen[0])
    assert [tuple(weight.shape) for weight in seen[0]] == [w.shape for w in model.weights]
    assert stopper.best_weights is None


def test_what_is_split_over_processes_is_copied_to_the_host(monkeypatch):
    model = tiny()
    split = model.weights[0]
    monkeypatch.setattr(
        DeviceCopies.capture.__globals__["_backends"].current(),
        "is_split",
        lambda variable: variable is split,
    )
    copies, before = DeviceCopies(), bits(model.weights)
    for _ in range(2):
        copies.capture(model.weights, {})
        assert [isinstance(value, np.ndarray) for value in copies.values] == [1, 0, 0, 0]
    model.set_weights([weight + 1 for weight in model.get_weights()])
    copies.restore()
    assert bits(model.weights) == bits(copies.buffers) == before


def test_one_sum_on_the_device_finds_whatever_is_not_finite():
    finite = device_copies().all_finite
    make = [
        keras.Variable(np.ones((3, 2)), dtype=d, trainable=False)
        for d in ("float32", "bfloat16", "int32")
    ]
    assert finite(make) and finite([]) and finite(make[2:])
    for dtype in ("float32", "float16", "bfloat16"):
        for bad in (np.nan, np.inf, -np.inf):
            value = keras.Variable(np.array([1.0, bad, -bad]), dtype=dtype)
            assert not finite([*make, value])


@pytest.mark.parametrize("bad", ["gpu", None, 1])
@pytest.mark.parametrize("kind", [keras_ratchet.EarlyStopping, keras_ratchet.ReduceLROnPlateau])
def test_another_place_is_an_error(kind, bad):
    with pytest.raises(ConfigError, match="keep_on must be"):
        kind(keep_on=bad)
