"""A training on ranks in which as much as possible is each rank's own; what it ends with.

    rank_resume.py DIR NAME[:WHAT] ...

One training after another, each in the directory DIR/NAME. WHAT: "kill" ends all ranks in the
middle of the second epoch; "term" sends SIGTERM to rank 1 in the middle of a validation; "first"
gives all ranks what rank 0 has saved. On the engine `torch` the loop is a hand-written one, on
`torch-fit` and `jax` it is `fit`.
"""

import hashlib
import json
import os
import random
import signal
import sys

from support import rank

RANK, SIZE = rank.join()

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_ratchet as kr  # noqa: E402
from keras_ratchet._engine.resume import rank_states  # noqa: E402
from keras_ratchet.callbacks import _ranks  # noqa: E402

_ranks._EVERY_S = 1e-9  # ranks talk after every batch
EPOCHS, STEPS, BATCH = 3, 5, 4
ROWS = EPOCHS * STEPS * BATCH * SIZE
KILLED_IN, TERM_IN = STEPS + 4, 2 * 2  # batches that were begun
TORCH = keras.backend.backend() == "torch"
of_rank = rank_states.of_rank


class Own(keras.callbacks.Callback):
    """A user's callback: what it collects differs by rank, and depends on all that came before."""

    def on_train_begin(self, logs=None):
        self.sum, self.seen = 0, []
        random.seed(RANK)  # torch draws from it when `fit` builds: more, the more was done before

    def on_train_batch_end(self, batch, logs=None):
        self.sum += (RANK + 1) * random.randrange(1000)

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([epoch, self.sum, RANK])


class Cut(keras.callbacks.Callback):
    """Interrupts a training."""

    def __init__(self, what):
        super().__init__()
        self.what, self.batches, self.tests = what, 0, 0

    def on_train_batch_begin(self, batch, logs=None):
        self.batches += 1
        if self.what == "kill" and self.batches == KILLED_IN:
            rank.kill_myself()

    def on_test_batch_begin(self, batch, logs=None):
        self.tests += 1
        if self.what == "term" and self.tests == TERM_IN and RANK == 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Held(keras.utils.PyDataset):
    """Validation data of this rank's own, with noise from NumPy's global stream."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        x = np.random.normal(size=(2, 3)) + RANK
        return x.astype("float32"), np.ones((2, 1), "float32")


def torch_loader():
    """Return a DataLoader that deals rows to ranks, with noise that a worker process draws."""
    import torch

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return STEPS * BATCH * SIZE

        def __getitem__(self, index):
            x = torch.full((3,), index / 10) + torch.rand(3) + random.random()
            return x, x.sum()[None]

    sampler = torch.utils.data.DistributedSampler(Rows(), SIZE, RANK, seed=3)
    return torch.utils.data.DataLoader(Rows(), BATCH, sampler=sampler, num_workers=1)


def pipeline():
    """Return a tf.data pipeline over this rank's part, in another order in each epoch."""
    import tensorflow as tf

    x = np.random.default_rng(RANK).normal(size=(STEPS * BATCH, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, x.sum(1, keepdims=True)))
    return data.shuffle(len(x), seed=5).batch(BATCH, drop_remainder=True)


def build():
    """Return the same model on all ranks, and leave each with streams of its own."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((3,)), keras.layers.Dense(4), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, keras.layers.Dropout(0.2), keras.layers.Dense(1)])
    keras.random.uniform(())  # this stream is one of all ranks: jax keeps it in a global array
    seed = 10 + RANK
    random.seed(seed), np.random.seed(seed)
    if TORCH:
        import torch

        torch.manual_seed(seed)
    return model


def fit(model, backup, callbacks):
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    data = torch_loader() if TORCH else pipeline()
    callbacks = [kr.BackupAndRestore(**backup), *callbacks]
    history = model.fit(data, validation_data=Held(), epochs=EPOCHS, verbose=0, callbacks=callbacks)
    slots = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
    return callbacks[0], slots, history.history


def loop(model, backup, callbacks):
    import torch

    network = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    loader, held = torch_loader(), Held()
    where = backup.pop("backup_dir")
    with kr.Run(where, model, optimizer=optimizer, callbacks=callbacks, **backup) as run:
        for epoch in run.epochs(EPOCHS):
            loader.sampler.set_epoch(epoch)
            for x, y in run.batches(loader):
                optimizer.zero_grad()
                loss = ((network(x, training=True) - y) ** 2).mean()
                loss.backward()
                optimizer.step()
                run.log(loss=loss.detach())
            if run.stopping:
                break
            losses = []
            for index in range(len(held)):
                callbacks[-1].on_test_batch_begin(index)
                x, y = held[index]
                losses.append(float(((model(x) - torch.from_numpy(y)) ** 2).mean().detach()))
            run.log(val_loss=sum(losses))
    slots = [v.numpy() for one in optimizer.state_dict()["state"].values() for v in one.values()]
    return run.backup, slots, run.history


def train(where, what):
    """Train; return what it ended with on this rank."""
    rank_states.of_rank = (lambda d, a, r: of_rank(d, a, 0)) if what == "first" else of_rank
    model, own = build(), Own()
    backup = {"backup_dir": where, "save_freq": 2, "delete_checkpoint": False}
    backup |= {"signals": ["SIGTERM"]}
    in_loop = TORCH and keras.__version__ < "3.16"
    train = loop if in_loop else fit
    saver, slots, history = train(model, backup, [own, Cut(what)])
    values = [(v.trainable, keras.ops.convert_to_numpy(v)) for v in model.variables]
    return {
        "weights": digest(a for is_trained, a in values if is_trained),
        "statistics": digest(a for is_trained, a in values if not is_trained),
        "optimizer": digest(slots),
        "history": {name: list(map(float, series)) for name, series in history.items()},
        "callback": [own.sum, own.seen],
        "streams": [random.random(), np.random.random(), float(keras.random.uniform(()))],
        "from": None if saver.resumed_from is None else str(saver.resumed_from),
        "stopped": saver.stop_reason is not None,
    }


def digest(arrays):
    return hashlib.md5(b"".join(np.asarray(a).tobytes() for a in arrays)).hexdigest()[:8]


if __name__ == "__main__":
    for plan in sys.argv[2:]:
        name, _, what = plan.partition(":")
        found = train(os.path.join(sys.argv[1], name), what)
        print("RESULT", name, json.dumps(found), flush=True)
    if TORCH:
        import torch.distributed

        torch.distributed.destroy_process_group()
