"""`ModelCheckpoint(trainable_only=True)`: the base and the file are the model, bit for bit."""

import functools
import json
import logging
import os
import uuid
import warnings

import h5py
import keras
import numpy as np
import pytest
from support.h5compare import differences

import keras_ratchet
from keras_ratchet import ModelCheckpoint
from keras_ratchet._engine.saving.provenance import has_weights_of
from keras_ratchet._formats.readers import missing_weights, open_weights
from keras_ratchet.errors import ConfigError, LoadError

layers = keras.layers
X = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
TOKENS = np.random.default_rng(1).integers(0, 50, (16, 6))
Y = X.sum(axis=1, keepdims=True)


def values_of(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.weights]


def is_same(model, values):
    """Return whether the weights of a model have these values, bit for bit."""
    return [a.tobytes() for a in values_of(model)] == [b.tobytes() for b in values]


def frozen_base(**dense):
    base = layers.Dense(64, activation="relu", trainable=False, **dense)
    return keras.Sequential([keras.Input((6,)), base, layers.Dense(1, **dense)])


def lora_dense(use_bias=True, **dense):
    inner = layers.Dense(32, use_bias=use_bias, **dense)
    model = keras.Sequential([keras.Input((6,)), inner, layers.Dense(1)])
    inner.enable_lora(2)
    return model


def lora_everywhere():
    embedding, conv = layers.Embedding(50, 8), layers.Conv1D(4, 3)
    einsum = layers.EinsumDense("abc,cd->abd", (4, 5), bias_axes="d")
    parts = [embedding, conv, einsum, layers.Flatten(), layers.Dense(1)]
    model = keras.Sequential([keras.Input((6,), dtype="int32"), *parts])
    for layer in (embedding, conv, einsum):
        layer.enable_lora(2)
    return model


def quantized_lora(mode):
    inner = layers.Dense(32)
    model = keras.Sequential([keras.Input((6,)), inner, layers.Dense(1)])
    inner.quantize(mode)
    inner.enable_lora(2)
    return model


def batch_normalizations():
    base = keras.Sequential([keras.Input((6,)), layers.Dense(8), layers.BatchNormalization()])
    base.trainable = False
    rest = [layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)]
    return keras.Sequential([keras.Input((6,)), base, *rest])


def one_variable_frozen():
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8), norm, layers.Dense(1)])
    norm.gamma.trainable = False
    model.layers[0].kernel.trainable = False
    return model


def nested():
    x = keras.Input((6,))
    deep = keras.Sequential([keras.Input((6,)), layers.Dense(6), layers.BatchNormalization()])
    inner = keras.Model(x, layers.Dense(6)(deep(x)), name="inner")
    inner.trainable = False
    deep.layers[1].trainable = True  # an exception below what is frozen
    return keras.Model(x, layers.Dense(1)(inner(x)))


def shared():
    x = keras.Input((6,))
    twice, frozen = layers.Dense(6), layers.Dense(6, trainable=False)
    return keras.Model(x, layers.Dense(1)(twice(frozen(twice(frozen(x))))))


@keras.saving.register_keras_serializable("trainable_only")
class Counting(layers.Layer):
    """Counts its calls although it is frozen, and has a weight of its own."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x, training=False):
        if training:
            self.count.assign(self.count + 1)
        return x * self.scale


@keras.saving.register_keras_serializable("trainable_only")
class SavesItself(Counting):
    """Saves the double of its scale, under keys of its own."""

    def save_own_variables(self, store):
        store["double"] = keras.ops.convert_to_numpy(self.scale) * 2
        store["count"] = keras.ops.convert_to_numpy(self.count)

    def load_own_variables(self, store):
        self.scale.assign(store["double"] / 2)
        self.count.assign(store["count"])


def with_layer(kind, trainable):
    model = keras.Sequential([keras.Input((6,)), kind(), layers.Dense(8), layers.Dense(1)])
    model.layers[0].trainable = trainable
    model.layers[1].trainable = False
    return model


def spectral():
    norm = layers.SpectralNormalization(layers.Dense(6), power_iterations=1)
    model = keras.Sequential([keras.Input((6,)), norm, layers.Dense(6), layers.Dense(1)])
    norm.trainable = model.layers[1].trainable = False
    return model


CASES = {
    "frozen base": frozen_base,
    "mixed_float16": functools.partial(frozen_base, dtype="mixed_float16"),
    "bfloat16": functools.partial(frozen_base, dtype="bfloat16"),
    "lora": lora_dense,
    "lora without bias": functools.partial(lora_dense, use_bias=False),
    "lora of float16": functools.partial(lora_dense, dtype="mixed_float16"),
    "lora everywhere": lora_everywhere,
    "int8 and lora": functools.partial(quantized_lora, "int8"),
    "int4 and lora": functools.partial(quantized_lora, "int4"),
    "batch normalizations": batch_normalizations,
    "one variable frozen": one_variable_frozen,
    "nested": nested,
    "shared": shared,
    "counts though frozen": functools.partial(with_layer, Counting, False),
    "saves itself": functools.partial(with_layer, SavesItself, True),
    "spectral": spectral,
}


def built(name):
    """Return a model, compiled, that is the same each time: the base."""
    keras.utils.set_random_seed(3)
    model = CASES[name]()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse")
    return model


def data_of(model):
    inputs = getattr(model, "inputs", None)
    return (TOKENS if inputs and "int" in str(inputs[0].dtype) else X), Y


class Noted(keras.callbacks.Callback):
    """Notes the weights at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_epoch_end(self, epoch, logs=None):
        self.values.append(values_of(self.model))


