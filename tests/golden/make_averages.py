"""Records the snapshots of a real run for the averages: KERAS_BACKEND=torch python this_file.

A small network on scikit-learn's digits; its weights at the end of each of its last epochs, and
the validation data. What is averaged on the three backends is then the same to the last bit.
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from sklearn.datasets import load_digits

FILE = Path(__file__).parent / "averages.npz"


def main():
    keras.utils.set_random_seed(3)
    x, y = load_digits(return_X_y=True)
    mixed = np.random.default_rng(0).permutation(len(x))
    x, y = (x[mixed] / 16).astype("float32"), y[mixed].astype("int32")
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(10, "softmax")]
    )
    model.compile(keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy")
    snapshots = []

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            snapshots.append(self.model.get_weights())

    model.fit(x[:300], y[:300], epochs=24, batch_size=16, verbose=0, callbacks=[Record()])
    arrays = {
        f"{epoch:02d}/{i}": w for epoch, s in enumerate(snapshots[-10:]) for i, w in enumerate(s)
    }
    x_val = np.rint(x[300:700] * 16).astype("uint8")
    np.savez_compressed(FILE, x=x_val, y=y[300:700].astype("uint8"), **arrays)
    print(FILE, FILE.stat().st_size)


if __name__ == "__main__":
    main()
