"""Keras files read without Keras: names, values, bounds and hostile input."""

import contextlib
import json
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest
from support.models import dense, fit
from support.weight_files import read_weights

from keras_ratchet._formats.readers import (
    keras_version,
    open_weights,
    read_config,
)
from keras_ratchet.errors import LoadError

SUFFIXES = [".keras", ".weights.h5", ".h5"]


def save(model, path):
    """Save a model in the format of the suffix; return the path as a string."""
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return str(path)


def functional():
    """Return a model with what is hard to name: shared, nested, wrapped, composed layers."""
    inputs = keras.Input((6, 4))
    shared = keras.layers.Dense(4, name="shared")
    block = keras.Sequential([keras.Input((6, 4)), keras.layers.Dense(4), keras.layers.Dense(4)])
    x = block(shared(shared(inputs)))
    x = keras.layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Conv1D(4, 2)(x)
    x = keras.layers.Bidirectional(keras.layers.LSTM(3))(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, name="my_head")(x))
    model.compile("adam", keras.losses.MeanSquaredError())
    model.fit(np.ones((4, 6, 4)), np.ones((4, 1)), verbose=0)
    return model


def paths(layer, above=""):
    """Return the variables of a layer by readable path, built by walking the live layers."""
    prefix = f"{above}{layer.name}/"
    found = {f"{prefix}{v.name}": v for v in layer._trainable_variables}
    found |= {f"{prefix}{v.name}": v for v in layer._non_trainable_variables}
    for inner in layer._layers:
        found |= paths(inner, prefix)
    return found


def by_path(model):
    """Return the values of a model's weights by readable path."""
    found = {}
    for layer in model.layers:
        found |= paths(layer)
    values = {name: keras.ops.convert_to_numpy(v) for name, v in found.items()}
    return {name: value for name, value in values.items() if "seed_generator" not in name}


def weights_of(path):
    """Return name and value of the model's weights, without the optimizer's."""
    return {n: v for n, v in read_weights(path) if not n.startswith("optimizer/")}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_values_are_those_of_the_model_under_the_paths_of_its_variables(tmp_path, suffix):
    model = functional()
    found = weights_of(save(model, tmp_path / f"m{suffix}"))
    expected = by_path(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
    assert len(found) == len(model.get_weights())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_are_unique_and_the_same_each_time(tmp_path, suffix):
    path = save(functional(), tmp_path / f"m{suffix}")
    first = [name for name, _ in read_weights(path)]
    assert len(set(first)) == len(first)
    assert first == [name for name, _ in read_weights(path)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_optimizer_is_told_from_the_model(tmp_path, suffix):
    model = dense(optimizer="adam")
    fit(model, [])
    with open_weights(save(model, tmp_path / f"m{suffix}")) as weights:
        slots = {w.name: w for w in weights if w.of_optimizer}
        assert all(name.startswith("optimizer/") for name in slots)
        assert len(slots) == len(model.optimizer.variables)
        assert slots["optimizer/iteration"].read() == 4
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        assert float(slots["optimizer/learning_rate"].read()) == pytest.approx(rate)
        largest = max(slots.values(), key=lambda w: int(np.prod(w.shape)))
        assert largest.shape == largest.read().shape == (4, 8)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_layer_called_optimizer_is_no_optimizer(tmp_path, suffix):
    layers = [keras.Input((3,)), keras.layers.Dense(2, name="optimizer")]
    model = keras.Sequential(layers)
    with open_weights(save(model, tmp_path / f"m{suffix}")) as weights:
        assert [w.of_optimizer for w in weights] == [False, False]
        assert sorted(w.shape for w in weights) == [(2,), (3, 2)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bfloat16_is_read_as_such(tmp_path, suffix):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
    found = weights_of(save(model, tmp_path / f"m{suffix}"))
    assert {value.dtype.name for value in found.values()} == {"bfloat16"}
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model.weights[0], "float32"))
    kernel = next(value for name, value in found.items() if name.endswith("kernel"))
    np.testing.assert_array_equal(kernel.astype("float32"), expected)


@keras.saving.register_keras_serializable("readers")
class Own(keras.Model):
    """A subclassed model with a list of layers, a weight of its own, and equal names."""

    def __init__(self, **args):
        super().__init__(**args)
        self.blocks = [keras.layers.Dense(4, name="same"), keras.layers.Dense(4, name="same")]
        self.head = keras.layers.Dense(1)
        self.scale = self.add_weight(name="scale", shape=(4,))

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x * self.scale)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_layers_of_one_name_and_own_weights_of_a_model_are_all_there(tmp_path, suffix):
    model = Own()
    model(np.ones((1, 4)))
    path = save(model, tmp_path / f"m{suffix}")
    found = weights_of(path)
    assert len(found) == len(model.get_weights())
    assert {"same/kernel", "same/bias", "vars/0"} < found.keys()
    assert {"blocks/dense_1/vars/0", "blocks/dense_1/vars/1"} < found.keys()
    left = sorted(float(np.sum(v.astype("float64"))) for v in found.values())
    assert left == sorted(float(np.sum(w.astype("float64"))) for w in model.get_weights())


