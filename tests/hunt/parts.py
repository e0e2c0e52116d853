"""What projects are made of: layers, models, optimizers, data and callbacks, each of them small."""

import collections
import random

import keras
import numpy as np

import keras_ratchet

ROWS, WIDTH = 24, 4


class Seeded(keras.layers.Layer):
    """Draws from a SeedGenerator of its own."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, x, training=False):
        noise = keras.random.normal(keras.ops.shape(x), seed=self.seeds, dtype=self.compute_dtype)
        return x + 0.1 * noise if training else x


class Unseeded(keras.layers.Layer):
    """Draws from Keras's global seed generator."""

    def call(self, x, training=False):
        noise = keras.random.normal(keras.ops.shape(x), dtype=self.compute_dtype)
        return x + 0.1 * noise if training else x


class BackendNoise(keras.layers.Layer):
    """Draws from the backend's own stream, past Keras."""

    def call(self, x, training=False):
        if not training:
            return x
        if keras.backend.backend() == "torch":
            import torch

            return x + 0.1 * torch.randn_like(x)
        import tensorflow as tf

        return x + 0.1 * tf.random.normal(tf.shape(x), dtype=x.dtype)


class Running(keras.layers.Layer):
    """Keeps a mean of what it has seen, in a weight that is not trained."""

    def build(self, shape):
        self.mean = self.add_weight(
            shape=(shape[-1],), initializer="zeros", trainable=False, name="m"
        )

    def call(self, x, training=False):
        if training:
            batch = keras.ops.cast(keras.ops.mean(x, axis=0), self.mean.dtype)
            self.mean.assign(0.9 * self.mean + 0.1 * batch)
        return x - keras.ops.cast(self.mean, x.dtype)


class Extremes(keras.layers.Layer):
    """Keeps the extremes of what it has seen; they begin at infinity."""

    def build(self, shape):
        self.low = self.add_weight(
            shape=(shape[-1],), initializer=_infinite, trainable=False, name="low"
        )

    def call(self, x, training=False):
        batch = keras.ops.cast(keras.ops.min(x, axis=0), self.low.dtype)
        low = keras.ops.minimum(self.low, batch)
        if training:
            self.low.assign(low)
        return x - keras.ops.cast(low, x.dtype) * 0.1


def _infinite(shape, dtype=None):
    return keras.ops.full(shape, np.inf, dtype=dtype)


class Annealed(keras.layers.Layer):
    """Has a plain Python attribute that a callback changes."""

    def __init__(self):
        super().__init__()
        self.factor = 1.0

    def call(self, x):
        return x * self.factor


class OwnState(keras.layers.Layer):
    """Keeps state that is no Keras variable, and saves it by `save_own_variables`."""

    def __init__(self):
        super().__init__()
        self.seen = np.zeros((), "float32")

    def call(self, x):
        return x * keras.ops.cast(0.5 + 0.5 / (1 + self.seen), x.dtype)

    def save_own_variables(self, store):
        store["seen"] = self.seen

    def load_own_variables(self, store):
        self.seen = np.array(store["seen"])


class Buckets(keras.layers.Layer):
    """Turns numbers into indices for an Embedding."""

    def call(self, x):
        return keras.ops.clip(keras.ops.cast(x * 2 + 4, "int32"), 0, 7)

    def compute_output_shape(self, shape):
        return shape


class Attention(keras.layers.Layer):
    """Attends over the features of a row."""

    def __init__(self):
        super().__init__()
        self.inner = keras.layers.MultiHeadAttention(1, 3, dropout=0.2)

    def build(self, shape):
        self.inner.build((shape[0], shape[1], 1), (shape[0], shape[1], 1))

    def call(self, x, training=False):
        x = keras.ops.expand_dims(x, -1)
        return keras.ops.squeeze(self.inner(x, x, training=training), -1)


