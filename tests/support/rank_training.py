"""A training in several processes that reports where it is, and what it ends with, by digests."""

import itertools
import os
import random
import time

import keras
import numpy as np
from support import background_saves
from support.chains import DeadlyDisk, Pairs, content, digest
from support.rank import kill_myself

from keras_ratchet._storage import disk

EPOCHS, PER_EPOCH, BATCH = 5, 6, 4
ROWS = {}  # of a rank, where it has others than its share
MORE = {}  # arguments of the snapshots
BEST = {}  # arguments of ModelCheckpoint
LENGTH_IS_KNOWN = True  # of the data of a hand-written loop
MOMENTS = EPOCHS * (PER_EPOCH + 3)  # that a rank reports, about


class Reports(keras.callbacks.Callback):
    """Tells the parent where training is, and ends the process where it is told to.

    Args:
        say: Tells.
        place: Where to end: "start", "train begin", "batch 2", "validation", "epoch end",
            "train end", or inside a write: of a snapshot ("save"), of the best file ("best").
        epoch: Index of the epoch of that place; -1 where it has none.
    """

    def __init__(self, say, place="", epoch=-1):
        super().__init__()
        self._say, self._place, self._epoch, self._now = say, place, epoch, -1

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def at(self, place):
        self._say("moment")
        if self._now == self._epoch and place == self._place:
            kill_myself()

    def _write_at(self, place, kind):
        if self._now == self._epoch and place == self._place:
            background_saves.settle()  # the next write is that of the file that is meant
            disk.current = kind

    def on_train_begin(self, logs=None):
        self.at("train begin")

    def on_epoch_begin(self, epoch, logs=None):
        self._now = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.at(f"batch {batch}")

    def on_test_begin(self, logs=None):
        self.at("validation")
        self._write_at("best", DeadlyDisk())

    def on_epoch_end(self, epoch, logs=None):
        self.at("epoch end")
        self._write_at("save", DeadlyDisk())
        self._write_at("told save", SlowWrite(self._say))

    def on_train_end(self, logs=None):
        self._now = -1
        self.at("train end")


class SlowWrite(disk.Disk):
    """Says that the first write has begun, and takes its time: another rank is killed meanwhile."""

    def __init__(self, say):
        self._say = say

    def write(self, fd, data):
        say, self._say = self._say, None
        if say:
            say("saving")
            time.sleep(0.5)
        return super().write(fd, data)


def pairs(seed, rows):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 5)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) + rng.normal(size=(rows, 1))).astype("float32")


def build():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(1),
        ]
    )


def decisions(backup_freq):
    """Return the callbacks that decide, and the snapshots' arguments."""
    import keras_ratchet

    stopper = keras_ratchet.EarlyStopping(patience=3, mode="min", restore_best_weights=True)
    best = keras_ratchet.ModelCheckpoint("best.weights.h5", save_best_only=True, mode="min", **BEST)
    return stopper, best, {"save_freq": backup_freq, "delete_checkpoint": False, **MORE}


def build_and_seed(rank):
    """Return the same model on each rank, and give each its own streams after that."""
    keras.utils.set_random_seed(11)
    model = build()
    np.random.seed(100 + rank)
    random.seed(200 + rank)
    return model


def fit(rank, save_freq, reports):
    """Train with `fit`; return what it ends with."""
    import keras_ratchet

    model = build_and_seed(rank)
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    stopper, best, arguments = decisions(save_freq)
    plateau = keras_ratchet.ReduceLROnPlateau(patience=0, factor=0.5)
    saves = keras_ratchet.BackupAndRestore("backup", **arguments)
    history = model.fit(
        Pairs(*pairs(10 + rank, ROWS.get(rank, PER_EPOCH * BATCH)), BATCH),
        validation_data=pairs(1, 8),
        validation_batch_size=4,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[stopper, plateau, best, saves, reports],
    )
    return end(model, model.optimizer.variables, history.history, stopper) | {
        "plateau": [plateau.best, plateau.wait, plateau.cooldown_counter]
    }


def loop(rank, save_freq, reports):
    """Train with torch's own loop and DistributedDataParallel; return what it ends with."""
    import torch

    import keras_ratchet

    model = build_and_seed(rank)
    network = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    held_out = [torch.from_numpy(part) for part in pairs(1 + rank, 8)]
    data = torch.utils.data.TensorDataset(*map(torch.from_numpy, pairs(10, 2 * PER_EPOCH * BATCH)))
    sampler = torch.utils.data.DistributedSampler(data)
    steps = ROWS.get(rank, PER_EPOCH * BATCH) // BATCH
    loader = torch.utils.data.DataLoader(data, BATCH, sampler=sampler)

    def batches():
        rows = itertools.islice(loader, steps)
        return list(rows) if LENGTH_IS_KNOWN else rows

    stopper, best, arguments = decisions(save_freq)
    callbacks = [stopper, best, reports]
    with keras_ratchet.Run(
        "backup", model, optimizer=optimizer, callbacks=callbacks, **arguments
    ) as run:
        for epoch in run.epochs(EPOCHS):
            sampler.set_epoch(epoch)
            for x, y in run.batches(batches()):
                optimizer.zero_grad()
                noise = np.random.normal(size=x.shape, scale=0.1).astype("float32")
                error = network(x + torch.from_numpy(noise), training=True) - y
                loss = (error**2).mean()
                loss.backward()
                optimizer.step()
                run.log(loss=float(loss.detach()))
            reports.on_test_begin()
            error = model(held_out[0], training=False) - held_out[1]  # another one on each rank
            run.log(val_loss=float((error**2).mean().detach()))
    slots = [
        value for state in optimizer.state_dict()["state"].values() for value in state.values()
    ]
    return end(model, slots, run.history, stopper)


def end(model, optimizer, history, stopper):
    return {
        "weights": digest(model.variables),
        "optimizer": digest(optimizer),
        "history": {name: [float(value) for value in values] for name, values in history.items()},
        "early stopping": [stopper.best, stopper.wait, stopper.best_epoch, stopper.stopped_epoch],
        "best file": content("best.weights.h5") if os.path.exists("best.weights.h5") else None,
        "streams": [random.random(), float(np.random.random())],
    }
