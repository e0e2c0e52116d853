"""Models to save, and small helpers."""

import importlib.util
import os
import statistics
import time

import numpy as np

BATCH = 16


def dense(state_mb, layers=8):
    """Return a compiled model with about this much state (weights and Adam's two slots)."""
    import keras

    width = round((state_mb * 1e6 / 12 / layers) ** 0.5)
    stack = [keras.layers.Dense(width, activation="relu") for _ in range(layers)]
    model = keras.Sequential([keras.Input((width,)), *stack, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model, width


def many_layers(state_mb, layers=1000):
    """Return a model of the same size in many small layers, side by side so that it builds."""
    import keras

    width = max(2, round((state_mb * 1e6 / 12 / layers) ** 0.5))
    inputs = keras.Input((width,))
    ends = [keras.layers.Dense(width, activation="relu")(inputs) for _ in range(layers)]
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Add()(ends)))
    model.compile("adam", "mse")
    return model, width


def data(width, batches):
    """Return inputs and targets for this many batches."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * batches, width)).astype("float32")
    return x, x[:, :1]


def state_of(model):
    """Return all arrays of a model's state."""
    import keras

    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def memcpy_s(model, rounds=7):
    """Return the median time of one copy of the state into allocated memory."""
    arrays = state_of(model)
    target = [np.zeros_like(a) for a in arrays]

    def copy():
        for to, array in zip(target, arrays, strict=True):
            np.copyto(to, array)

    copy()
    return statistics.median(timed(copy) for _ in range(rounds)), sum(a.nbytes for a in arrays)


def timed(call):
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def begun(callback, model):
    """Return the callback list of a started run, with the callback in it."""
    import keras

    callbacks = keras.callbacks.CallbackList([callback], model=model, epochs=10_000)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    return callbacks


def savers(directory, background=True):
    """Return name -> callback for all that are compared."""
    import keras

    import keras_ratchet

    found = {}
    for owner, module in (("Keras", keras.callbacks), ("ours", keras_ratchet)):
        more = {} if owner == "Keras" else {"background": background}
        for suffix in (".keras", ".weights.h5"):
            found[f"{owner} ModelCheckpoint {suffix}"] = module.ModelCheckpoint(
                directory / f"{owner}{suffix}", save_weights_only=suffix == ".weights.h5", **more
            )
        found[f"{owner} BackupAndRestore"] = module.BackupAndRestore(
            directory / f"{owner}-backup", **more
        )
    if importlib.util.find_spec("orbax"):
        found["Keras OrbaxCheckpoint, asynchronous"] = keras.callbacks.OrbaxCheckpoint(
            str((directory / "orbax").absolute()), monitor="loss", mode="min"
        )
    return found


def settle(callbacks):
    """Wait until no callback of a list has anything left to write."""
    for callback in callbacks.callbacks:
        for name in ("flush", "wait_until_finished"):
            if hasattr(callback, name):
                getattr(callback, name)()


def files_below(directory):
    """Return path -> (inode, time of change) of all files except our metadata."""
    found = {}
    for above, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(above, name)
            if ".ratchet" not in path:
                info = os.stat(path)
                found[path] = info.st_ino, info.st_mtime_ns
    return found


def environment(backend):
    """Return the environment of a measuring process."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
    return os.environ | {"KERAS_BACKEND": backend} | quiet
