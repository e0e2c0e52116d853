"""One training, killed again and again by SIGKILL and run again: with what does it end?

`python -m support.chains SETTINGS` imports Keras once and starts no backend. Each run of the
training is a forked child, as good as a new process of the same script. It kills itself at a
chosen place, or the parent kills it at a random instant; the last run of a chain is left alone.
A run that ends writes all that it ends with, by digests, as one JSON record.
"""

import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass

import h5py
import keras
import numpy as np
from support import background_saves, forking

from keras_ratchet._storage import disk

EPOCHS, ROWS, BATCH = 7, 48, 6
RUN_LIMIT_S = 240  # many times what a run takes: a bound, not an expectation
PER_EPOCH = ROWS // BATCH
EXIT_CODE = 75
OURS = ("Resuming", "These attributes", "Resume will not")  # how our warnings begin


@dataclass(frozen=True)
class Chain:
    """What to do.

    Attributes:
        name: Of the chain, and of its directory.
        data: "arrays", "py_dataset", or "frozen": arrays, and a large frozen layer.
        save_freq: Of the backup, or None for none.
        whose: "ratchet" or "keras": whose BackupAndRestore.
        kills: (place, epoch) for each run that kills itself.
        random_kills: How many kills come from outside, at random instants.
        seed: Of these instants.
        sigterms: (place, epoch) for each run that gets a real SIGTERM there.
        slow: Whether the disk is so slow then that a save does not fit into the grace period.
        store: URL of the directory on a store that gets snapshots and best file; each run then has
            an empty disk, as on another machine. "" for the local disk.
    """

    name: str
    data: str = "arrays"
    save_freq: str | int | None = None
    whose: str = "ratchet"
    kills: tuple = ()
    random_kills: int = 0
    seed: int = 0
    sigterms: tuple = ()
    slow: bool = False
    store: str = ""

    def place(self, name):
        """Return where a file or directory of this name is."""
        return f"{self.store}/{self.name.replace(' ', '-')}/{name}" if self.store else name


def run(chains, directory, limit_s):
    """Run chains in a process of its own; return the record of each by its name."""
    settings = [dataclasses.asdict(chain) for chain in chains]
    records = forking.run_module("support.chains", settings, directory, limit_s)
    return {record.pop("name"): record for record in records}


class Pairs(keras.utils.PyDataset):
    """Shuffled and augmented by NumPy's global stream."""

    def __init__(self, x, y, batch=BATCH):
        super().__init__(workers=0)
        self.x, self.y, self.order, self._batch = x, y, np.arange(len(x)), batch

    def __len__(self):
        return len(self.x) // self._batch

    def __getitem__(self, index):
        rows = self.order[index * self._batch : (index + 1) * self._batch]
        noise = np.random.normal(size=self.x[rows].shape, scale=0.1)
        return self.x[rows] + noise.astype("float32"), self.y[rows]

    def on_epoch_end(self):
        np.random.shuffle(self.order)


class Notes(keras.callbacks.Callback):
    """A user's callback: plain attributes, and nothing done for a restart."""

    def __init__(self):
        super().__init__()
        self.steps = 0
        self.losses = []
        self.mean = np.zeros(3)
        self.seen = {}

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(float(logs["val_loss"]))
        self.mean = self.mean * 0.5 + logs["loss"]
        self.seen[epoch] = (self.steps, random.random(), float(np.random.random()))


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


class Reports(keras.callbacks.Callback):
    """Tells the parent where training is, and ends the process where it is told to."""

    def __init__(self, say, place="", epoch=-1, end=kill_myself):
        super().__init__()
        self._say, self._place, self._epoch, self._now = say, place, epoch, None
        self._end = end

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def _at(self, place):
        self._say("moment")
        if self._now == self._epoch and place == self._place:
            self._end()

    def on_epoch_begin(self, epoch, logs=None):
        self._now = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._at(f"batch {batch}")

    def on_test_batch_end(self, batch, logs=None):
        self._at(f"validation {batch}")

    def on_epoch_end(self, epoch, logs=None):
        self._at("epoch end")
        if epoch == self._epoch and self._place == "save":
            background_saves.settle()  # the next write is that of a snapshot
            disk.current = DeadlyDisk()

    def on_train_end(self, logs=None):
        self._now = self._epoch
        self._at("train end")


