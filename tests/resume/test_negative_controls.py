"""Leave out one part of the TrainState, and the resumed training is another one."""

import contextlib
import random

import keras
import numpy as np
import pytest
from support.resuming import Kill, Script, arrays, model
from support.sources import Batches, loader, numpy_arrays
from support.versions import AT_MOST_3_15

from keras_ratchet._engine.resume.train_state import TrainState


class DrawsFromAll(keras.callbacks.Callback):
    """Lets the weights depend on Python's, NumPy's and torch's global streams."""

    def __init__(self, stream):
        super().__init__()
        self.draw = stream

    def on_train_batch_end(self, batch, logs=None):
        shift = float(self.draw()) * 0.01
        bias = self.model.layers[-1].bias
        bias.assign(keras.ops.add(bias, shift))


def torch_stream():
    import torch

    return torch.rand(())


def unseeded():
    class Unseeded(keras.layers.Layer):
        def call(self, x, training=False):
            return x + 0.1 * keras.random.normal(keras.ops.shape(x)) if training else x

    return model(layers=[Unseeded()])


def without(*names, rng=("rng", "epoch_rng")):
    """Return a change of the saved data that leaves out random streams."""

    def change(state):
        for part in rng:
            streams = getattr(state, part)
            for name in names:
                streams[name] = OTHER[name](streams[name]) if name in OTHER else None
                if streams[name] is None:
                    del streams[name]

    return change


OTHER = {  # what cannot be missing is replaced by another value
    "python": lambda _: random.Random(99).getstate(),
    "numpy": lambda _: np.random.RandomState(99).get_state(legacy=False),
    "backend": lambda _: {},
}


def zeros(prefix, pick=lambda array: True):
    def change(state):
        for name, array in state.variables.items():
            if name.startswith(prefix) and pick(array):
                state.variables[name] = np.zeros_like(array)

    return change


def seeds(array):
    return array.dtype.kind in "iu" and array.shape == (2,)


def emptied(part):
    def change(state):
        setattr(state, part, type(getattr(state, part))())

    return change


def no_callbacks_but(*kept):
    def change(state):
        state.callbacks = {
            k: v for k, v in state.callbacks.items() if any(name in k for name in kept)
        }

    return change


def draws(stream):
    return lambda: [DrawsFromAll(stream)]


def plateau():
    return [keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10.0, cooldown=0)]


PY_DATA = {"data": lambda: {"x": Batches(workers=0)}}
TORCH_DATA = {"data": lambda: {"x": loader()}}
OWN = {"data": lambda: {"x": loader(own_generator=True)}}
ALL = ("torch", "tensorflow", "jax")
HOST = ("torch", "jax")
MIDDLE, END = {"save_freq": 3}, {"save_freq": "epoch"}
SHUFFLES = {  # what orders the arrays of `fit`
    "NumPy's stream, which shuffles on jax": (("jax",), MIDDLE, without("numpy"), {}),
    "torch's stream, which shuffles on torch": (
        ("torch",),
        MIDDLE,
        without("backend", "torch_data"),
        {},
    ),
}
if not AT_MOST_3_15:
    SHUFFLES = {"the number of passes, which shuffles": (HOST, MIDDLE, emptied("cursor"), {})}
CONTROLS = {
    "Python's stream": (ALL, END, without("python"), {"callbacks": draws(random.random)}),
    "NumPy's stream": (ALL, END, without("numpy"), {"callbacks": draws(np.random.random)}),
    **SHUFFLES,
    "torch's stream, which shuffles a DataLoader": (
        ("tensorflow", "jax"),
        END,
        without("torch_data"),
        TORCH_DATA,
    ),
    "Keras's global seeds": (("torch", "tensorflow"), END, without("keras"), {"make": unseeded}),
    "the streams at the epoch's begin": (
        HOST,
        MIDDLE,
        without("python", "numpy", "backend", "torch_data", rng=("epoch_rng",)),
        {} if AT_MOST_3_15 else TORCH_DATA,
    ),
    "the streams at the batch": (
        HOST,
        MIDDLE,
        without("python", "numpy", "backend", "torch_data", rng=("rng",)),
        {"callbacks": draws(np.random.random)},
    ),
    "SeedGenerators": (ALL, MIDDLE, zeros("model/", seeds), {}),
    "the weights": (ALL, END, zeros("model/"), {}),
    "the optimizer": (ALL, END, zeros("optimizer/"), {}),
    "the metrics": (ALL, MIDDLE, zeros("metrics/"), {}),
    "callbacks": (ALL, END, no_callbacks_but("History"), {"callbacks": plateau}),
    "History": (ALL, END, no_callbacks_but("ReduceLROnPlateau"), {"callbacks": plateau}),
    "the cursor of a PyDataset": (ALL, END, emptied("cursor"), PY_DATA),
    "the cursor of a DataLoader": (ALL, END, emptied("cursor"), OWN),
}


@contextlib.contextmanager
def changed(change):
    """Change every state that is read back."""
    original = TrainState.unpack.__func__

    def unpack(cls, *arguments):
        state = original(cls, *arguments)
        change(state)
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainState, "unpack", classmethod(unpack))
        yield


@pytest.mark.parametrize("name", CONTROLS)
def test_without_it_the_training_is_another_one(name, tmp_path, backend):
    backends, saves, change, arguments = CONTROLS[name]
    if backend not in backends:
        pytest.skip(f"{name}: not needed on {backend}")
    script = Script(str(tmp_path / "b"), **{"data": numpy_arrays, **arguments})
    whole = script.uninterrupted(**saves)
    assert script.run(Kill(17), **saves) is None
    with changed(change):
        resumed = script.run(**saves)
    assert resumed.differences(whole)


def test_the_controls_are_exact_if_nothing_is_left_out(tmp_path):
    script = Script(
        str(tmp_path / "b"),
        numpy_arrays,
        callbacks=lambda: [DrawsFromAll(np.random.random), DrawsFromAll(random.random), *plateau()],
    )
    whole = script.uninterrupted()
    saves = END if keras.backend.backend() == "tensorflow" else MIDDLE
    with changed(lambda state: None):
        assert script.chain(Kill(17), **saves).differences(whole) == []


def test_logs_of_the_skipped_batches_are_those_that_were_saved(tmp_path):
    """What skipped steps return is seen where an epoch's last batch was the last one done."""
    script = Script(str(tmp_path / "b"), numpy_arrays, fit={"validation_data": arrays()})
    whole = script.uninterrupted(save_freq=1)
    assert script.run(Kill(20), save_freq=1) is None
    assert script.run(save_freq=1).differences(whole) == []
