"""Cost of idle callbacks per batch: a step with / without them."""

import statistics
import time

import keras
from saves import model as models

import keras_ratchet

STEPS = 3000


def measure(rounds, directory):
    """Return microseconds per step, with and without, and the ratio."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = models.data(8, STEPS)
    model.fit(x[:320], y[:320], batch_size=models.BATCH, verbose=0)
    times = {"without": [], "with": []}
    for number in range(rounds):
        for name in ("without", "with") if number % 2 else ("with", "without"):
            callbacks = _idle(directory / f"{number}-{name}") if name == "with" else []
            start = time.perf_counter()
            model.fit(x, y, batch_size=models.BATCH, shuffle=False, verbose=0, callbacks=callbacks)
            times[name].append((time.perf_counter() - start) / STEPS * 1e6)
    without, given = (statistics.median(times[name]) for name in ("without", "with"))
    return {"without_us": without, "with_us": given, "extra_us": given - without}


def _idle(directory):
    """Return our callbacks with their defaults: they act at the end of an epoch."""
    return [
        keras_ratchet.EarlyStopping("loss", patience=100),
        keras_ratchet.ModelCheckpoint(directory / "best.weights.h5", save_weights_only=True),
    ]
