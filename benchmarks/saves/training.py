"""A whole run with and without saves: wall time with / without, alternating."""

import shutil
import statistics
import time

import keras
from saves import model as models

import keras_ratchet

EVERY = {"every epoch": "epoch", "every 10 steps": 10}


def digits():
    """Return a compiled convolutional model and scikit-learn's handwritten digits."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model, x.reshape(-1, 8, 8, 1).astype("float32") / 16, y


def large():
    """Return a compiled model of 100 MB of state and random data."""
    model, width = models.dense(100)
    return model, *models.data(width, 60)


def measure(rounds, directory):
    """Return (run, saves) -> wall time relative to the run without saves."""
    found = {}
    for name, make, epochs in (("digits", digits, 4), ("100 MB of state", large, 3)):
        model, x, y = make()
        model.fit(x, y, batch_size=32, verbose=0)
        for label, freq in EVERY.items():
            ratios = [_ratio(model, x, y, epochs, freq, directory) for _ in range(rounds)]
            found[f"{name}, {label}"] = {
                "ratio": statistics.median(ratios),
                "all": [round(r, 3) for r in ratios],
            }
    return found


def _ratio(model, x, y, epochs, freq, directory):
    return _fit(model, x, y, epochs, freq, directory) / _fit(model, x, y, epochs, None, directory)


def _fit(model, x, y, epochs, freq, directory):
    callbacks = []
    if freq is not None:
        path = directory / "training" / "last.weights.h5"
        callbacks = [keras_ratchet.ModelCheckpoint(path, save_weights_only=True, save_freq=freq)]
    start = time.perf_counter()
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks)
    took = time.perf_counter() - start
    shutil.rmtree(directory / "training", ignore_errors=True)
    return took
