"""Trainings that go bad: poisoned data, too large a learning rate, weights that break."""

import keras
import numpy as np

BATCH, BATCHES = 4, 10


def rows(batches=BATCHES, seed=0):
    """Return (x, y) for a regression, `batches` batches of it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batches * BATCH, 3)).astype("float32")
    return x, (x @ [[1.0], [-2.0], [0.5]]).astype("float32") + 0.1


def poisoned(bad, batches=BATCHES, value=np.nan):
    """Return (x, y) of which one row of each batch in `bad` is NaN."""
    x, y = rows(batches)
    for batch in bad:
        x[batch * BATCH + 1, 0] = value
    return x, y


def without(bad, batches=BATCHES):
    """Return (x, y) without the batches in `bad`."""
    x, y = rows(batches)
    keep = [b for b in range(batches) if b not in bad]
    return tuple(a.reshape(batches, BATCH, -1)[keep].reshape(-1, a.shape[1]) for a in (x, y))


def net(optimizer=None, layers=(), seed=1, **compile_args):
    """Return a small compiled model that is the same each time.

    On tensorflow it runs eagerly, unless it is told not to: tracing takes seconds.
    """
    eager = keras.backend.backend() == "tensorflow"
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(8, activation="tanh"),
            *layers,
            keras.layers.Dense(1),
        ]
    )
    compile_args = {"jit_compile": False, "run_eagerly": eager} | compile_args
    model.compile(optimizer or keras.optimizers.Adam(0.01), "mse", **compile_args)
    return model


def train(model, data, callbacks=(), epochs=1, **args):
    """Train in the order of the data; return the History."""
    args = {"batch_size": BATCH, "shuffle": False, "verbose": 0} | args
    return model.fit(*data, epochs=epochs, callbacks=list(callbacks), **args)


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def state(model):
    """Return all that training has changed in a model, as bytes."""
    return [v.tobytes() for v in values([*model.variables, *model.optimizer.variables])]


def is_finite(model):
    kept = [*model.variables, *model.optimizer.variables]
    return all(np.isfinite(v).all() for v in values(kept) if v.dtype.kind == "f")


class Break(keras.callbacks.Callback):
    """Sets a weight to NaN, once, after a batch (index from 0) of an epoch."""

    def __init__(self, batch, epoch=0, value=np.nan):
        super().__init__()
        self.batch, self.epoch, self.value = batch, epoch, value
        self._epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._epoch, batch) == (self.epoch, self.batch):
            kernel = self.model.layers[0].kernel
            broken = np.array(keras.ops.convert_to_numpy(kernel))
            broken[0, 0] = self.value
            kernel.assign(broken)