class Chain(keras.layers.Layer):
    """Layers one after another, as one layer with a shape as it was."""

    def __init__(self, chain):
        super().__init__()
        self.chain = list(chain)

    def get_config(self):
        return {"chain": [keras.layers.serialize(layer) for layer in self.chain]}

    def build(self, shape):
        for layer in self.chain:
            if not layer.built:
                layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def call(self, x, training=False):
        for layer in self.chain:
            x = layer(x, training=training) if layer._call_has_training_arg else layer(x)
        return x


def normalization():
    layer = keras.layers.Normalization()
    layer.adapt(rows()[0])
    return layer


def torch_module():
    import torch

    return keras.layers.TorchModuleWrapper(
        torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.BatchNorm1d(WIDTH)),
        output_shape=(None, WIDTH),
    )


class SeededMetric(keras.metrics.Metric):
    """Draws when its result is asked for, as ranking metrics with random ties do."""

    def __init__(self):
        super().__init__(name="ranked")
        self.seeds = keras.random.SeedGenerator(5)
        self.sum = self.add_weight(shape=(), initializer="zeros", name="sum")

    def update_state(self, y_true, y_pred, sample_weight=None):
        noise = keras.random.uniform(keras.ops.shape(y_pred), seed=self.seeds)
        hits = keras.ops.cast(y_pred, "float32") > noise
        self.sum.assign(self.sum + keras.ops.sum(keras.ops.cast(hits, "float32")))

    def result(self):
        return self.sum + 0.0


# -- training steps ------------------------------------------------------------------------------


class OwnStep(keras.Model):
    """Trains with a step of its own, and with as many optimizers as it was given."""

    second = None  # how the head's optimizer is kept
    late = None

    def train_step(self, *args):
        if keras.backend.backend() == "jax":
            return super().train_step(*args)
        x, y, weight = keras.utils.unpack_x_y_sample_weight(args[0])
        return (self._tf if keras.backend.backend() == "tensorflow" else self._torch)(x, y, weight)

    def _torch(self, x, y, weight):
        import torch

        self.zero_grad()
        predicted = self(x, training=True)
        loss = self.compute_loss(x, y, predicted, weight)
        loss.backward()
        own = getattr(self, "torch_optimizer", None)
        if own is not None:
            own.step()
        with torch.no_grad():
            for optimizer, variables in self.shares():
                optimizer.apply([v.value.grad for v in variables], variables)
        return self._measure(x, y, predicted, weight, loss)

    def _tf(self, x, y, weight):
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(x, y, predicted, weight)
        for optimizer, variables in self.shares():
            optimizer.apply_gradients(
                zip(tape.gradient(loss, variables), variables, strict=True),
            )
        return self._measure(x, y, predicted, weight, loss)

    def _measure(self, x, y, predicted, weight, loss):
        self._loss_tracker.update_state(loss)
        logs = self.compute_metrics(x, y, predicted, weight)
        if self.late is not None:
            if self.late == "wanted":
                self.late = keras.metrics.Mean(name="late")
            self.late.update_state(loss)
            logs["late"] = self.late.result()
        return logs

    def shares(self):
        """Return each optimizer with the variables that are its own."""
        variables = self.trainable_variables
        if getattr(self, "torch_optimizer", None) is not None:
            return [(self.optimizer, variables[:-2])]
        if self.second is None:
            return [(self.optimizer, variables)]
        return [(self.optimizer, variables[:-2]), (self.others()[0], variables[-2:])]

    def others(self):
        if self.second is None:
            return []
        held = self.second
        if isinstance(held, dict):
            return list(held.values())
        return list(held) if isinstance(held, list | tuple) else [held]

    def give(self, how, optimizer):
        """Keep a second optimizer as an attribute, in a list or in a dict."""
        optimizer.build(self.trainable_variables[-2:])
        self.optimizer.build(self.trainable_variables[:-2])
        self.second = {"attribute": optimizer, "list": [optimizer], "dict": {"h": optimizer}}[how]

    def give_torch(self):
        import torch

        head = [v.value for v in self.trainable_variables[-2:]]
        self.torch_optimizer = torch.optim.Adam(head, lr=2e-2)
        self.optimizer.build(self.trainable_variables[:-2])