def saver(path, **arguments):
    return ModelCheckpoint(path, "loss", save_weights_only=True, trainable_only=True, **arguments)


def trained(model, path, using=None, epochs=2, initial_epoch=0, **arguments):
    """Train a model and save it; return its weights after each epoch."""
    noted = Noted()
    callbacks = [noted, using or saver(path, **arguments)]
    x, y = data_of(model)
    fit = functools.partial(model.fit, batch_size=8, verbose=0, callbacks=callbacks)
    fit(x, y, epochs=epochs, initial_epoch=initial_epoch)
    return noted.values


def spoiled(model):
    """Change all that trains, so that it shows if a file does not hold it."""
    for variable in model.trainable_variables:
        variable.assign(np.full(variable.shape, 7))
    return model


@pytest.mark.parametrize("name", CASES)
def test_the_base_and_the_file_are_the_model(name, tmp_path):
    values = trained(built(name), tmp_path / "{epoch}.weights.h5")
    assert [a.tobytes() for a in values[0]] != [b.tobytes() for b in values[1]]
    for epoch, expected in enumerate(values):
        model, path = spoiled(built(name)), tmp_path / f"{epoch + 1}.weights.h5"
        kept = keras_ratchet.load_weights(model, path)
        assert is_same(model, expected)
        assert kept
        assert len(kept) == len(missing_weights(str(path)))
        assert keras_ratchet.verify(path)


def test_the_file_has_what_trains_and_no_more(tmp_path):
    path = tmp_path / "m.weights.h5"
    trained(built("batch normalizations"), path)
    with open_weights(str(path)) as weights:
        names = [weight.name for weight in weights if not weight.of_optimizer]
    norm = ["gamma", "beta", "moving_mean", "moving_variance"]
    dense = ["kernel", "bias"]
    assert [name.rpartition("/")[2] for name in names] == [*norm, *dense, *dense]
    trained(built("one variable frozen"), path)
    with open_weights(str(path)) as weights:
        names = [weight.name for weight in weights if not weight.of_optimizer]
    assert [name.rpartition("/")[2] for name in names] == [*norm[1:], "bias", *dense]
    trained(built("int8 and lora"), path)
    with open_weights(str(path)) as weights:
        names = [weight.name for weight in weights if not weight.of_optimizer]
    lora = ["bias", "lora_kernel_a", "lora_kernel_b"]
    assert [n.rpartition("/")[2] for n in names] == [*lora, "kernel", "bias"]


def test_the_file_is_as_large_as_what_trains(tmp_path):
    path = tmp_path / "m.weights.h5"
    inner = layers.Dense(1000)
    model = keras.Sequential([keras.Input((1000,)), inner])
    inner.enable_lora(1)
    model.compile("sgd", "mse")
    model.fit(np.zeros((2, 1000)), np.zeros((2, 1000)), verbose=0, callbacks=[saver(path)])
    assert 12_000 < os.path.getsize(path) < 32_000  # the kernel has 4 MB


