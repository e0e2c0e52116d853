"""One training saved under one backend and gone on with under another.

`python -m support.crossing SETTINGS` does one of two things with the backend of KERAS_BACKEND:
"save" trains to the middle and leaves a snapshot, trains on to the end, and writes the weights;
"resume" resumes from the snapshots of other backends, in one process.
"""

import json
import os
import shutil
import sys
import warnings

import keras
import numpy as np

import keras_ratchet

EPOCHS, BATCH = 4, 8


class Stop(Exception):
    """Ends a run in the middle."""


class StopAt(keras.callbacks.Callback):
    """Ends a run after a batch of an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.epoch, self.batch, self.now = epoch, batch, -1

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            raise Stop


def train(directory, *callbacks):
    """Run the script once; return what it ends with."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 5)).astype("float32")
    y = (x.sum(axis=1, keepdims=True) > rng.normal(size=(48, 1))).astype("float32")
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, activation="tanh"),
            layers.BatchNormalization(),
            layers.Dropout(0.0, seed=3),  # a SeedGenerator that changes nothing
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    for layer in model.layers:  # initial weights are drawn by each backend in its own way
        if isinstance(layer, layers.Dense):
            layer.kernel.assign(rng.normal(size=layer.kernel.shape, scale=0.3))
    compiled = keras.backend.backend() == "jax"  # elsewhere that takes longer than it saves
    model.compile(
        keras.optimizers.Adam(0.01),
        "binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=compiled,
    )
    plateau = keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.7, min_delta=1.0)
    stopping = keras_ratchet.EarlyStopping(patience=9)
    given = [plateau, stopping, *callbacks]
    if directory:
        given.append(keras_ratchet.BackupAndRestore(directory, 4, delete_checkpoint=False))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            history = model.fit(
                x,
                y,
                batch_size=BATCH,
                epochs=EPOCHS,
                shuffle=False,
                validation_data=(x[:16], y[:16]),
                verbose=0,
                callbacks=given,
            )
        except Stop:
            given[-1]._store.end()  # a dead process holds no lock
            return None
    names = ("iterations", "learning_rate")
    return {
        "weights": [w.tolist() for w in model.get_weights()],
        "slots": [keras.ops.convert_to_numpy(v).tolist() for v in model.optimizer.variables],
        "scalars": {name: float(getattr(model.optimizer, name)) for name in names},
        "history": history.history,
        "epochs": history.epoch,
        "wait": [plateau.wait, stopping.wait, stopping.best_epoch],
        "warnings": [str(w.message) for w in caught if "Resuming from" in str(w.message)],
    }


def main(settings):
    """Write one record per run to `records.jsonl`."""
    with open("records.jsonl", "a", buffering=1, encoding="utf-8") as records:
        if settings["what"] == "save":
            assert train(settings["directory"], StopAt(2, 4)) is None
            records.write(json.dumps(train(None)) + "\n")
            return
        for name, directory in settings["snapshots"].items():
            copy = os.path.abspath(f"from_{name}")
            shutil.copytree(directory, copy)
            records.write(json.dumps({"from": name, **train(copy)}) + "\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