def test_numbers_stay_where_the_kind_of_layer_leaves_doubt(tmp_path):
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as h5:
        for name, shapes in {
            "batch_normalization": [(3,)] * 3,
            "my_layer": [(3,), (3,)],
            "dense": [(2, 3), (3,), (3,)],
        }.items():
            group = h5.create_group(f"layers/{name}/vars")
            for number, shape in enumerate(shapes):
                group.create_dataset(str(number), data=np.zeros(shape, "float32"))
        quantized = h5.create_group("layers/dense_1/vars")
        quantized.create_dataset("0", data=np.zeros((2, 3), "int8"))
        quantized.create_dataset("1", data=np.zeros((3,), "float32"))
    names = [name for name, _ in read_weights(str(path))]
    assert all(name.rpartition("/")[2].isdigit() for name in names)


def test_layers_come_in_the_order_of_their_numbers(tmp_path):
    model = keras.Sequential([keras.Input((2,)), *[keras.layers.Dense(2) for _ in range(12)]])
    with open_weights(save(model, tmp_path / "m.weights.h5")) as weights:
        keys = [w.key for w in weights if w.name.endswith("kernel")]
    assert keys == [f"layers/dense{f'_{n}' if n else ''}/vars/0" for n in range(12)]


def test_files_of_keras_2_lose_the_tails_of_their_names(tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as h5:
        layer = h5.create_group("dense")
        layer.create_dataset("dense/kernel:0", data=np.ones((2, 2)))
        layer.attrs["weight_names"] = [b"dense/kernel:0"]
        h5.attrs["layer_names0"] = [b"input_1"]
        h5.attrs["layer_names1"] = [b"dense"]
        h5.create_group("input_1").attrs["weight_names"] = []
    assert [name for name, _ in read_weights(str(path))] == ["dense/kernel"]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_config_is_that_of_the_model(tmp_path, suffix):
    model = dense()
    path = save(model, tmp_path / f"m{suffix}")
    config = read_config(path)
    assert config["class_name"] == "Sequential"
    assert config["config"]["name"] == model.name
    assert keras_version(path) == keras.__version__


def test_a_weights_file_has_no_config(tmp_path):
    path = save(dense(), tmp_path / "m.weights.h5")
    assert read_config(path) is None and keras_version(path) is None


def test_one_weight_is_read_at_a_time(tmp_path, monkeypatch):
    path = save(dense(), tmp_path / "m.keras")
    reads = []
    real = h5py.Dataset.__getitem__
    monkeypatch.setattr(
        h5py.Dataset, "__getitem__", lambda self, key: reads.append(self.name) or real(self, key)
    )
    weights = read_weights(path)
    next(weights)
    assert len(reads) == 1
    weights.close()
    (tmp_path / "m.keras").unlink()  # nothing holds it open


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_file_is_a_load_error(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    save(dense(), path)
    data = path.read_bytes()
    for size in (0, 10, len(data) // 2):
        path.write_bytes(data[:size])
        with pytest.raises(LoadError):
            list(read_weights(str(path)))
        with pytest.raises(LoadError):
            read_config(str(path))


def test_a_pickle_inside_is_never_read(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.npz", b"pickle")
    with pytest.raises(LoadError, match="pickle"):
        list(read_weights(str(path)))


@pytest.mark.parametrize("config", ["[" * 100_000, "{", json.dumps([1]), "\xff"])
def test_a_strange_config_is_refused_or_none(tmp_path, config):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", "{}")
    with contextlib.suppress(LoadError):
        assert read_config(str(path)) is None


@pytest.mark.parametrize("names", [[b"gone"], 3, b"text", [b"group"]])
def test_legacy_names_that_lead_nowhere_are_a_load_error(tmp_path, names):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = [b"dense"]
        h5.create_group("dense/group")
        h5["dense"].attrs["weight_names"] = names
    with pytest.raises(LoadError):
        list(read_weights(str(path)))


def test_a_link_to_another_file_is_refused(tmp_path):
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as h5:
        h5["layers"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(LoadError, match="ExternalLink"):
        list(read_weights(str(path)))


def test_reading_needs_no_keras(tmp_path):
    import subprocess

    path = save(dense(), tmp_path / "m.keras")
    code = (
        "import sys; from keras_ratchet._formats.readers import open_weights, read_config; "
        "file = open_weights(sys.argv[1]); "
        "print(len(file.__enter__()), read_config(sys.argv[1])['class_name']); "
        "assert not {'keras', 'torch', 'tensorflow', 'jax'} & set(sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120, check=True
    )
    assert output.stdout.split() == ["6", "Sequential"]