# -- data ----------------------------------------------------------------------------------------


def rows(n=ROWS, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, WIDTH)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) > 0).astype("float32")


class Holder:
    """Something that is no array and holds the order of rows, as a table does."""

    def __init__(self, order):
        self.order = order

    def shuffled(self, rng):
        return Holder(rng.permutation(self.order))


class Batches(keras.utils.PyDataset):
    """Rows in an order that changes between epochs, kept in one of several ways."""

    def __init__(self, data, size, kind="plain", **workers):
        super().__init__(**workers)
        self.data, self.size, self.kind = data, size, kind
        self.order = np.arange(len(keras.tree.flatten(data)[0]))
        self.rng = np.random.default_rng(4)
        if kind == "object":
            self.order = Holder(self.order)

    @property
    def num_batches(self):
        return -(-len(keras.tree.flatten(self.data)[0]) // self.size)

    def __getitem__(self, index):
        order = self.order.order if self.kind == "object" else self.order
        chosen = order[index * self.size : (index + 1) * self.size]
        batch = keras.tree.map_structure(lambda a: a[chosen], self.data)
        if self.kind == "noisy":
            x = batch[0] + self.rng.normal(size=batch[0].shape) * 0.1
            x = x + np.random.normal(size=x.shape) * 0.1
            batch = (x.astype("float32"), *batch[1:])
        return batch

    def on_epoch_end(self):
        if self.kind == "object":
            self.order = self.order.shuffled(self.rng)
        else:
            self.rng.shuffle(self.order)


class Nested(keras.utils.PyDataset):
    """Hands on the batches of another."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    @property
    def num_batches(self):
        return self.inner.num_batches

    def __getitem__(self, index):
        return self.inner[index]

    def on_epoch_end(self):
        self.inner.on_epoch_end()


def loader(data, size, own_generator=False):
    import torch

    torch.manual_seed(7)
    tensors = keras.tree.map_structure(torch.from_numpy, data)

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(keras.tree.flatten(tensors)[0])

        def __getitem__(self, i):
            return keras.tree.map_structure(lambda t: t[i], tensors)

    generator = torch.Generator().manual_seed(6) if own_generator else None
    return torch.utils.data.DataLoader(Rows(), size, shuffle=True, generator=generator)


def tf_data(data, size, kind="shuffled"):
    import tensorflow as tf

    ds = tf.data.Dataset.from_tensor_slices(data).shuffle(16, seed=3)
    if kind == "random map":
        ds = ds.map(lambda x, *y: (x + 0.1 * tf.random.normal(tf.shape(x)), *y))
    ds = ds.batch(size)
    return ds.take(4) if kind == "take" else ds


def generator(data, size):
    rng = np.random.default_rng(8)
    n = len(keras.tree.flatten(data)[0])
    while True:
        chosen = rng.integers(n, size=size)
        yield keras.tree.map_structure(lambda a: a[chosen], data)  # noqa: B023


# -- callbacks -----------------------------------------------------------------------------------


def _nudge(model, amount):
    """Let training depend on a number."""
    bias = model.layers[-1].bias if hasattr(model.layers[-1], "bias") else model.weights[0]
    bias.assign(keras.ops.add(bias, amount * 0.01))


class Counts(keras.callbacks.Callback):
    """Has plain state, on which training depends."""

    def __init__(self):
        super().__init__()
        self.seen, self.losses = 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        self.losses.append(float(logs["loss"]))

    def on_epoch_end(self, epoch, logs=None):
        _nudge(self.model, self.seen + len(self.losses) % 3)


class Draws(keras.callbacks.Callback):
    """Draws from Python's and NumPy's streams, and from one of its own."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(2)

    def on_train_batch_end(self, batch, logs=None):
        _nudge(self.model, random.random() + np.random.random() + self.rng.random())


class Anneals(keras.callbacks.Callback):
    """Changes a plain attribute of a layer after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        for layer in self.model._flatten_layers():
            if isinstance(layer, Annealed):
                layer.factor *= 0.7
            if isinstance(layer, OwnState):
                layer.seen = layer.seen + np.float32(1)


class Freezes(keras.callbacks.Callback):
    """Freezes, or unfreezes, the first layer that has weights, when epoch 1 begins."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            layer = next(la for la in self.model.layers if la.weights)
            layer.trainable = not layer.trainable
            if hasattr(self.model, "make_train_function"):
                self.model.make_train_function(force=True)


class Measures(keras.callbacks.Callback):
    """Computes a metric every second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 2 == 0:
            logs["own"] = float(keras.ops.sum(keras.ops.abs(self.model.weights[0])))


class Poisons(keras.callbacks.Callback):
    """Makes a weight NaN once, in epoch 1."""

    def __init__(self):
        super().__init__()
        self.done = False

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1 and batch == 2 and not self.done:
            self.done = True
            weight = self.model.trainable_variables[-1]
            weight.assign(keras.ops.full(weight.shape, np.nan, dtype=weight.dtype))


class LooksInside(keras.callbacks.Callback):
    """Evaluates and predicts after each epoch, which sets metrics back."""

    def on_epoch_end(self, epoch, logs=None):
        x = rows(8, 9)[0]
        predicted = self.model.predict(x, batch_size=4, verbose=0)
        logs["looked"] = float(np.sum([np.sum(p) for p in keras.tree.flatten(predicted)]))


class SetsRates(keras.callbacks.Callback):
    """Sets the learning rate before each batch from a count of its own."""

    def __init__(self):
        super().__init__()
        self.step = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.step += 1
        self.model.optimizer.learning_rate = 0.01 / (1 + self.step % 7)


class SetsDropout(keras.callbacks.Callback):
    """Lowers the rate of the last Dropout layer after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        drops = [la for la in self.model._flatten_layers() if isinstance(la, keras.layers.Dropout)]
        drops[-1].rate *= 0.5
        if hasattr(self.model, "make_train_function"):
            self.model.make_train_function(force=True)


class SetsHyperparameters(keras.callbacks.Callback):
    """Changes plain numbers of the optimizer when epoch 1 begins."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.optimizer.clipnorm = 0.05
            if hasattr(self.model, "make_train_function"):
                self.model.make_train_function(force=True)


class HoldsThings(keras.callbacks.Callback):
    """Has state in a variable, a metric, a deque and a set."""

    def __init__(self):
        super().__init__()
        self.variable = keras.Variable(0.0)
        self.mean = keras.metrics.Mean()
        self.last = collections.deque(maxlen=3)
        self.kinds = set()

    def on_train_batch_end(self, batch, logs=None):
        self.variable.assign(self.variable + 1.0)
        self.mean.update_state(logs["loss"])
        self.last.append(batch)
        self.kinds.add(batch % 4)

    def on_epoch_end(self, epoch, logs=None):
        number = float(self.variable) % 7 + float(self.mean.result()) + sum(self.last)
        _nudge(self.model, number + len(self.kinds))


class SpoilsData(keras.callbacks.Callback):
    """Changes the training arrays in place after each epoch, as pseudo-labels do."""

    def __init__(self, y):
        super().__init__()
        self.y = keras.tree.flatten(y)

    def on_epoch_end(self, epoch, logs=None):
        for y in self.y:
            np.multiply(y, np.float32(0.9), out=y)


class StopsItself(keras.callbacks.Callback):
    """Stops in the middle of epoch 2."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 2 and batch == 2:
            self.model.stop_training = True


class OwnStopping(keras_ratchet.EarlyStopping):
    """A project's own subclass, with a number of its own."""

    def __init__(self, monitor):
        super().__init__(monitor, patience=1, min_delta=0.05, restore_best_weights=True)
        self.seen = 0

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.seen += 1
        _nudge(self.model, self.seen)
