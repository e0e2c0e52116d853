"""Recorded snapshots of a real run, and averages of them computed without Keras."""

import functools
from pathlib import Path

import keras
import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden" / "averages.npz"
TOLERANCE = 1e-5  # relative: how far the value of one backend may be from the oracle's


@functools.cache
def recorded():
    """Return (snapshots, x, y): ten times the weights of a network, and validation data."""
    with np.load(GOLDEN) as file:
        x, y = (file["x"] / 16).astype("float32"), file["y"].astype("int32")
        epochs = sorted({name.split("/")[0] for name in file.files if "/" in name})
        snapshots = [[file[f"{epoch}/{i}"] for i in range(4)] for epoch in epochs]
    return snapshots[4:] + snapshots[:4], x, y  # so that the best is neither first nor last


def network(loss="sparse_categorical_crossentropy", **arguments):
    """Return the network that the snapshots are of."""
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(10, "softmax")]
    )
    model.compile("adam", loss, **arguments)
    return model


def loss_of(weights):
    """Return the validation loss of weights in double precision."""
    _, x, y = recorded()
    a, b, c, d = (w.astype("float64") for w in weights)
    logits = np.maximum(x @ a + b, 0) @ c + d
    logits -= logits.max(axis=1, keepdims=True)
    logarithms = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    probabilities = np.clip(np.exp(logarithms[np.arange(len(y)), y]), 1e-7, 1 - 1e-7)
    return float(-np.log(probabilities).mean())


def oracle_soup(snapshots):
    """Return (indices, value, smallest margin of a decision), by the formula of the paper."""
    values = [loss_of(weights) for weights in snapshots]
    assert values == sorted(values)
    soup, members, value, margins = snapshots[0], [0], values[0], []
    for i, weights in enumerate(snapshots[1:], 1):
        m = len(members)
        attempt = [
            (m * w.astype("float64") + v) / (m + 1) for w, v in zip(soup, weights, strict=True)
        ]
        found = loss_of(attempt)
        margins.append(abs(found - value) / value)
        if found < value:
            soup, value = attempt, found
            members.append(i)
    return tuple(members), value, min(margins)


def best_first():
    """Return the recorded snapshots from the best to the worst."""
    return sorted(recorded()[0], key=loss_of)


def bits(arrays):
    """Return arrays as bytes, to be compared exactly."""
    return [np.ascontiguousarray(keras.ops.convert_to_numpy(a)).tobytes() for a in arrays]
