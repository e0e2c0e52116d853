"""Files written while training goes on have the values of their hooks, on an accelerator too.

The accelerator is simulated: the CPU passes for one at the seam of each backend.
"""

import keras
import numpy as np
import pytest
from support.models import data

import keras_ratchet

BACKEND = keras.backend.backend()
EPOCHS = 4


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """Have the CPU pass for an accelerator, whose own queue runs only when it is waited for."""
    if BACKEND == "torch":
        from support.device_queues import Queues

        from keras_ratchet._backends import torch, torch_device

        monkeypatch.setattr(torch, "_is_on_host", lambda value: False)
        monkeypatch.setattr(torch_device, "is_apart", lambda value: True)
        monkeypatch.setattr(torch_device, "streams_of", lambda device: Queues(at_once=True))
    if BACKEND == "jax":
        from keras_ratchet._backends import jax_device

        monkeypatch.setattr(jax_device.Device, "is_apart", True)
        monkeypatch.setattr(jax_device.Device, "has_room", lambda self, size: True)


class Copies(keras.callbacks.Callback):
    """Records the values of the hook."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append([np.array(w) for w in self.model.get_weights()])


def test_a_model_that_leaves_the_host_between_two_saves_is_saved_as_it_is(tmp_path, monkeypatch):
    if BACKEND != "torch":
        pytest.skip("elsewhere captures share no memory with the file")
    from keras_ratchet._backends import torch

    model = network()
    path = str(tmp_path / "{epoch}.weights.h5")
    saver = keras_ratchet.ModelCheckpoint(path, save_weights_only=True, background=True)
    places = [True, True, False, False, True, True]
    monkeypatch.setattr(torch, "_is_on_host", lambda value: places[len(seen)])
    callbacks = keras.callbacks.CallbackList([saver], model=model, epochs=len(places))
    callbacks.on_train_begin()
    seen = []
    for epoch in range(len(places)):
        model.set_weights([w + 1 for w in model.get_weights()])
        callbacks.on_epoch_end(epoch, {"loss": 1.0})
        saver.flush()
        seen.append(model.get_weights())
    callbacks.on_train_end()
    for epoch, weights in enumerate(seen, 1):
        model.load_weights(path.format(epoch=epoch))
        assert [w.tobytes() for w in model.get_weights()] == [w.tobytes() for w in weights]


def network():
    keras.utils.set_random_seed(1)
    stack = [keras.layers.Dense(64, activation="relu"), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((4,)), *stack, keras.layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=BACKEND != "torch")
    return model


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_files_have_the_values_of_their_hooks(suffix, tmp_path):
    model, copies = network(), Copies()
    x, y = data(64)
    path = str(tmp_path / ("{epoch}" + suffix))
    whole = suffix == ".keras"
    saver = keras_ratchet.ModelCheckpoint(path, save_weights_only=not whole, background=True)
    model.fit(x, y, batch_size=8, epochs=EPOCHS, verbose=0, callbacks=[copies, saver])
    for epoch, weights in enumerate(copies.weights, 1):
        model.load_weights(path.format(epoch=epoch))
        found = model.get_weights()
        assert [w.tobytes() for w in found] == [w.tobytes() for w in weights]


@pytest.mark.filterwarnings("ignore:This process has already trained another model")
def test_a_snapshot_has_the_values_of_its_hook(tmp_path):
    x, y = data(64)
    ends = []
    for epochs in ((EPOCHS,), (2, EPOCHS)):
        directory = str(tmp_path / str(len(epochs)))
        for until in epochs:
            model = network()
            backup = keras_ratchet.BackupAndRestore(
                directory, background=True, save_freq=3, delete_checkpoint=False
            )
            model.fit(x, y, batch_size=8, epochs=until, verbose=0, callbacks=[backup])
        ends.append([w.tobytes() for w in model.get_weights()])
    assert ends[0] == ends[1]
