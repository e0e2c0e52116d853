"""Trainings that are cut by an exception and gone on with by new objects in the same process.

Nothing of the first run is left for the second: the model, the data and the callbacks are made
anew, Keras's session is cleared, and all random streams are scrambled in between.
"""

import gc
import multiprocessing
import random
import shutil
import sys
from dataclasses import dataclass, field

import keras
import numpy as np
from support import background_saves, collector

import keras_ratchet
from keras_ratchet._engine.resume import comparison

ROWS, BATCH, EPOCHS = 40, 4, 3
PER_EPOCH = ROWS // BATCH


class Killed(Exception):
    """Stands for the end of the process."""


class Kill(keras.callbacks.Callback):
    """Ends the run after a number of batches, counted over all epochs, or at an epoch's end."""

    def __init__(self, batches=None, epoch=None):
        super().__init__()
        self.batches, self.at_epoch, self.epoch = batches, epoch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.batches is not None and self.epoch * PER_EPOCH + batch + 1 >= self.batches:
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.at_epoch:
            raise Killed


def arrays(rows=ROWS, features=4):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, features)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) > 0).astype("float32")


def model(optimizer=None, layers=(), built=True, **compile_args):
    """Return a tiny compiled model with dropout."""
    stack = [keras.Input((4,))] if built else []
    stack += [*layers, keras.layers.Dense(6, activation="relu"), keras.layers.Dropout(0.4)]
    net = keras.Sequential([*stack, keras.layers.Dense(1, activation="sigmoid")])
    compile_args.setdefault("jit_compile", False)
    compile_args.setdefault("metrics", ["accuracy"])
    compile_args.setdefault("loss", "binary_crossentropy")
    net.compile(optimizer or keras.optimizers.Adam(1e-2), **compile_args)
    return net


_LOOKED_AT = set()  # workers that are no DataLoader's: pools live on, and a search takes a second


def end_workers():
    """End the workers of DataLoaders, as the end of the process would.

    If the collector finds an iterator, its queues are gone already, so that torch waits in vain,
    5 s for each worker.
    """
    if {child.pid for child in multiprocessing.active_children()} - _LOOKED_AT:
        for thing in gc.get_objects():
            if hasattr(type(thing), "_shutdown_workers"):
                thing._shutdown_workers()
        _LOOKED_AT.update(child.pid for child in multiprocessing.active_children())


def scramble(*, as_new_process=True):
    """Put all random streams somewhere else, and forget the last run, as a new process has."""
    collector.spare()
    if as_new_process:
        comparison._total.clear()
    keras.backend.clear_session()
    seed_all(random.SystemRandom().randrange(2**31))


def seed_all(seed):
    """Seed everything; Keras leaves torch out on other backends."""
    keras.utils.set_random_seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@dataclass
class Outcome:
    """What a run ends with."""

    history: dict
    epochs: list
    weights: list
    optimizer: list
    callbacks: list = field(default_factory=list)

    def differences(self, other):
        """Return the names of what is not equal bit for bit."""
        found = []
        for name in ("weights", "optimizer"):
            mine, theirs = getattr(self, name), getattr(other, name)
            same = len(mine) == len(theirs) and all(
                a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
                for a, b in zip(mine, theirs, strict=True)
            )
            found += [] if same else [name]
        if repr(self.history) != repr(other.history):
            found.append("history")
        return found + ([] if self.epochs == other.epochs else ["epochs"])


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


@dataclass
class Script:
    """A training script, as one that is run again after each kill.

    Args:
        directory: For the backup.
        data: Function that returns the arguments of `fit` that concern the data.
        make: Function that returns the model.
        callbacks: Function that returns the other callbacks.
        backup: Arguments of BackupAndRestore.
        fit: Other arguments of `fit`.
        names_data: Whether BackupAndRestore is given the data set too.
        also: Function of the model that returns variables of further optimizers.
    """

    directory: str
    data: object
    make: object = model
    callbacks: object = list
    backup: dict = field(default_factory=dict)
    fit: dict = field(default_factory=dict)
    names_data: bool = False
    also: object = lambda net: []

    def run(self, kill=None, backup=True, **backup_args):
        """Run once from scratch; return the outcome, or None if it was killed."""
        scramble()
        seed_all(5)
        net, data, callbacks = self.make(), self.data(), list(self.callbacks())
        mine = list(callbacks)
        if backup:
            arguments = {"delete_checkpoint": False, **self.backup, **backup_args}
            if self.names_data:
                arguments["data"] = data["x"]
            mine.append(keras_ratchet.BackupAndRestore(self.directory, **arguments))
        if kill is not None:
            mine.append(kill)
        arguments = {"epochs": EPOCHS, "verbose": 0, **self.fit}
        try:
            history = net.fit(**{**data, **arguments}, callbacks=mine)
        except Killed:
            background_saves.settle()
            for callback in mine:  # a dead process holds no lock
                if isinstance(callback, keras_ratchet.BackupAndRestore):
                    callback._store.end()
            return None
        finally:
            end_workers()
        return Outcome(
            history.history,
            history.epoch,
            values(net.variables),
            values([*net.optimizer.variables, *self.also(net)]),
            callbacks,
        )

    def uninterrupted(self, **backup_args):
        """Run once without a kill, in a directory that is then deleted."""
        outcome = self.run(**backup_args)
        shutil.rmtree(self.directory)
        return outcome

    def chain(self, *kills, **backup_args):
        """Run and be killed, again and again; return the outcome of the last run."""
        for kill in kills:
            assert self.run(kill, **backup_args) is None
        return self.run(**backup_args)
