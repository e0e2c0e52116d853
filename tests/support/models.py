"""Tiny models and data, and metric curves that a test dictates."""

import keras
import numpy as np


def data(n=32, features=4, seed=0):
    """Return (x, y) for a regression."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, features)).astype("float32")
    return x, x.sum(axis=1, keepdims=True).astype("float32")


def dense(features=4, optimizer="sgd", built=True, **compile_args):
    """Return a compiled two-layer model."""
    model = keras.Sequential(
        ([keras.Input((features,))] if built else [])
        + [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]
    )
    model.compile(optimizer, "mse", **compile_args)
    return model


class Curve(keras.callbacks.Callback):
    """Writes dictated values into the logs: put it first in the list.

    `curves` maps a metric's name to its values by epoch; None removes the metric.
    """

    def __init__(self, **curves):
        super().__init__()
        self.curves = curves

    def on_epoch_end(self, epoch, logs=None):
        for name, values in self.curves.items():
            logs.pop(name, None)
            if epoch < len(values) and values[epoch] is not None:
                logs[name] = values[epoch]


class Stamp(keras.callbacks.Callback):
    """Sets every weight to epoch + 1 at the end of an epoch, so that a file tells its epoch.

    Args:
        base: Added to that, to tell runs apart.
    """

    def __init__(self, base=0):
        super().__init__()
        self.base = base

    def on_epoch_end(self, epoch, logs=None):
        number = self.base + epoch + 1
        self.model.set_weights([np.full_like(w, number) for w in self.model.get_weights()])


def stamp_of(model):
    """Return the number that all weights of a model hold."""
    values = {float(v) for w in model.get_weights() for v in np.unique(w)}
    assert len(values) == 1, f"mixed weights: {sorted(values)[:5]}"
    return values.pop()


def fit(model, callbacks, epochs=1, **args):
    """Train on the tiny data set without output; return the History."""
    x, y = data()
    args.setdefault("batch_size", 8)
    args.setdefault("verbose", 0)
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **args)