def test_what_is_unfrozen_in_mid_run_is_in_the_file_from_then_on(tmp_path):
    model, path = built("frozen base"), tmp_path / "{epoch}.weights.h5"
    callback = saver(path)
    values = trained(model, path, epochs=1, using=callback)
    model.layers[0].trainable = True
    model.compile(keras.optimizers.SGD(0.05), "mse")
    values += trained(model, path, epochs=3, using=callback, initial_epoch=1)
    paths = [tmp_path / f"{epoch}.weights.h5" for epoch in (1, 2, 3)]
    assert [missing_weights(str(p)) is None for p in paths] == [False, True, True]
    for path, expected in zip(paths, values, strict=True):
        fresh = spoiled(built("frozen base"))
        keras_ratchet.load_weights(fresh, path)
        assert is_same(fresh, expected)


@pytest.mark.parametrize("name", ["frozen base", "batch normalizations"])
def test_what_is_frozen_again_stays_in_the_file(name, tmp_path):
    model, path = built(name), tmp_path / "m.weights.h5"
    for trainable in (True, False):
        model.layers[0].trainable = trainable
        model.compile(keras.optimizers.SGD(0.05), "mse")
        values = trained(model, path)
    fresh = spoiled(built(name))
    keras_ratchet.load_weights(fresh, path)
    assert is_same(fresh, values[-1])


def test_what_is_frozen_again_stays_in_the_file_of_a_resumed_run(tmp_path):
    model, first, states = built("frozen base"), saver(tmp_path / "m.weights.h5"), []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: states.append(json.loads(json.dumps(first.state_dict())))
    )
    model.layers[0].trainable = True
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.fit(X, Y, verbose=0, callbacks=[first, note])
    for resumes in (False, True):
        fresh, again = built("frozen base"), saver(tmp_path / "n.weights.h5")
        resume = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs, s=again: s.load_state_dict(states[0])
        )
        fresh.fit(X, Y, verbose=0, callbacks=[again, resume] if resumes else [again])
        assert (missing_weights(str(tmp_path / "n.weights.h5")) is None) == resumes


def test_what_trained_and_is_quantized_stays_in_the_file(tmp_path):
    def make():
        keras.utils.set_random_seed(0)
        stack = [layers.Dense(32, name="a"), layers.Dense(16, name="b"), layers.Dense(1)]
        model = keras.Sequential([keras.Input((6,)), *stack])
        model.get_layer("b").trainable = False
        return model

    model, path = make(), tmp_path / "best.weights.h5"
    model.compile("sgd", "mse")
    trained(model, path)
    model.get_layer("a").quantize("int8")
    model.compile("sgd", "mse")
    trained(model, path)
    other = make()
    other.get_layer("a").quantize("int8")
    left_out = keras_ratchet.load_weights(other, path)
    assert all("/b/" in name for name in left_out)
    assert is_same(other, values_of(model))


def test_the_optimizer_of_an_inner_model_need_not_be_there(tmp_path):
    def wrapped(base):
        base.trainable = False
        return keras.Sequential([keras.Input((6,)), base, layers.Dense(1, name="head")])

    base = keras.Sequential([keras.Input((6,)), layers.Dense(8)])
    base.compile("adam", "mse")
    base.fit(X, np.repeat(Y, 8, axis=1), verbose=0)
    model, path = wrapped(base), tmp_path / "best.weights.h5"
    model.compile("sgd", "mse")
    trained(model, path)
    copied = keras.Sequential.from_config(base.get_config())
    copied.set_weights(base.get_weights())
    other = wrapped(copied)
    keras_ratchet.load_weights(other, path)
    assert is_same(other, values_of(model))


def test_a_file_that_lacks_nothing_is_keras_s_own(tmp_path):
    model = built("frozen base")
    model.layers[0].trainable = True
    model.compile("sgd", "mse")
    trained(model, tmp_path / "a.weights.h5")
    model.save_weights(tmp_path / "b.weights.h5")
    assert not differences(tmp_path / "a.weights.h5", tmp_path / "b.weights.h5")
    assert keras_ratchet.load_weights(model, tmp_path / "a.weights.h5") == []


def test_a_normalization_computes_with_the_statistics_of_the_file(tmp_path):
    def built(adapted):
        norm, frozen = layers.Normalization(), layers.Dense(6, "tanh", trainable=False)
        parts = [norm, frozen, layers.Dense(1)]
        if adapted:
            norm.adapt(X * 3 + 1)
        model = keras.Sequential([keras.Input((6,)), *parts])
        frozen.set_weights([np.eye(6), np.zeros(6)])
        model.compile("sgd", "mse")
        return model

    model, path = built(adapted=True), tmp_path / "m.weights.h5"
    trained(model, path)
    fresh = built(adapted=False)
    keras_ratchet.load_weights(fresh, path)  # before a compiled function has its statistics
    assert np.array_equal(*(keras.ops.convert_to_numpy(each(X)) for each in (fresh, model)))


