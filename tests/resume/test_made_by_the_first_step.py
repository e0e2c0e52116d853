"""What only the first step makes: metrics, optimizers, and models that nobody can build before."""

import keras
import numpy as np
import pytest
from support.many_optimizers import BACKEND, gradients
from support.resuming import Kill, Script, arrays

from keras_ratchet.errors import ResumeError

KILLS = {"between": Kill(20), "within": Kill(17)}
each_kill = pytest.mark.parametrize("kill", KILLS.values(), ids=KILLS)


class LateMetric(keras.Model):
    """Makes a metric in its first step, as ensembles of approximators do."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        logs = super().train_step(data)
        if "extra" not in self.metrics_names:
            self._metrics.append(keras.metrics.Mean(name="extra"))
        self.metrics[-1].update_state(logs["loss"])
        return logs | {"extra": self.metrics[-1].result()}


class NoCall(keras.Model):
    """Has no `call`, and parts that its first step builds (VAE, captioning, SimCLR)."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.layers.Dense(2), keras.layers.Dropout(0.2, seed=3)])
        self.decoder = keras.Sequential([keras.layers.Dense(4)])
        self.tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.tracker]

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self.decoder(self.encoder(x, training=True)) - x) ** 2)
        weights = self.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


class Eager(keras.Model):
    """Runs eagerly only: its `call` looks at values."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x) * float(x.numpy().shape[1] > 0)


def data():
    x, y = arrays()
    return {"x": x, "y": y, "batch_size": 4}


def unsupervised():
    return {"x": arrays()[0], "batch_size": 4}


def late_metric():
    model = LateMetric()
    model(np.ones((1, 4), "float32"))
    model.compile(keras.optimizers.Adam(1e-2), "mse", jit_compile=False)
    return model


def no_call(built=False):
    def make():
        model = NoCall()
        model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
        if built:
            model.built = True
        return model

    return make


def eager():
    model = Eager()
    model.compile(keras.optimizers.Adam(1e-2), "mse", run_eagerly=True)
    return model


def script(tmp_path, make, data):
    return Script(str(tmp_path / "b"), data, make, backup={"save_freq": 5})


@pytest.mark.skipif(BACKEND == "jax", reason="a step makes no metrics there")
@each_kill
def test_metrics_that_a_step_makes_resume(tmp_path, kill):
    run = script(tmp_path, late_metric, data)
    whole = run.uninterrupted()
    assert run.chain(kill).differences(whole) == []


only_tensorflow = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="elsewhere Keras builds a model before it trains, or fails"
)


@only_tensorflow
@each_kill
@pytest.mark.parametrize("make", [no_call(), no_call(True), eager], ids=["none", "built", "eager"])
def test_models_that_only_their_first_step_builds_resume(tmp_path, make, kill):
    run = script(tmp_path, make, data if make is eager else unsupervised)
    whole = run.uninterrupted()
    assert run.chain(kill, Kill(27)).differences(whole) == []


@only_tensorflow
def test_where_no_step_is_left_to_build_it_the_error_names_the_cure(tmp_path):
    run = script(tmp_path, no_call(), unsupervised)
    assert run.run() is not None
    with pytest.raises(ResumeError, match=r"does not have yet.*model\(x\[:1\]\)"):
        run.run()


@pytest.mark.skipif(BACKEND == "jax", reason="needs steps with optimizers of theirs")
def test_gradients_of_the_support_are_gradients():
    variable = keras.Variable(np.array([2.0], "float32"))
    loss, (gradient,) = gradients(lambda: keras.ops.sum(variable * variable), [variable])
    assert float(loss) == 4.0
    assert float(gradient[0]) == 4.0
