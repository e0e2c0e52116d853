"""What is written beside training are the values at the moment of the hook.

A roadblock holds the saves up until training has gone on by some batches, so each file is written
from values that the model has not had for long. The controls show that it would be found out if
they were not held.
"""

import glob
import os

import h5py
import keras
import numpy as np
import pytest
from support import background_saves
from support.models import data

import keras_ratchet
from keras_ratchet import _backends
from keras_ratchet._engine.capture.model_state import COLLECTIONS, Places
from keras_ratchet._formats.safetensors import read_arrays
from keras_ratchet._keras.ema import ema_pairs

EPOCHS, ON = 3, 3  # epochs in all; batches of the second one before the first is written
FILES = ("m.keras", "m.weights.h5", "m.h5")


def adam():
    return keras.optimizers.Adam(1e-2)


def momentum():
    return keras.optimizers.SGD(1e-2, momentum=0.9)


def averaged():
    return keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.5)


def dense(optimizer):
    """A model with moving statistics and a seed."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.3, seed=3),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer(), keras.losses.MeanSquaredError())
    return model


def embedding(optimizer):
    """A model whose gradient touches some rows only, which tensorflow updates in place."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(10, 3),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer(), keras.losses.MeanSquaredError())
    return model


MODELS = [(dense, adam), (dense, averaged), (embedding, momentum), (embedding, adam)]
each_model = pytest.mark.parametrize(
    ("make", "optimizer"), MODELS, ids=[f"{m.__name__} {o.__name__}" for m, o in MODELS]
)


def copies(variables):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def state_of(model):
    """Return copies of what a snapshot holds, and of the part that Keras puts into its files."""
    named = {c: Places().variables(model, (c,)) for c in COLLECTIONS}
    found = {c: [variables[n] for n in sorted(variables)] for c, variables in named.items()}
    in_files = [v for v in found["model"] if "seed_generator" not in v.path]
    return {name: copies(v) for name, v in {**found, "in files": in_files}.items()}


class Delay(keras.callbacks.Callback):
    """Copies the state at the end of the first epoch, and holds up the saves of that moment.

    Attributes:
        then: The state of that moment.
        at_writing: The state when the saves are let go.
    """

    def __init__(self):
        super().__init__()
        self.then = self.at_writing = self._block = None

    def state_dict(self):
        return {}  # nothing of it has to outlast a restart

    def load_state_dict(self, state):
        pass

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.then = state_of(self.model)
            self._block = background_saves.Roadblock()

    def on_train_batch_end(self, batch, logs=None):
        if self._block is not None and batch == ON - 1:
            self.at_writing = state_of(self.model)
            self.end()

    def on_train_abort(self, error):
        """Let the saves go: the other callbacks wait for them when they clean up."""
        self.end()

    def end(self):
        if self._block is not None:
            self._block.lift()
            self._block = None


def inputs(make):
    x, y = data(40)
    return (np.abs(x * 3).astype("int32") % 10 if make is embedding else x), y


