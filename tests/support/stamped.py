"""A model whose every weight holds one number, and files read back without Keras.

So a file tells which save it is, and whether parts of two saves are mixed in it.
"""

import contextlib
import io
import json
import os
import zipfile

import h5py
import numpy as np

WHOSE = ("ratchet", "ratchet, beside", "keras")  # ours in line, ours beside training
SUFFIXES = (".keras", ".weights.h5", ".h5")
LAYERS = 6


def build(width, number=0):
    """Return a compiled model of six square layers whose weights are all `number`.

    A width of 1280 makes 39 MB.
    """
    import keras

    start = keras.initializers.Constant(number)
    layers = [
        keras.layers.Dense(width, kernel_initializer=start, bias_initializer=start)
        for _ in range(LAYERS)
    ]
    model = keras.Sequential([keras.Input((width,)), *layers])
    # "mse" by name would do but for `.h5`, which Keras 3.15.1 cannot load again with it
    model.compile("adam", keras.losses.MeanSquaredError())
    return model


def weight_count(width):
    """Return the number of weights of `build(width)`."""
    return LAYERS * width * (width + 1)


def stamp(model, number):
    """Set every weight to `number`."""
    model.set_weights([np.full(w.shape, number, "float32") for w in model.weights])


def add_slots(model, number):
    """Build the optimizer, so that the next file is three times as large; stamp its slots."""
    model.optimizer.build(model.trainable_variables)
    for variable in model.optimizer.variables:
        if len(variable.shape) > 0:
            variable.assign(np.full(variable.shape, number, "float32"))


def checkpoint(whose, path, model):
    """Return a `CallbackList` with the checkpoint of one of `WHOSE`, begun.

    Its `on_epoch_end` saves to `path`, as `fit` would have it.
    """
    import keras

    import keras_ratchet

    home, more = keras.callbacks, {}
    if whose != "keras":
        home, more = keras_ratchet, {"background": whose == "ratchet, beside"}
    callback = home.ModelCheckpoint(path, save_weights_only=path.endswith(".weights.h5"), **more)
    callbacks = keras.callbacks.CallbackList([callback], model=model, add_history=False)
    callbacks.on_train_begin()
    return callbacks


def save(callbacks, number):
    """Save the model of `checkpoint` as the epoch `number` would, until it is on the disk."""
    callbacks.on_epoch_begin(number)
    callbacks.on_epoch_end(number, {"loss": 0.0})
    for callback in callbacks.callbacks:
        if hasattr(callback, "flush"):
            callback.flush()


def read(path, *counts):
    """Return (stamp, None) for a whole file, or (None, what is wrong with it).

    Args:
        path: The file, in one of the three formats.
        counts: How many stamped numbers a whole file may hold: weights, and slots if any.
    """
    try:
        with _h5_of(path) as h5:
            values = _arrays(h5)
    except Exception as error:
        return None, f"unreadable: {type(error).__name__}: {error}"[:200]
    found = sum(v.size for v in values)
    if found not in counts:
        return None, f"torn: {found} numbers where {counts} are whole"
    stamps = {float(s) for v in values for s in (v.min(), v.max())}
    if len(stamps) != 1:
        return None, f"torn: numbers of saves {sorted(stamps)[:5]}"
    return int(stamps.pop()), None


@contextlib.contextmanager
def _h5_of(path):
    if not path.endswith(".keras"):
        with h5py.File(path, "r") as h5:
            yield h5
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}  # checks each CRC
        json.loads(members["config.json"])
        json.loads(members["metadata.json"])
        with h5py.File(io.BytesIO(members["model.weights.h5"]), "r") as h5:
            yield h5


def _arrays(h5):
    """Return every array of a file: not the optimizer's step count and learning rate."""
    found = []
    h5.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return [np.asarray(dataset) for dataset in found if dataset.ndim > 0]


def load(path, width):
    """Return the stamp of a file as Keras itself loads it.

    Raises:
        ValueError: If the weights are not all the same.
    """
    import keras

    if path.endswith(".weights.h5"):
        model = build(width)
        model.load_weights(path)
    else:
        model = keras.models.load_model(path)
    stamps = {float(s) for w in model.get_weights() for s in (w.min(), w.max())}
    if len(stamps) != 1:
        raise ValueError(f"weights of saves {sorted(stamps)[:5]}")
    return int(stamps.pop())


def strangers(path):
    """Return what lies beside a checkpoint and is neither it nor our own `.ratchet`."""
    directory, name = os.path.split(path)
    return sorted(set(os.listdir(directory)) - {name, ".ratchet"})
