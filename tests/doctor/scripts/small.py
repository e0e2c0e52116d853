"""What the scripts here have in common: a small model and small data."""

import keras
import numpy as np


def data(rows=96):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("float32")


def model():
    keras.utils.set_random_seed(1)
    made = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    made.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    return made
