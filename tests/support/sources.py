"""Every kind of data that `fit` takes, each made anew on every call."""

import importlib.util
import threading

import keras
import numpy as np
import pytest
from support.resuming import BATCH, PER_EPOCH, arrays

from keras_ratchet.data import ResumableDataset, resumable


def numpy_arrays():
    x, y = arrays()
    return {"x": x, "y": y, "batch_size": BATCH, "shuffle": True}


class Batches(keras.utils.PyDataset):
    """Augments from NumPy's global stream and from one of its own; shuffles between epochs."""

    def __init__(self, augmented=True, **workers):
        super().__init__(**workers)
        self.x, self.y = arrays()
        self.order = np.arange(len(self.x))
        self.rng = np.random.default_rng(4)
        self.augmented = augmented

    @property
    def num_batches(self):
        return PER_EPOCH

    def __getitem__(self, index):
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        x = self.x[rows]
        if self.augmented:
            x = x + np.random.normal(size=x.shape) * 0.1 + self.rng.normal(size=x.shape) * 0.1
        return x.astype("float32"), self.y[rows]

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


def augment(x, y, rng):
    return x + rng.normal(size=x.shape).astype("float32") * 0.1, y


def dataset(**workers):
    return ResumableDataset(*arrays(), BATCH, seed=2, augment=augment, **workers)


def tf_data(**how):
    import tensorflow as tf

    ds = tf.data.Dataset.from_tensor_slices(arrays()).shuffle(16, seed=3)
    if how.get("unknown"):
        ds = ds.filter(lambda x, y: True)
    ds = ds.batch(BATCH)
    return ds.repeat() if how.get("repeat") else ds


def _torch_rows():
    import torch

    class Rows(torch.utils.data.Dataset):
        def __init__(self, noisy):
            self.x, self.y = map(torch.from_numpy, arrays())
            self.noisy = noisy

        def __len__(self):
            return len(self.x)

        def __getitem__(self, i):
            noise = 0.1 * torch.randn(4) + np.float32(np.random.normal()) if self.noisy else 0
            return self.x[i] + noise, self.y[i]

    return Rows


def _as_main_thread(worker):
    """Let a worker that was forked by one of tensorflow's threads end with code 0.

    Python before 3.11.9 does not make that thread the child's main thread, its last assertion
    fails, and torch's handler raises a RuntimeError in whatever the trainer does (gh-102512).
    """
    thread = threading.main_thread()
    if thread._tstate_lock is None:
        thread._set_tstate_lock()


def loader(workers=0, own_generator=False, noisy=False, stateful=False, **how):
    import torch

    torch.manual_seed(7)  # Keras seeds it on its own backend only
    if own_generator:
        how["generator"] = torch.Generator().manual_seed(6)
    kind = torch.utils.data.DataLoader
    if stateful:
        kind = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    rows = _torch_rows()(noisy)
    if workers and hasattr(threading.Thread, "_set_tstate_lock"):
        how["worker_init_fn"] = _as_main_thread
    how = {"batch_size": BATCH, "shuffle": True, "num_workers": workers, **how}
    return kind(rows, **how)


def grain_data(kind="map"):
    grain = pytest.importorskip("grain")
    x, y = arrays()
    if kind == "loader":
        sampler = grain.samplers.IndexSampler(len(x), shuffle=True, seed=1, num_epochs=1)
        rows = list(zip(x, y, strict=True))
        operations = [grain.transforms.Batch(BATCH)]
        return grain.DataLoader(data_source=rows, sampler=sampler, operations=operations)
    ds = grain.MapDataset.source(list(zip(x, y, strict=True))).seed(1).shuffle()
    ds = ds.random_map(lambda row, rng: (row[0] + rng.normal() * np.float32(0.1), row[1]))
    ds = ds.map(lambda row: (row[0].astype("float32"), row[1]))
    if kind == "repeat":
        ds = ds.repeat()
    ds = ds.batch(BATCH)
    if kind == "map":
        return ds
    ahead = 50  # batches read ahead: five epochs; the default of 500 costs a second for each pass
    return ds.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=ahead))


def generator():
    x, y = arrays()
    rng = np.random.default_rng(8)
    while True:
        rows = rng.integers(len(x), size=BATCH)
        yield x[rows] + np.random.normal() * np.float32(0.1), y[rows]


class Counting:
    """Lives over epochs, and has a state."""

    def __init__(self):
        self.x, self.y = arrays()
        self.at = 0

    def __iter__(self):
        while True:
            rows = (np.arange(BATCH) * 7 + 5 * self.at) % len(self.x)
            self.at += 1
            yield self.x[rows] * np.float32(np.random.uniform(0.9, 1)), self.y[rows]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def _wrapped(make, **arguments):
    return {"x": resumable(make(), **arguments)}


