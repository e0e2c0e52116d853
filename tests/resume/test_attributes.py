"""Plain attributes of a model that training changes, and random ops of TensorFlow's own."""

import itertools
import tracemalloc
import warnings
from collections import deque

import keras
import numpy as np
import pytest
from support.resuming import Kill, Script, arrays

from keras_ratchet._engine.resume.attributes import AttributeStates

BACKEND = keras.backend.backend()
only_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own ops")


class Strange:
    """What no file can hold."""

    __slots__ = ()


class Memory:
    """An object of the user's, with a state of its own."""

    def __init__(self):
        self.buffer, self.total = deque(maxlen=50), np.zeros(2)


class Annealed(keras.Model):
    """A model that keeps a part of its state in Python."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.beta, self.seen, self.memory, self.table = 1.0, [], Memory(), {"a": [1]}
        self.strange, self.tensor = Strange(), keras.ops.zeros((2,))

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, *args, **kwargs):
        return self.beta * super().compute_loss(*args, **kwargs)


class Anneal(keras.callbacks.Callback):
    """Changes the model after each batch."""

    def __init__(self, strange=False):
        super().__init__()
        self.strange = strange

    def on_train_batch_end(self, batch, logs=None):
        model = self.model
        model.beta *= 0.97
        model.seen.append(batch)
        model.memory.buffer.append((batch, model.beta))
        model.memory.total += batch
        model.table = {**model.table, "b": [batch]}
        model.tensor = model.tensor + batch
        if self.strange:
            model.strange = Strange()


def data():
    x, y = arrays()
    return {"x": x, "y": y, "batch_size": 4}


def script(directory, made, eager=True, **callbacks):
    def make():
        made.append(Annealed())
        made[-1].compile("sgd", "mse", run_eagerly=eager and BACKEND != "torch", jit_compile=False)
        return made[-1]

    return Script(
        str(directory / "b"),
        data,
        make=make,
        callbacks=lambda: [Anneal(**callbacks)],
        backup={"save_freq": 4},
        fit={"epochs": 2},
    )


def state(model):
    tensor = keras.ops.convert_to_numpy(model.tensor)
    memory = model.memory
    return repr((model.beta, model.seen, memory.buffer, memory.total, model.table, tensor))


def test_attributes_that_training_changes_are_kept(tmp_path):
    made = []
    run = script(tmp_path, made)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        whole, expected = run.uninterrupted(), state(made[-1])
        outcome = run.chain(Kill(epoch=0), Kill(batches=17))
    assert outcome.differences(whole) == []
    assert state(made[-1]) == expected


class Slotted:
    """An object without a `__dict__`."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = 0


def test_iterators_and_slots_that_change_are_named():
    model = Annealed()
    model.build((None, 4))
    model.count, model.memo, model.inner = itertools.count(), Slotted(), [Slotted()]
    model.still = [itertools.count(), Slotted()]
    states = AttributeStates(model)
    assert states.complaints(model, True) == []
    next(model.count)
    model.memo.value += 1
    model.inner[0].value += 1
    (said,) = states.complaints(model, True)
    assert said.startswith("Annealed.count, Annealed.memo, Annealed.inner changed during training")


def test_a_large_array_is_not_copied_when_training_begins_and_kept_once_it_changes():
    model = Annealed()
    model.build((None, 4))
    model.large, model.none = np.zeros(1 << 20), None
    tracemalloc.start()
    states = AttributeStates(model)
    assert tracemalloc.get_traced_memory()[0] < 1 << 20
    tracemalloc.stop()
    assert states.capture(model) == {}
    model.large[5] = model.none = 1
    kept = next(iter(states.capture(model).values()))
    assert set(kept) == {"large", "none"} and kept["large"][5] == 1
    states.restore(model, {})
    assert model.none is None


def test_an_attribute_that_cannot_be_kept_is_named_once(tmp_path):
    run = script(tmp_path, [], strange=True)
    with pytest.warns(UserWarning, match="Annealed.strange changed during training") as told:
        run.run()
    assert len([w for w in told if w.category is UserWarning]) == 1


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled on torch")
def test_an_attribute_that_a_compiled_step_has_read_is_named(tmp_path):
    run = script(tmp_path, [], eager=False)
    with pytest.warns(UserWarning, match="Annealed.beta changed during training, but a compiled"):
        run.run()


