"""Data whose state hides: in objects, in other data sets, in layers, in what is validated on."""

from collections import deque

import keras
import numpy as np
from support.resuming import BATCH, PER_EPOCH, arrays
from support.sources import Batches, generator, grain_data, loader, tf_data

from keras_ratchet.data import resumable


class Order:
    """An order of one's own, and the generator that shuffles it."""

    def __init__(self, n):
        self.rows, self.rng = np.arange(n), np.random.default_rng(4)

    def shuffle(self):
        self.rows = self.rng.permutation(self.rows)


class Row:
    """One row: an object that nothing is known of."""

    def __init__(self, x, y):
        self.x, self.y = x, y


class Table:
    """Stands for a DataFrame: every change gives a new one, and nobody can read it."""

    __slots__ = ("index", "x", "y")

    def __init__(self, x, y, index):
        self.x, self.y, self.index = x, y, index

    def shuffled(self):
        rows = np.random.default_rng(int(self.index[0])).permutation(len(self.index))
        return Table(self.x[rows], self.y[rows], self.index[rows])


class ByHand(keras.utils.PyDataset):
    """Rows in an order that `shuffle` changes between epochs."""

    num_batches = PER_EPOCH

    def __init__(self, **attributes):
        super().__init__()
        self.x, self.y = arrays()
        vars(self).update(attributes)

    def rows(self):
        return self.order.rows

    def __getitem__(self, index):
        rows = self.rows()[index * BATCH : (index + 1) * BATCH]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self):
        self.order.shuffle()


class OfRows(ByHand):
    """A list of objects, shuffled in place."""

    def __init__(self, kind):
        super().__init__()
        self.rng = np.random.default_rng(2)
        self.list = kind(Row(x, y) for x, y in zip(self.x, self.y, strict=True))

    def __getitem__(self, index):
        rows = list(self.list)[index * BATCH : (index + 1) * BATCH]
        return np.stack([row.x for row in rows]), np.stack([row.y for row in rows])

    def on_epoch_end(self):
        if isinstance(self.list, deque):
            self.list.rotate(int(self.rng.integers(len(self.list))))
        else:
            self.rng.shuffle(self.list)


class OfTable(ByHand):
    """The table itself is shuffled."""

    def __init__(self):
        super().__init__()
        self.table = Table(self.x, self.y, np.arange(len(self.x)))

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        return self.table.x[rows], self.table.y[rows]

    def on_epoch_end(self):
        self.table = self.table.shuffled()


class OfTorch(ByHand):
    """Draws from a torch.Generator into a tensor."""

    def __init__(self):
        import torch

        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.tensor = torch.arange(len(self.x))

    def rows(self):
        return self.tensor.numpy()

    def on_epoch_end(self):
        import torch

        self.tensor = torch.randperm(len(self.x), generator=self.generator)


class Outer(keras.utils.PyDataset):
    """Hands on what an inner data set has; the inner one knows it."""

    def __init__(self, inner):
        super().__init__()
        self.inner, inner.outer = inner, self

    @property
    def num_batches(self):
        return self.inner.num_batches

    def __getitem__(self, index):
        return self.inner[index]

    def on_epoch_end(self):
        self.inner.on_epoch_end()


class Turns(keras.utils.PyDataset):
    """Takes batches of several data sets in turn."""

    num_batches = PER_EPOCH

    def __init__(self, *inner):
        super().__init__()
        self.inner = list(inner)

    def __getitem__(self, index):
        return self.inner[index % len(self.inner)][index]

    def on_epoch_end(self):
        for one in self.inner:
            one.on_epoch_end()


class Augmented(ByHand):
    """Augments by a layer of Keras, and by a random generator that is a global name."""

    def __init__(self):
        super().__init__(order=Order(len(arrays()[0])))
        self.augment = keras.layers.GaussianNoise(0.3, seed=5)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        x = x + GLOBAL.normal(size=x.shape).astype("float32") * 0.1
        return keras.ops.convert_to_numpy(self.augment(x, training=True)), y


GLOBAL = np.random.default_rng(7)


