"""Resume is exact whatever `compile` and `fit` were told."""

import keras
import numpy as np
import pytest
from support.resuming import EPOCHS, PER_EPOCH, Kill, Script, arrays, model
from support.sources import numpy_arrays
from support.versions import AT_MOST_3_15

STEPS = PER_EPOCH * EPOCHS


def sgd(**how):
    return keras.optimizers.SGD(0.05, momentum=0.9, **how)


def adam(**how):
    return keras.optimizers.Adam(1e-2, **how)


def with_policy(policy):
    """Return a model whose layers have a dtype policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return model()
    finally:
        keras.config.set_dtype_policy(before)


def overflowing():
    """Return a float16 model whose first loss scales are too large."""
    optimizer = keras.optimizers.LossScaleOptimizer(adam(), initial_scale=2.0**24)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return model(optimizer)
    finally:
        keras.config.set_dtype_policy(before)


def images():
    x, y = arrays(features=48)
    return {"x": x.reshape(-1, 4, 4, 3), "y": y, "batch_size": 4}


def augmenting():
    """Return a model whose first layers draw from SeedGenerators of their own."""
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.RandomFlip(seed=1),
            layers.RandomTranslation(0.3, 0.3, seed=2),
            layers.GaussianNoise(0.1),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    net.compile(adam(), "binary_crossentropy", jit_compile=False)
    return net


class Unseeded(keras.layers.Layer):
    """Draws from Keras's global seed generator."""

    def call(self, x, training=False):
        return x + 0.1 * keras.random.normal(keras.ops.shape(x)) if training else x


class OwnVariables(keras.layers.Layer):
    """Keeps seeds in a list, and a counter as a loose variable."""

    def __init__(self):
        super().__init__()
        self.seeds = [keras.random.SeedGenerator(1), keras.random.SeedGenerator(2)]
        self.calls = self.add_weight(shape=(), trainable=False, dtype="int32", name="calls")

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1)
            x = x + 0.1 * sum(keras.random.normal(keras.ops.shape(x), seed=s) for s in self.seeds)
        return x


def weighted():
    x, _ = arrays()
    return {**numpy_arrays(), "sample_weight": np.linspace(0.1, 2, len(x)).astype("float32")}


def schedule():
    return keras.optimizers.schedules.CosineDecay(0.05, STEPS, warmup_target=0.1, warmup_steps=5)


OPTIONS = {
    "eager": {"make": lambda: model(run_eagerly=True)},
    "mixed_float16 with an overflow": {"make": overflowing},
    "mixed_bfloat16": {"make": lambda: with_policy("mixed_bfloat16")},
    "use_ema": {"make": lambda: model(sgd(use_ema=True, ema_momentum=0.7))},
    "use_ema overwriting every 4 steps": {
        "make": lambda: model(adam(use_ema=True, ema_overwrite_frequency=4))
    },
    "SwapEMAWeights": {
        "make": lambda: model(adam(use_ema=True)),
        "callbacks": lambda: [keras.callbacks.SwapEMAWeights()],
        "fit": {"validation_split": 0.2},
    },
    "SwapEMAWeights on the epoch": {
        "make": lambda: model(adam(use_ema=True)),
        "callbacks": lambda: [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
    },
    "gradient accumulation": {"make": lambda: model(adam(gradient_accumulation_steps=4))},
    "LearningRateSchedule": {"make": lambda: model(keras.optimizers.Adam(schedule()))},
    "clipping and weight decay": {
        "make": lambda: model(keras.optimizers.AdamW(1e-2, weight_decay=0.01, global_clipnorm=0.1))
    },
    "augmentation layers": {"make": augmenting, "data": images},
    "own variables": {"make": lambda: model(layers=[OwnVariables()])},
    "class_weight": {"fit": {"class_weight": {0: 0.3, 1: 2.0}}},
    "sample_weight": {"data": weighted, "make": lambda: model(weighted_metrics=["mae"])},
    "validation_split and shuffle='batch'": {"fit": {"validation_split": 0.2, "shuffle": "batch"}},
    "validation every second epoch": {"fit": {"validation_data": arrays(), "validation_freq": 2}},
    "built only when training begins": {"make": lambda: model(built=False)},
    "float64 metrics and two losses": {"make": lambda: model(metrics=["mae", "accuracy", "mse"])},
}
ON = {
    "jit_compile": (("jax", "tensorflow"), {"make": lambda: model(jit_compile=True)}),
    "steps_per_execution=4": (
        ("jax", "tensorflow") if AT_MOST_3_15 else ("torch", "jax", "tensorflow"),
        {"make": lambda: model(steps_per_execution=4)},
    ),
    "unseeded keras.random": (
        ("torch", "tensorflow"),
        {"make": lambda: model(layers=[Unseeded()])},
    ),
}


def check(option, tmp_path):
    option = {"data": numpy_arrays, **option}
    script = Script(str(tmp_path / "whole"), **option)
    whole = script.uninterrupted()
    script.directory = str(tmp_path / "middle")
    assert script.chain(Kill(17), save_freq=3).differences(whole) == []
    script.directory = str(tmp_path / "ends")
    assert script.chain(Kill(epoch=1), save_freq="epoch").differences(whole) == []
    return whole


@pytest.mark.parametrize("name", OPTIONS)
def test_a_killed_training_ends_as_one_that_was_not(name, tmp_path):
    check(OPTIONS[name], tmp_path)


@pytest.mark.parametrize("name", ON)
def test_what_not_every_backend_has(name, tmp_path, backend):
    backends, option = ON[name]
    if backend not in backends:
        pytest.skip(f"{name} is not for {backend}")
    check(option, tmp_path)


def test_the_overflow_did_happen(tmp_path):
    """Control: the loss scale was lowered, so fewer updates than steps were made."""
    script = Script(str(tmp_path / "b"), numpy_arrays, make=overflowing)
    outcome = script.run(backup=False)
    assert (
        any(v.dtype == np.float32 and v.shape == () and v == 2.0**24 for v in outcome.optimizer)
        is False
    )
    assert STEPS not in [int(v) for v in outcome.optimizer if v.shape == ()]