def train(directory, make, optimizer, **arguments):
    """Train with one callback for each format, and a backup; return what was then."""
    keras.utils.set_random_seed(2)
    model, delay = make(optimizer), Delay()
    saving = [
        keras_ratchet.ModelCheckpoint(
            os.path.join(directory, f"{{epoch}}-{name}"),
            save_weights_only=".weights." in name,
            background=True,
        )
        for name in FILES
    ]
    backup = keras_ratchet.BackupAndRestore(
        os.path.join(directory, "backup"), background=True, keep=99, delete_checkpoint=False
    )
    callbacks = [delay, *saving, backup]
    try:
        model.fit(*inputs(make), batch_size=8, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    finally:
        delay.end()
    return delay


def in_file(path, make, optimizer):
    """Return the variables of the model and of the optimizer in a file, by plain Keras."""
    if path.endswith(".weights.h5"):
        model = make(optimizer)
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
    else:
        model = keras.models.load_model(path)
    found = state_of(model)
    if path.endswith("m.h5"):  # Keras itself does not give the optimizer its slots back
        with h5py.File(path) as h5:
            found["optimizer"] = [slot[...] for slot in data_sets(h5["optimizer_weights"])]
    return found


def data_sets(group):
    for inner in group.values():
        yield from data_sets(inner) if isinstance(inner, h5py.Group) else [inner]


def in_snapshot(directory):
    (path,) = glob.glob(os.path.join(directory, "backup", "epoch-00001-*"))
    arrays = read_arrays(os.path.join(path, "state.safetensors"))
    names = {c: sorted(n for n in arrays if n.startswith(f"{c}/")) for c in ("model", "optimizer")}
    return {name: [np.array(arrays[key]) for key in keys] for name, keys in names.items()}


def check(directory, make, optimizer, then):
    """Compare all files of the first epoch, bit by bit, with what the state was then."""
    for name in FILES:
        found = in_file(os.path.join(directory, f"1-{name}"), make, optimizer)
        for part in ("in files", "optimizer"):
            assert same(found[part], then[part]), f"{part} in {name}"
    found = in_snapshot(directory)
    for part in ("model", "optimizer"):
        assert same(found[part], then[part]), f"{part} in the snapshot"


def same(one, other):
    """Say whether two lists hold the same arrays, in whatever order."""
    return sorted(map(described, one)) == sorted(map(described, other))


def described(array):
    return str(array.dtype), array.shape, array.tobytes()


@each_model
def test_files_hold_the_values_of_the_hook_though_training_went_on(make, optimizer, tmp_path):
    delay = train(str(tmp_path), make, optimizer)
    check(str(tmp_path), make, optimizer, delay.then)
    for part in ("model", "optimizer"):
        assert not same(delay.then[part], delay.at_writing[part])


def look_later(variables, buffers):
    """Take nothing: the values are read when they are written."""
    backend = _backends.current()
    return lambda: [backend.view(variable) for variable in variables]


def hold_arrays(variables, buffers):
    """Hold jax's arrays and not their buffers, which are donated to the next step."""
    values = [variable.value for variable in variables]
    return lambda: [np.asarray(value) for value in values]


MISTAKES = [look_later, *([hold_arrays] if keras.backend.backend() == "jax" else [])]


@pytest.mark.parametrize("capture", MISTAKES)
@pytest.mark.parametrize(("make", "optimizer"), MODELS[1:3])
def test_control_values_that_are_not_captured_are_found_out(
    capture, make, optimizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(_backends.current(), "capture", capture)
    # jax: the array has been deleted, or the variable is empty while it trains
    with pytest.raises((AssertionError, RuntimeError, TypeError)):
        check(str(tmp_path), make, optimizer, train(str(tmp_path), make, optimizer).then)


class Averages(keras.callbacks.Callback):
    """Notes the averages, and the other weights, that are scored at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.scored, self.raw = [], []

    def on_epoch_end(self, epoch, logs=None):
        pairs = ema_pairs(self.model.optimizer)
        self.scored.append(copies(average for _, average in pairs))
        self.raw.append(copies(weight for weight, _ in pairs))


@pytest.mark.parametrize("name", FILES)
def test_the_averages_that_were_scored_are_saved_though_training_went_on(name, tmp_path):
    keras.utils.set_random_seed(2)
    model, averages = dense(averaged), Averages()
    ours = keras_ratchet.ModelCheckpoint(
        tmp_path / f"{{epoch}}-{name}",
        save_weights_only=".weights." in name,
        save_best_only=True,
        background=True,
    )
    x, y = data(40)
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=2,
        verbose=0,
        validation_data=(x, y),
        callbacks=[averages, keras.callbacks.SwapEMAWeights(), Delay(), ours],
    )
    found = in_file(str(tmp_path / f"1-{name}"), dense, averaged)["model"]
    bits = set(map(described, found))
    assert set(map(described, averages.scored[0])) <= bits
    assert not set(map(described, averages.raw[0])) <= bits
