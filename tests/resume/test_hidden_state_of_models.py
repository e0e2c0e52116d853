"""State of a model that only its functions and classes have: named, and saved for schedules."""

import warnings

import keras
import numpy as np
import pytest
from support.resuming import Kill, Script, model
from support.sources import numpy_arrays

BACKEND = keras.backend.backend()
SEED = keras.random.SeedGenerator(3)
COUNT, TABLE, UNUSED, SCALE = 0, {"n": 0}, [1, 2], np.ones(2)
EAGER = {"run_eagerly": BACKEND != "torch"}


class OfClass(keras.layers.Layer):
    steps, limit = 0, 7

    def call(self, x):
        type(self).steps += 1
        return x * self.limit


class OfGlobal(keras.layers.Layer):
    def call(self, x):
        global COUNT  # noqa: PLW0603
        COUNT += len(UNUSED)
        return x


class OfTable(keras.layers.Layer):
    def call(self, x):
        advance()
        return x


def advance():
    TABLE["n"] += 1


class OfSeed(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal((1,), seed=SEED)


def in_closure():
    state = {"n": 0}

    def count(x):
        state["n"] += 1
        return x

    return keras.layers.Lambda(count)


def loss_of_function(a, b):
    loss_of_function.calls += 1
    return keras.ops.mean((a - b) ** 2)


loss_of_function.calls = 0


def loss_in_closure():
    calls = 0

    def loss(a, b):
        nonlocal calls
        calls += 1
        return keras.ops.mean((a - b) ** 2)

    return loss


def metric_in_closure():
    scale = np.zeros(1)

    def metric(a, b):
        scale[0] += 1
        return keras.ops.mean(a - b)

    return metric


MODELS = {
    "steps, an attribute of the class OfClass": lambda: model(layers=[OfClass()], **EAGER),
    "COUNT, a global that call": lambda: model(layers=[OfGlobal()], **EAGER),
    "TABLE, a global that advance": lambda: model(layers=[OfTable()], **EAGER),
    "SEED, a global that call": lambda: model(layers=[OfSeed()], **EAGER),
    "state, in the closure of count": lambda: model(layers=[in_closure()], **EAGER),
    "calls, an attribute of loss_of_function": lambda: model(loss=loss_of_function, **EAGER),
    "calls, in the closure of loss": lambda: model(loss=loss_in_closure(), **EAGER),
    "scale, in the closure of metric": lambda: model(metrics=[metric_in_closure()], **EAGER),
}
if BACKEND == "jax":  # a step that is a pure function leaves such a seed as it was
    del MODELS["SEED, a global that call"]


def said(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(w.message) for w in caught if "not saved" in str(w.message)]


@pytest.mark.parametrize("saves", [3, "epoch"])
@pytest.mark.parametrize("what", MODELS)
def test_what_changes_is_named_once(what, saves, tmp_path):
    script = Script(str(tmp_path / "b"), numpy_arrays, make=MODELS[what])
    (message,) = said(lambda: script.run(save_freq=saves))
    assert message.startswith(f"Resume will not be exact. {what}")
    assert "UNUSED" not in message and "limit" not in message and "SCALE" not in message


class Quiet(keras.layers.Layer):
    """Uses much that does not change."""

    factor = 2.0

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x, training=False):
        x = x * self.factor * float(SCALE[0]) * len(UNUSED)
        return keras.random.dropout(x, 0.1, seed=self.seed) if training else x


@pytest.mark.filterwarnings("error::UserWarning")
def test_functions_without_state_are_no_alarm(tmp_path):
    def quiet(a, b):
        return keras.losses.mean_squared_error(a, b) * SCALE[1]

    def make():
        layers = [Quiet(), keras.layers.Lambda(lambda x: x * UNUSED[0])]
        return model(layers=layers, loss=quiet, metrics=[quiet, "accuracy"], **EAGER)

    Script(str(tmp_path / "b"), numpy_arrays, make=make).run(save_freq=3)


@pytest.mark.skipif(BACKEND == "torch", reason="steps that are compiled")
def test_what_only_the_tracing_of_a_step_changes_is_no_alarm(tmp_path):
    def make():
        return model(layers=[OfGlobal()], jit_compile=BACKEND == "jax")

    script = Script(str(tmp_path / "b"), numpy_arrays, make=make)
    assert said(lambda: script.run(save_freq=3)) == []


class Counting(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that counts by itself."""

    def __init__(self):
        self.calls = 0

    def __call__(self, step):
        self.calls += 1
        return 0.01 * (1 + self.calls % 7)


@pytest.mark.skipif(BACKEND != "torch", reason="a compiled step calls a schedule once")
def test_a_schedule_goes_on_counting(tmp_path):
    optimizers = []

    def make():
        optimizers.append(keras.optimizers.Adam(Counting()))
        return model(optimizers[-1])

    script = Script(str(tmp_path / "b"), numpy_arrays, make=make)
    whole = script.uninterrupted(save_freq=3)
    assert script.chain(Kill(14), Kill(17), save_freq=3).differences(whole) == []