class Sets(keras.callbacks.Callback):
    """Changes what Keras's own layers and optimizers took as arguments."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.get_layer("drop").rate = 0.5 / (epoch + 1)
        if epoch == 1:
            self.model.optimizer.clipnorm = 0.01
            self.model.optimizer.weight_decay = 0.1


def settings_script(directory, eager=True):
    def make():
        drop = keras.layers.Dropout(0.3, seed=1, name="drop")
        net = keras.Sequential([keras.Input((4,)), drop, keras.layers.Dense(1)])
        net.compile("sgd", "mse", run_eagerly=eager and BACKEND != "torch", jit_compile=False)
        return net

    return Script(
        str(directory / "b"),
        data,
        make=make,
        callbacks=lambda: [Sets()],
        backup={"save_freq": 4},
        fit={"epochs": 3},
    )


def test_numbers_that_layers_and_optimizers_of_keras_s_took_are_kept(tmp_path):
    run = settings_script(tmp_path)
    whole = run.uninterrupted()
    assert run.chain(Kill(batches=15), Kill(batches=27)).differences(whole) == []


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled on torch")
def test_such_a_number_that_a_compiled_step_has_read_is_named(tmp_path):
    with pytest.warns(UserWarning, match="changed during training, but a compiled") as told:
        settings_script(tmp_path, eager=False).run()
    sentences = " ".join(str(w.message) for w in told if w.category is UserWarning)
    for name in ("Dropout.rate", "SGD.clipnorm", "SGD.weight_decay"):
        assert sentences.count(name) == 1


class Draws(keras.layers.Layer):
    """Draws from a generator that another layer has, too."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def call(self, x):
        return x


def test_a_generator_that_two_layers_share_stays_one():
    def make():
        generator = np.random.default_rng(0)
        return keras.Sequential([keras.Input((4,)), Draws(generator), Draws(generator)])

    model, again = make(), make()
    states = AttributeStates(model)
    model.layers[0].generator.random()
    AttributeStates(again).restore(again, states.capture(model))
    drawn = [[layer.generator.random() for layer in m.layers] for m in (model, again)]
    assert drawn[0] == drawn[1]


class Counting(keras.layers.Layer):
    """A layer that adds something of its own to its file."""

    def __init__(self):
        super().__init__()
        self.counts = np.zeros(2)

    def call(self, x):
        return x * (1 + self.counts[0] / 100)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["counts"] = self.counts

    def load_own_variables(self, store):
        self.counts = np.array(store["counts"])


def test_what_a_layer_adds_to_its_file_is_kept(tmp_path):
    made = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.layers[0].counts += 1

    def make():
        made.append(keras.Sequential([keras.Input((4,)), Counting(), keras.layers.Dense(1)]))
        made[-1].compile("sgd", "mse", run_eagerly=BACKEND != "torch")
        return made[-1]

    run = Script(
        str(tmp_path / "b"),
        data,
        make=make,
        callbacks=lambda: [Count()],
        backup={"save_freq": 4},
        fit={"epochs": 2},
    )
    whole, expected = run.uninterrupted(), made[-1].layers[0].counts.tolist()
    assert run.chain(Kill(batches=15)).differences(whole) == []
    assert made[-1].layers[0].counts.tolist() == expected


def noisy(compile_args):
    import tensorflow as tf

    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    def make():
        model = keras.Sequential([keras.Input((4,)), Noise(name="hiss"), keras.layers.Dense(1)])
        model.compile("sgd", "mse", **compile_args)
        return model

    return make


@only_tensorflow
def test_random_ops_of_tensorflow_in_the_step_are_named(tmp_path):
    run = Script(str(tmp_path / "b"), data, make=noisy({"jit_compile": False}))
    with pytest.warns(UserWarning, match=r"hiss\S* draws random numbers from a state that Tensor"):
        run.run()


@only_tensorflow
def test_random_ops_of_tensorflow_that_run_eagerly_are_exact(tmp_path):
    run = Script(
        str(tmp_path / "b"), data, make=noisy({"run_eagerly": True}), backup={"save_freq": 4}
    )
    run.fit = {"epochs": 2}
    whole = run.uninterrupted()
    assert run.chain(Kill(epoch=0), Kill(batches=17)).differences(whole) == []


@only_tensorflow
def test_random_ops_in_the_data_are_not_named(tmp_path):
    import tensorflow as tf

    x, y = arrays()

    def drawn():
        source = tf.data.Dataset.from_tensor_slices((x, y))
        return {
            "x": source.map(lambda a, b: (a + tf.random.normal((4,)), b)).batch(4),
            "shuffle": False,
        }

    def make():
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse", jit_compile=False)
        return model

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert Script(str(tmp_path / "b"), drawn, make=make).run() is not None