class DeadlyDisk(disk.Disk):
    """The process ends in the middle of the first write into a snapshot."""

    def write(self, fd, data):
        super().write(fd, data[: len(data) // 2])
        kill_myself()


class SlowDisk(disk.Disk):
    """A disk that takes its time."""

    def sync(self, fd):
        time.sleep(0.2)
        super().sync(fd)


def base():
    """Return frozen layers of 1 MB, and one whose statistics change all the same."""
    frozen = keras.layers.Dense(512, activation="relu", trainable=False)
    return frozen, keras.layers.Dense(512, trainable=False), keras.layers.BatchNormalization()


def build(data):
    """Return (model, arguments of fit)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 5)).astype("float32")
    y = (x.sum(axis=1, keepdims=True) > rng.normal(size=(ROWS, 1))).astype("float32")
    held_out = rng.normal(size=(12, 5)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((5,)),
            *(base() if data == "frozen" else ()),
            keras.layers.GaussianNoise(0.1),  # augmentation inside the model
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    compiled = keras.backend.backend() == "jax"  # there a step that is not compiled takes longer
    model.compile(
        keras.optimizers.Adam(0.05),
        "binary_crossentropy",
        metrics=["accuracy"],
        jit_compile=compiled,
    )
    given = {"x": Pairs(x, y)} if data == "py_dataset" else {"x": x, "y": y, "batch_size": BATCH}
    labels = (rng.normal(size=(12, 1)) > 0).astype("float32")  # so that val_loss soon gets worse
    return model, given | {"validation_data": (held_out, labels), "validation_batch_size": 4}


def backup(chain):
    import keras_ratchet

    if chain.save_freq is None:
        return []
    if chain.whose == "keras":
        return [keras.callbacks.BackupAndRestore("backup", save_freq=chain.save_freq)]
    arguments = {}
    if chain.sigterms:
        grace_s = 0.3 if chain.slow else 30
        arguments = {"signals": "SIGTERM", "grace_s": grace_s, "exit_code": EXIT_CODE}
    found = keras_ratchet.BackupAndRestore(
        chain.place("backup"), chain.save_freq, delete_checkpoint=False, **arguments
    )
    return [found]


def lose_the_disk():
    """Start with an empty cache, as on another machine."""
    os.environ["RATCHET_CACHE"] = tempfile.mkdtemp(dir=os.getcwd())


def train(chain, say, reports=None, saves=()):
    """Run the script once: two trainings, the second without a backup."""
    import keras_ratchet
    from keras_ratchet._storage import anywhere

    if chain.store and not saves:
        lose_the_disk()
    best = chain.place("best.weights.h5")
    keras.utils.set_random_seed(11)
    model, data = build(chain.data)
    ours = keras_ratchet.EarlyStopping(patience=4, restore_best_weights=True)
    theirs = keras.callbacks.EarlyStopping(monitor="loss", patience=6)
    plateau = keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.5)
    notes = Notes()
    callbacks = [
        ours,
        plateau,
        keras_ratchet.ModelCheckpoint(best, save_best_only=True, mode="min"),
        *(saves or backup(chain)),
        theirs,
        notes,
        keras.callbacks.CSVLogger("log.csv"),
        reports or Reports(say),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(**data, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    again = model.fit(**data, epochs=1, verbose=0)
    return {
        "weights": digest(model.variables),
        "optimizer": digest(model.optimizer.variables),
        "history": history.history,
        "epochs": history.epoch,
        "csv": read("log.csv"),
        "early stopping": [ours.best, ours.wait, ours.best_epoch, ours.stopped_epoch],
        "keras early stopping": [theirs.best, theirs.wait, theirs.best_epoch],
        "plateau": [plateau.best, plateau.wait, plateau.cooldown_counter],
        "notes": [notes.steps, notes.losses, notes.mean.tolist(), sorted(notes.seen.items())],
        "best file": content(anywhere.local_copy(best)),
        "what follows": [again.history, random.random(), float(np.random.random())],
        "warnings": [str(w.message) for w in caught if str(w.message).startswith(OURS)],
    }


def digest(variables):
    hasher = hashlib.sha256()
    for variable in variables:
        value = np.array(keras.ops.convert_to_numpy(variable))
        hasher.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    return hasher.hexdigest()


def content(path):
    """Return a digest of all arrays of an HDF5 file."""
    hasher = hashlib.sha256()

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            hasher.update(name.encode() + item[()].tobytes())

    with h5py.File(path) as file:
        file.visititems(add)
    return hasher.hexdigest()


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return file.read()


def follow(chain):
    """Run one chain; return the record of its last run."""
    os.mkdir(chain.name)
    os.chdir(chain.name)
    killed = []
    for place, epoch in chain.kills:
        how = {"place": place, "epoch": epoch}
        child = forking.Child(
            lambda say, how=how: train(chain, say, Reports(say, **how)), RUN_LIMIT_S
        )
        child.end()
        assert child.code == -signal.SIGKILL, f"{place} of epoch {epoch}: ended with {child.code}"
        killed.append([place, drafts()])
    preempted = [preempt(chain, place, epoch) for place, epoch in chain.sigterms]
    instants = random.Random(chain.seed)
    for _ in range(chain.random_kills):
        moment = instants.randrange(EPOCHS * (PER_EPOCH + 4))
        killed.append([kill_from_outside(chain, moment, instants.uniform(0, 0.02)), drafts()])
    last = forking.Child(lambda say: say(json.dumps(train(chain, say))), RUN_LIMIT_S)
    lines = last.end()
    assert last.code == 0, f"the last run ended with {last.code}"
    record = json.loads(lines[-1])
    os.chdir("..")
    shutil.rmtree(chain.name)
    return {"name": chain.name, "killed": killed, "preempted": preempted, **record}


def kill_from_outside(chain, moment, later_s):
    """Kill a run some time after a moment that it reports; return whether it was still there."""
    child = forking.Child(lambda say: train(chain, say), RUN_LIMIT_S)
    for _ in range(moment):
        if child.line() is None:
            break
    time.sleep(later_s)
    child.kill()
    child.end()
    assert child.code in (0, -signal.SIGKILL), f"the child ended with {child.code}"
    return child.code == -signal.SIGKILL


def preempt(chain, place, epoch):
    """Send SIGTERM to a run that waits for it; return how it ended, and the snapshots then."""
    sent = os.path.abspath("sent")
    child = forking.Child(lambda say: be_preempted(chain, say, place, epoch, sent), RUN_LIMIT_S)
    while child.line() not in ("waiting", None):
        pass
    os.kill(child.pid, signal.SIGTERM)
    with open(sent, "w", encoding="utf-8"):
        pass
    lines = child.end()
    os.unlink(sent)
    return {"code": child.code, "reason": lines[-1], "snapshots": snapshots(chain)}


def snapshots(chain):
    """Return the names of the snapshots and leftovers, on the store if there is one."""
    if not chain.store:
        return sorted(os.listdir("backup"))
    from keras_ratchet._storage.anywhere import checkpoints

    return [info.name for info in checkpoints(chain.place("backup"))]


def be_preempted(chain, say, place, epoch, sent):
    def wait():
        say("waiting")
        while not os.path.exists(sent):
            time.sleep(0.005)

    if chain.slow:
        disk.current = SlowDisk()
    lose_the_disk()
    [saves] = backup(chain)
    try:
        train(chain, say, Reports(say, place, epoch, wait), [saves])
    except SystemExit as left:
        say(str(saves.stop_reason))
        os._exit(left.code)


def drafts():
    """Return how many unfinished snapshots the killed run left."""
    names = os.listdir("backup") if os.path.isdir("backup") else []
    return sum(name.startswith(".draft-") for name in names)


def main(settings):
    """Write one record per chain to `records.jsonl`."""
    forking.warm()
    with open("records.jsonl", "a", buffering=1, encoding="utf-8") as records:
        for chain in settings:
            records.write(json.dumps(follow(chain)) + "\n")


if __name__ == "__main__":
    main([Chain(**one) for one in json.loads(sys.argv[1])])