def test_the_optimizer_is_loaded_too(tmp_path):
    model, path = built("lora"), tmp_path / "m.weights.h5"
    trained(model, path)
    fresh = built("lora")
    fresh.optimizer.build(fresh.trainable_variables)
    keras_ratchet.load_weights(fresh, path)
    slots = [
        [np.array(keras.ops.convert_to_numpy(v)) for v in m.optimizer.variables]
        for m in (model, fresh)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*slots, strict=True))
    assert any(slot.any() for slot in slots[0][2:])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_optimizer_that_has_not_been_built_is_left_alone_without_a_word(optimizer, tmp_path):
    path = tmp_path / "m.weights.h5"
    model = built("lora")
    model.compile("adam", "mse")
    expected = trained(model, path)[-1]
    other = built("lora")
    other.compile(optimizer, "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        keras_ratchet.load_weights(other, path)
    assert is_same(other, expected) and not other.optimizer.built


def test_an_optimizer_that_is_built_for_other_variables_warns_and_keeps_its_values(tmp_path):
    path = tmp_path / "m.weights.h5"
    trained(built("lora"), path)
    model = built("lora")
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        keras_ratchet.load_weights(model, path)
    after = [np.array(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
    assert all(map(np.array_equal, before, after))


def test_loading_says_once_what_the_file_does_not_hold(tmp_path, caplog):
    path = tmp_path / "m.weights.h5"
    trained(built("frozen base"), path)
    fresh = built("frozen base")
    with caplog.at_level(logging.WARNING, "keras_ratchet"):
        kept = keras_ratchet.load_weights(fresh, path)
    assert kept == [variable.path for variable in fresh.layers[0].weights]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "2 weights of the model keep the values" in message
    assert repr(kept[0]) in message


def other_head():
    return keras.Sequential([keras.Input((6,)), layers.Dense(64), layers.Dense(2)])


def more_layers():
    return keras.Sequential([keras.Input((6,)), layers.Dense(1)])


def without_lora():
    return keras.Sequential([keras.Input((6,)), layers.Dense(32), layers.Dense(1)])


@pytest.mark.parametrize(
    ("name", "make", "problem"),
    [
        ("frozen base", other_head, "has the shape"),
        ("frozen base", more_layers, "values for 'layers/dense_1', which the model does not have"),
        ("lora", without_lora, "LoRA has to be enabled"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(name, make, problem, tmp_path):
    path = tmp_path / "m.weights.h5"
    trained(built(name), path)
    model = make()
    before = values_of(model)
    with pytest.raises(LoadError, match=problem):
        keras_ratchet.load_weights(model, path)
    assert is_same(model, before)


def test_a_layer_that_refuses_its_values_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "m.weights.h5"
    trained(built("saves itself"), path)
    model = built("saves itself")
    before = values_of(model)

    def refuse(self, store):
        self.count.assign(99)
        raise KeyError("new key")

    monkeypatch.setattr(SavesItself, "load_own_variables", refuse)
    with pytest.raises(LoadError, match="new key"):
        keras_ratchet.load_weights(model, path)
    assert is_same(model, before)


def test_an_unbuilt_model_is_refused(tmp_path):
    path = tmp_path / "m.weights.h5"
    trained(built("frozen base"), path)
    with pytest.raises(LoadError, match="not been built"):
        keras_ratchet.load_weights(keras.Sequential([layers.Dense(64), layers.Dense(1)]), path)


@pytest.mark.parametrize("name", CASES)
def test_keras_itself_refuses_such_a_file(name, tmp_path):
    path = tmp_path / "m.weights.h5"
    trained(built(name), path)
    with pytest.raises(ValueError, match="could not be loaded"):
        built(name).load_weights(path)


def test_load_model_says_what_to_do(tmp_path):
    path = tmp_path / "m.weights.h5"
    trained(built("lora"), path)
    with pytest.raises(LoadError, match=r"load the base .* then keras_ratchet\.load_weights"):
        keras_ratchet.load_model(path)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("m.keras", {}),
        ("m.h5", {}),
        ("m.weights.h5", {}),
        ("m.keras", {"save_weights_only": True}),
        ("m.h5", {"save_weights_only": True}),
    ],
)
def test_whole_models_and_other_suffixes_are_refused(name, arguments, tmp_path):
    with pytest.raises(ConfigError, match=r"weights\.h5"):
        ModelCheckpoint(tmp_path / name, trainable_only=True, **arguments)


def test_a_model_that_is_all_frozen_is_refused_at_the_start(tmp_path):
    model = built("frozen base")
    model.trainable = False
    with pytest.raises(ConfigError, match="all weights of the model are frozen"):
        trained(model, tmp_path / "m.weights.h5")


def test_a_model_that_saves_itself_is_refused_at_the_start(tmp_path):
    class Own(keras.Sequential):
        def save_weights(self, *args, **kwargs):
            return super().save_weights(*args, **kwargs)

    model = Own([keras.Input((6,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ConfigError, match="own save_weights"):
        trained(model, tmp_path / "m.weights.h5")


@keras.saving.register_keras_serializable("trainable_only")
class Hiding(layers.Layer):
    """Has a layer that trains, in a place at which Keras's saver does not look."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        dense = layers.Dense(1)
        self.get_dense = lambda: dense
        self._layers.append(dense)

    def call(self, x):
        return self.get_dense()(x)


def test_what_trains_and_would_not_be_in_the_file_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(6, trainable=False), Hiding()])
    model.compile("sgd", "mse")
    model.build()
    assert len(model.trainable_variables) == 2
    with pytest.raises(ConfigError, match="saver does not find it"):
        trained(model, tmp_path / "m.weights.h5")


def test_a_model_with_the_weights_of_a_file_continues_its_run(tmp_path):
    path = tmp_path / "best.weights.h5"
    trained(built("lora"), path, save_best_only=True)
    fresh = built("lora")
    assert not has_weights_of(fresh, str(path))
    keras_ratchet.load_weights(fresh, path)
    assert has_weights_of(fresh, str(path))
    again = saver(path, save_best_only=True, initial_value_threshold=None)
    fresh.fit(*data_of(fresh), verbose=0, callbacks=[again])
    assert not list(tmp_path.glob("best.before-*"))


def test_a_mean_of_such_files_is_that_of_what_they_hold(tmp_path):
    values = trained(built("lora"), tmp_path / "{epoch}.weights.h5")
    model = built("lora")
    keras_ratchet.mean(model, tmp_path, k=2)
    for found, *both in zip(values_of(model), *values, strict=True):
        np.testing.assert_allclose(found, np.mean(both, axis=0), rtol=1e-6)
    assert np.array_equal(values_of(model)[0], values[0][0])  # the base is as it was


def test_a_mean_of_files_that_hold_different_weights_is_refused(tmp_path):
    one, other = built("frozen base"), built("frozen base")
    trained(one, tmp_path / "a.weights.h5", epochs=1)
    other.layers[0].bias.trainable = True
    other.compile("sgd", "mse")
    trained(other, tmp_path / "b.weights.h5", epochs=1)
    model = built("frozen base")
    before = values_of(model)
    with pytest.raises(LoadError, match="does not hold the same weights"):
        keras_ratchet.mean(model, [tmp_path / "a.weights.h5", tmp_path / "b.weights.h5"])
    assert is_same(model, before)


def test_such_files_go_through_a_store(tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "here"))
    url = f"memory://{uuid.uuid4().hex}/run"
    values = trained(built("lora"), f"{url}/m.weights.h5")
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "elsewhere"))
    model = built("lora")
    assert keras_ratchet.load_weights(model, url, "latest")
    assert is_same(model, values[-1])


def test_a_file_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "m.weights.h5"
    trained(built("lora"), path)
    with h5py.File(path, "r+") as h5:
        h5.attrs["keras_ratchet_partial"] = 2
    with pytest.raises(LoadError, match="newer version"):
        missing_weights(str(path))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="wraps a torch module")
def test_a_frozen_torch_module_has_its_statistics_in_the_file(tmp_path):
    torch = pytest.importorskip("torch")

    def built():
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.BatchNorm1d(64))
        wrapper = layers.TorchModuleWrapper(module)
        wrapper.trainable = False
        head = layers.Dense(1, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((6,)), wrapper, head])
        model.compile("sgd", "mse")
        return model, {k: v.clone() for k, v in module.state_dict().items()}, module

    (model, before, module), path = built(), tmp_path / "m.weights.h5"
    trained(model, path)
    changed = {k for k, v in module.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    fresh, _, loaded = built()
    with pytest.raises(LoadError, match="has not been built"):
        keras_ratchet.load_weights(fresh, path)
    fresh(X[:2])
    assert len(keras_ratchet.load_weights(fresh, path)) == 4
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in module.state_dict().items())
