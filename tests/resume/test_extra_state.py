"""State of a model that is none of its Keras variables, over an interruption."""

import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from support.resuming import Kill, Script

from keras_ratchet import _backends
from keras_ratchet._engine.capture.model_state import named_extras

BACKEND = keras.backend.backend()
only_torch = pytest.mark.skipif(BACKEND != "torch", reason="torch's modules live on torch only")
only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="needs tf.Variable")


def data(rows=40, shape=(4,)):
    x = np.random.default_rng(0).normal(size=(rows, *shape)).astype("float32")
    return {"x": x, "y": x.sum(axis=tuple(range(1, x.ndim)))[:, None], "batch_size": 4}


def compiled(*layers, **arguments):
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False, **arguments)
    return model


def extras(model):
    view = _backends.current().view
    return {name: view(variable).tobytes() for name, variable in named_extras(model).items()}


def assert_exact(directory, make, source=data, count=None, **script):
    """Assert that runs that are killed end like one that is not, extras included."""
    models = []

    def made():
        models.append(make())
        return models[-1]

    script = Script(str(directory / "b"), source, make=made, backup={"save_freq": 3}, **script)
    whole = script.uninterrupted()
    expected = extras(models[-1])
    assert count is None or len(expected) == count
    outcome = script.chain(Kill(epoch=0), Kill(batches=15))
    assert outcome.differences(whole) == []
    assert extras(models[-1]) == expected


def torch_layer():
    import torch

    module = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    return keras.layers.TorchModuleWrapper(module)


@only_torch
def test_buffers_of_torch_modules_are_kept(tmp_path):
    assert_exact(tmp_path, lambda: compiled(keras.Input((4,)), torch_layer()), count=3)


@only_torch
def test_buffers_of_keras_layers_and_unwrapped_modules_are_kept(tmp_path):
    import torch

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.norms = [torch.nn.BatchNorm1d(4, affine=False)]  # Keras does not wrap it here
            self.register_buffer("seen", torch.zeros(()))

        def call(self, x, training=False):
            self.norms[0].train(training)
            self.seen += 1
            return self.dense(self.norms[0](x) * (1 + self.seen / 100))

    def make():
        model = Own()
        model.compile(keras.optimizers.SGD(0.01), "mse")
        return model

    assert_exact(tmp_path, make, count=4)


class Drawn(keras.metrics.Mean):
    """A metric with random numbers of its own."""

    def __init__(self, name="drawn"):
        super().__init__(name=name)
        self.seed = keras.random.SeedGenerator(7)

    def update_state(self, y, p, sample_weight=None):
        super().update_state(keras.random.uniform((), seed=self.seed))


class Noisy(keras.losses.Loss):
    """A loss with random numbers of its own, in an object of the user's."""

    class Source:
        def __init__(self):
            self.seeds = [keras.random.SeedGenerator(3)]

    def __init__(self):
        super().__init__()
        self.source = self.Source()

    def call(self, y, p):
        noise = keras.random.normal((), seed=self.source.seeds[0])
        return keras.ops.mean((y - p) ** 2, axis=-1) * (1 + 0.1 * noise)


def test_seeds_of_metrics_are_kept(tmp_path):
    def make():
        model = compiled(keras.Input((4,)), keras.layers.Dense(1), metrics=[Drawn()])
        return model

    assert_exact(tmp_path, make, count=1)


def test_seeds_of_losses_are_kept(tmp_path):
    def make():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), Noisy(), jit_compile=False)
        return model

    assert_exact(tmp_path, make, count=1)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras cannot train a stateful RNN on torch")
def test_states_of_stateful_layers_are_kept(tmp_path):
    def make():
        rnn = keras.layers.LSTM(3, stateful=True)
        return compiled(keras.Input(batch_shape=(4, 5, 2)), rnn, keras.layers.Dense(1))

    fit = {"shuffle": False}
    assert_exact(tmp_path, make, lambda: data(40, (5, 2)), count=2, fit=fit)


@only_tensorflow
def test_variables_and_generators_of_tensorflow_are_kept(tmp_path):
    import tensorflow as tf

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.beta = tf.Variable(1.0, trainable=False)
            self.scales = {"a": [tf.Variable([1.0, 2.0])]}
            self.rng = tf.random.Generator.from_seed(1)

        def call(self, x):
            return self.dense(x)

        def compute_loss(self, *args, **kwargs):
            self.beta.assign(self.beta * 0.9)
            noise = tf.reduce_sum(self.rng.normal((2,)) * self.scales["a"][0])
            return (self.beta + 0.01 * noise) * super().compute_loss(*args, **kwargs)

    def make():
        model = Own()
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
        return model

    assert_exact(tmp_path, make, count=3)