def with_global(make):
    """Return what `make` returns, the global generator being new as in a new process."""
    global GLOBAL  # noqa: PLW0603
    GLOBAL = np.random.default_rng(7)
    return make()


def flipped(**how):
    """Return tf.data with an augmentation layer of Keras and ops of TensorFlow in `map`."""
    import tensorflow as tf

    flip = keras.layers.RandomFlip("horizontal", seed=1)
    draws = tf.random.Generator.from_seed(3)
    x, y = arrays()

    def augment(a, b):
        a = tf.reshape(flip(tf.reshape(a, (1, 4, 1)), training=True), (4,))
        return a + draws.normal((4,)) * 0.1, b

    ds = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(16, seed=3)
    ds = ds.map(augment, num_parallel_calls=how.get("calls"))
    if how.get("repeat"):
        ds = ds.repeat()
    ds = ds.batch(BATCH)
    return ds.prefetch(2) if how.get("prefetch") else ds


def as_written(dataset):
    """Return tf.data that draws no row before it is asked for: TensorFlow adds no stages to it."""
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.with_options(options)


def tf_ops():
    """Return tf.data that draws from TensorFlow's global random numbers in `map`."""
    import tensorflow as tf

    def augment(a, b):
        a = tf.image.random_brightness(tf.reshape(a, (1, 4, 1)), 0.3)
        return tf.reshape(a, (4,)) + tf.random.normal((4,)) * 0.1, b

    return tf.data.Dataset.from_tensor_slices(arrays()).map(augment).batch(BATCH)


def from_generator():
    """Return tf.data over a generator whose random numbers live over epochs."""
    import tensorflow as tf

    x, y = arrays()
    rng = np.random.default_rng(8)

    def rows():
        for i in rng.permutation(len(x)):
            yield x[i], y[i]

    spec = tf.TensorSpec((4,), tf.float32), tf.TensorSpec((1,), tf.float32)
    return tf.data.Dataset.from_generator(rows, output_signature=spec).batch(BATCH)


def of_objects():
    """Return a DataLoader over rows that are augmented by a generator of the data set's own."""
    import torch

    class Rows(torch.utils.data.Dataset):
        def __init__(self):
            self.x, self.y = map(torch.from_numpy, arrays())
            self.rng = np.random.default_rng(9)

        def __len__(self):
            return len(self.x)

        def __getitem__(self, i):
            return self.x[i] + float(self.rng.normal()) * 0.1, self.y[i]

    torch.manual_seed(7)
    rows = torch.utils.data.Subset(Rows(), list(range(len(arrays()[0]))))
    return torch.utils.data.DataLoader(rows, batch_size=BATCH, shuffle=True)


N = PER_EPOCH
HIDDEN = {
    "PyDataset, order in an object": lambda: {"x": ByHand(order=Order(40))},
    "PyDataset, list of objects": lambda: {"x": OfRows(list)},
    "PyDataset, deque of objects": lambda: {"x": OfRows(deque)},
    "PyDataset, table": lambda: {"x": OfTable()},
    "PyDataset, torch's generator and tensors": lambda: {"x": OfTorch()},
    "PyDataset, layers and global generators": lambda: with_global(lambda: {"x": Augmented()}),
    "PyDataset in a PyDataset": lambda: {"x": Outer(Batches())},
    "PyDatasets in turn": lambda: {"x": Turns(Batches(), ByHand(order=Order(40)))},
    "DataLoader, generator in its data set": lambda: {"x": of_objects()},
    "tf.data, layers in map": lambda: {"x": flipped()},
    "tf.data, layers in map, no optimizations": lambda: {"x": as_written(flipped())},
    "tf.data, layers in map, prefetch": lambda: {"x": flipped(prefetch=True)},
    "tf.data, layers in parallel map": lambda: {"x": flipped(calls=2)},
    "tf.data, tf.random and tf.image in map": lambda: {"x": tf_ops()},
    "tf.data, from_generator": lambda: {"x": from_generator()},
    "resumable(tf.data, layers in map)": lambda: {"x": resumable(flipped())},
    "resumable(tf.data, layers in map, prefetch)": lambda: {"x": resumable(flipped(prefetch=True))},
    "resumable(tf.data, layers in map, repeat())": lambda: {
        "x": resumable(flipped(repeat=True), N)
    },
    "resumable(tf.data, layers in parallel map)": lambda: {"x": resumable(flipped(calls=2))},
    "resumable(tf.data, tf.random in map)": lambda: {"x": resumable(tf_ops())},
    "resumable(tf.data, from_generator)": lambda: {"x": resumable(from_generator(), N)},
}
HIDDEN_WARNED = {
    "PyDataset, table": r"has changed OfTable.table",
    "tf.data, layers in map": {"tensorflow": None, "": "drawn random numbers ahead"},
    "tf.data, layers in parallel map": "in parallel",
    "tf.data, layers in map, prefetch": {"tensorflow": None, "": "drawn random numbers ahead"},
    "resumable(tf.data, layers in parallel map)": "in parallel",
}