N = PER_EPOCH
LOADERS = {
    "0 workers": {},
    "2 workers": {"workers": 2},
    "0 workers, generator=": {"own_generator": True},
    "2 workers, generator=": {"workers": 2, "own_generator": True},
}
HAS_TF = importlib.util.find_spec("tensorflow") is not None

SOURCES = {
    "NumPy arrays, shuffled": numpy_arrays,
    "PyDataset, 0 workers": lambda: {"x": Batches(workers=0)},
    "PyDataset, 3 threads": lambda: {"x": Batches(False, workers=3)},
    "PyDataset, 2 processes": lambda: {"x": Batches(False, workers=2, use_multiprocessing=True)},
    "tf.data, shuffled with a seed": lambda: {"x": tf_data()},
    "tf.data of unknown length": lambda: {"x": tf_data(unknown=True)},
    "tf.data, repeat()": lambda: {"x": tf_data(repeat=True), "steps_per_epoch": N},
    **{
        f"DataLoader, {name}": lambda how=how: {"x": loader(noisy=how.get("workers", 0) > 0, **how)}
        for name, how in LOADERS.items()
    },
    "DataLoader, persistent workers": lambda: {"x": loader(2, persistent_workers=True)},
    "StatefulDataLoader": lambda: {"x": loader(stateful=True)},
    "grain MapDataset": lambda: {"x": grain_data("map")},
    "grain IterDataset": lambda: {"x": grain_data("iter")},
    "grain DataLoader": lambda: {"x": grain_data("loader")},
    "grain, repeat()": lambda: {"x": grain_data("repeat"), "steps_per_epoch": N},
    "generator": lambda: {"x": generator(), "steps_per_epoch": N},
    "ResumableDataset, 0 workers": lambda: {"x": dataset(workers=0)},
    "ResumableDataset, 3 threads": lambda: {"x": dataset(workers=3)},
    "ResumableDataset, 2 processes": lambda: {"x": dataset(workers=2, use_multiprocessing=True)},
    **{
        f"resumable(DataLoader, {name})": lambda how=how: _wrapped(
            lambda: loader(noisy=True, **how)
        )
        for name, how in LOADERS.items()
    },
    "resumable(DataLoader, persistent workers)": lambda: _wrapped(
        lambda: loader(2, noisy=True, persistent_workers=True)
    ),
    "resumable(StatefulDataLoader, 0 workers)": lambda: _wrapped(
        lambda: loader(stateful=True, noisy=True)
    ),
    "resumable(StatefulDataLoader, generator=)": lambda: _wrapped(
        lambda: loader(stateful=True, own_generator=True)
    ),
    "resumable(StatefulDataLoader, 2 workers)": lambda: _wrapped(
        lambda: loader(2, stateful=True, noisy=True)
    ),
    "resumable(tf.data)": lambda: _wrapped(tf_data),
    "resumable(tf.data, 7 batches per epoch)": lambda: _wrapped(tf_data, batches_per_epoch=7),
    "resumable(tf.data, repeat())": lambda: _wrapped(
        lambda: tf_data(repeat=True), batches_per_epoch=N
    ),
    "resumable(grain MapDataset)": lambda: _wrapped(lambda: grain_data("map")),
    "resumable(grain, repeat())": lambda: _wrapped(
        lambda: grain_data("repeat"), batches_per_epoch=N
    ),
    "resumable(grain DataLoader)": lambda: _wrapped(
        lambda: grain_data("loader"), batches_per_epoch=N
    ),
    "resumable(grain iterator)": lambda: _wrapped(
        lambda: iter(grain_data("repeat")), batches_per_epoch=N
    ),
    "resumable(generator function)": lambda: _wrapped(lambda: generator, batches_per_epoch=N),
    "resumable(generator)": lambda: _wrapped(generator, batches_per_epoch=N),
    "resumable(PyDataset)": lambda: _wrapped(Batches),
    "resumable(list of batches)": lambda: _wrapped(
        lambda: [b for b, _ in zip(generator(), range(N), strict=False)]
    ),
    "resumable(object with state_dict)": lambda: _wrapped(Counting, batches_per_epoch=N),
}
WARNED = {
    "tf.data, repeat()": "steps_per_epoch",
    "DataLoader, persistent workers": "workers of this DataLoader persist across epochs",
    "StatefulDataLoader": "keeps its position",
    "grain, repeat()": "steps_per_epoch",
    "generator": "steps_per_epoch|generator cannot be rewound",
}