def test_a_place_that_is_gone_is_told(tmp_path):
    def make(metrics):
        return lambda: compiled(keras.Input((4,)), keras.layers.Dense(1), metrics=metrics())

    class Plain(keras.metrics.Mean):
        def update_state(self, y, p, sample_weight=None):
            super().update_state(keras.ops.mean(p))

    script = Script(str(tmp_path / "b"), data, make=make(lambda: [Drawn()]))
    assert script.run(Kill(epoch=1)) is None
    script.make = make(lambda: [Plain("drawn")])
    with pytest.warns(
        UserWarning, match="has no place in this model: metric 01._user_metrics/0.seed"
    ):
        script.run()


@pytest.mark.parametrize("saved_scale", [10.0])
def test_normalization_uses_the_statistics_that_were_restored(tmp_path, saved_scale):
    scales = iter([saved_scale, 1.0])  # the data has grown between the two runs
    models = []

    def make():
        norm = keras.layers.Normalization()
        norm.adapt(data()["x"] * next(scales))
        models.append(compiled(norm, keras.layers.Dense(1)))
        models[-1].build((None, 4))
        return models[-1]

    script = Script(str(tmp_path / "b"), data, make=make)
    assert script.run(Kill(epoch=1)) is None
    script.run()
    live = models[-1].predict(data()["x"], verbose=0)
    models[-1].save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(live, again.predict(data()["x"], verbose=0))


def zoo():
    """Yield ordinary models, with data that fit them."""
    L = keras.layers
    flat = data(8)
    yield (
        compiled(
            keras.Input((4,)),
            L.Dense(4, activation="relu"),
            L.BatchNormalization(),
            L.Dropout(0.3),
            L.GaussianNoise(0.1),
            L.Dense(1),
            metrics=["mae", keras.metrics.MeanSquaredError(name="own")],
        ),
        flat,
    )
    image = data(8, (6, 6, 1))
    yield (
        compiled(
            keras.Input((6, 6, 1)),
            L.RandomFlip(),
            L.SpectralNormalization(L.Conv2D(2, 3)),
            L.GlobalAveragePooling2D(),
            L.Dense(1),
        ),
        image,
    )
    yield (
        compiled(keras.Input((5, 2)), L.Bidirectional(L.LSTM(3, dropout=0.1)), L.Dense(1)),
        data(8, (5, 2)),
    )


def test_ordinary_models_have_no_extra_state_and_no_warnings(tmp_path):
    for i, (net, source) in enumerate(zoo()):
        assert named_extras(net) == {}
        if BACKEND == "jax" and i:  # compiling takes long
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            backup = Script(
                str(tmp_path / str(i)), lambda source=source: source, make=lambda net=net: net
            )
            assert backup.run() is not None
        assert named_extras(net) == {}


MIRRORED = """
import sys, keras, numpy as np, tensorflow as tf
import keras_ratchet

class Other(keras.callbacks.Callback):
    def __init__(self, dies, statistics, seen):
        super().__init__()
        self.dies, self.statistics, self.seen = dies, statistics, seen
    def on_epoch_begin(self, epoch, logs=None):
        if self.dies and epoch == 2:
            raise RuntimeError("killed")
    def on_epoch_end(self, epoch, logs=None):
        logs["fake"] = -float(epoch)
        if epoch == 0:
            self.seen.append(self.statistics())

def run(directory, dies, seen):
    keras.utils.set_random_seed(1)
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        norm = keras.layers.BatchNormalization()
        model = keras.Sequential([keras.Input((6,)), norm, keras.layers.Dense(1)])
        model.compile("adam", "mse")
    def statistics():
        return [r.numpy().tolist() for v in norm.non_trainable_variables for r in v.value.values]
    backup = keras_ratchet.BackupAndRestore(directory)
    best = keras_ratchet.EarlyStopping("fake", mode="max", patience=9, restore_best_weights=True)
    others = [Other(dies, statistics, seen), best]
    try:
        history = model.fit(x, x.sum(1, keepdims=True), validation_split=0.5, epochs=3,
                            batch_size=8, verbose=0, callbacks=[*others, backup]).history
    except RuntimeError:
        backup._store.end()
        return None
    assert seen[0] == statistics() and seen[0][0] != seen[0][1], (seen, statistics())
    return history

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
whole = run(sys.argv[1] + "/a", False, [])
seen = []
assert run(sys.argv[1] + "/b", True, seen) is None
assert run(sys.argv[1] + "/b", False, seen) == whole
print("exact")
"""


@only_tensorflow
def test_each_replica_of_a_mirrored_strategy_gets_its_own_statistics_back(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MIRRORED, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=240,
        check=False,
    )
    assert done.stdout.strip().endswith("exact"), done.stderr[-2000:]