class Halves(ByHand):
    """Validates on another part in each epoch."""

    num_batches = 4

    def __init__(self):
        super().__init__(order=Order(len(arrays()[0])))


def validated(validation, **fit):
    x, y = arrays()
    return {"x": x, "y": y, "batch_size": BATCH, "validation_data": validation, **fit}


def split():
    x, y = arrays(rows=50)
    return {"x": x, "y": y, "batch_size": BATCH, "validation_split": 0.2}


def val_loader(**how):
    import torch

    if how.pop("samples", False):
        rows = range(len(arrays()[0]))
        drawn = torch.Generator().manual_seed(2)
        how["sampler"] = torch.utils.data.RandomSampler(rows, num_samples=12, generator=drawn)
        how["shuffle"] = None
    return loader(**how)


def both(dataset):
    return {"x": dataset, "validation_data": dataset}


def with_workers(make):
    dataset = make()
    dataset._workers, dataset._use_multiprocessing = 2, True
    return dataset


def shared_shuffle():
    """Return what is often written: parts of one shuffled set, which leak into each other."""
    rows = tf_data().unbatch()
    return {"x": rows.take(28).batch(BATCH), "validation_data": rows.skip(28).batch(BATCH)}


VALIDATION = {
    "validation_split": split,
    "validation: arrays": lambda: validated(arrays()),
    "validation: PyDataset": lambda: validated(Halves()),
    "validation: PyDataset, 2 processes": lambda: validated(with_workers(Halves)),
    "validation: PyDataset, validation_freq=2": lambda: validated(Halves(), validation_freq=2),
    "validation: PyDataset, that of training": lambda: both(Batches()),
    "validation: table": lambda: validated(OfTable()),
    "validation: tf.data, shuffle().take()": lambda: validated(
        tf_data().unbatch().take(12).batch(4)
    ),
    "validation: tf.data, validation_steps": lambda: validated(tf_data(), validation_steps=3),
    "validation: tf.data of unknown length": lambda: validated(tf_data(unknown=True)),
    "validation: tf.data, layers in map": lambda: validated(flipped()),
    "validation: tf.data, layers in map, take()": lambda: validated(flipped().take(3)),
    "validation: tf.data, rest of one shuffle": shared_shuffle,
    "validation: DataLoader, random sampler": lambda: validated(val_loader(samples=True)),
    "validation: DataLoader, persistent workers in order": lambda: validated(
        loader(2, persistent_workers=True, shuffle=False)
    ),
    "validation: grain": lambda: validated(grain_data("map")),
    "validation: generator": lambda: validated(generator(), validation_steps=3),
    "validation: resumable(generator)": lambda: validated(resumable(generator(), 3)),
    "validation: resumable(tf.data, layers in map)": lambda: validated(resumable(flipped())),
}
VALIDATION_WARNED = {
    "validation: tf.data, layers in map, take()": "Validation: When a pass over this tf.data",
    "validation: table": r"has changed validation OfTable.table",
    "validation: generator": "Validation: A Python generator cannot be rewound",
}
