"""Files whose bytes lie in memory as on the disk: the same files as those that are put together.

Only torch copies values, so only there files have images; they are compared on every backend.
"""

import dataclasses
import io

import keras
import numpy as np
import pytest
from support import zoo

from keras_ratchet._engine.capture.last_reach import LastReach
from keras_ratchet._engine.capture.model_state import reach
from keras_ratchet._engine.capture.variable_buffers import VariableBuffers
from keras_ratchet._formats.keras_archive import KerasArchive
from keras_ratchet._formats.legacy_h5 import LegacyH5
from keras_ratchet._formats.safetensors import read_arrays, write_arrays
from keras_ratchet._formats.weights_h5 import WeightsH5

FORMATS = [KerasArchive, WeightsH5, LegacyH5]
DTYPES = ["float32", "float16", "bfloat16", "float64", "int8", "uint8", "int64", "bool"]
ON_TORCH = keras.backend.backend() == "torch"


class Mixed(keras.layers.Layer):
    """A layer with values of every dtype and shape: scalars, nothing, one odd byte."""

    def build(self, shape):
        for i, dtype in enumerate(self.dtypes()):
            for j, size in enumerate([(), (0, 3), (1,), (3, 5), (257,)]):
                self.add_weight(
                    shape=size, dtype=dtype, trainable=False, initializer="zeros", name=f"w{i}_{j}"
                )
        self.wide = self.add_weight(shape=(40, 30), name="wide")

    def dtypes(self):
        return DTYPES

    def call(self, x):
        return x


class Legacy(Mixed):
    """The same without the dtypes that HDF5 has no name for."""

    def dtypes(self):
        return [dtype for dtype in DTYPES if dtype != "bfloat16"]


class OwnArrays(keras.layers.Layer):
    """A layer that saves an array which is no variable."""

    def build(self, shape):
        self.w = self.add_weight(shape=(7, 3), name="w")
        self.extra = np.arange(11.0)

    def save_own_variables(self, store):
        self.extra = self.extra + 1
        store["extra"] = self.extra
        store["w"] = self.w

    def call(self, x):
        return x


def mixed(kind):
    own = [] if kind is LegacyH5 else [OwnArrays()]
    layer = Legacy() if kind is LegacyH5 else Mixed()
    model = keras.Sequential([keras.Input((4,)), layer, *own, keras.layers.Dense(3)])
    model.compile("adam", "mse")
    return model


class Series:
    """The saves of one model, each written from its image and from its arrays."""

    def __init__(self, kind, model):
        self.format, self.model, self.buffers = kind(), model, VariableBuffers()
        self.rate = 0.5  # which archives, and legacy files, have in their structure

    def freeze(self):
        self.model.optimizer.learning_rate = self.rate
        return self.format.freeze(
            self.model, lambda sources, places=None: self.buffers.capture(sources, True, places)
        )

    def save(self, seed):
        """Return whether there was an image, the file, and the file without one."""
        zoo.stir(self.model, seed)
        frozen = self.freeze()
        zoo.stir(self.model, 99)
        values = getattr(frozen, "weights", frozen).values
        return values.image is not None, *map(self.written, (frozen, without_image(frozen)))

    def written(self, frozen):
        file = io.BytesIO()
        self.format.write(frozen, file)
        return file.getvalue()


def without_image(frozen):
    if hasattr(frozen, "weights"):
        return dataclasses.replace(frozen, weights=without_image(frozen.weights))
    return dataclasses.replace(frozen, values=dataclasses.replace(frozen.values, image=None))


@pytest.fixture(autouse=True)
def still_clock(monkeypatch):
    import time

    monkeypatch.setattr(time, "localtime", lambda *_: time.struct_time([2026, 1, 1] + [0] * 6))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_is_the_same_with_an_image_and_without(kind):
    series = Series(kind, mixed(kind))
    saves = [series.save(seed) for seed in (1, 2, 3)]
    assert [image for image, _, _ in saves] == [False, ON_TORCH, ON_TORCH]
    for _, file, pieces in saves:
        assert file == pieces
    assert len({file for _, file, _ in saves}) == 3


@pytest.mark.parametrize("kind", FORMATS)
def test_a_layout_that_has_changed_is_noticed(kind):
    model = mixed(kind)
    series = Series(kind, model)
    for seed in (1, 2):
        series.save(seed)
    model.add(keras.layers.Dense(70))
    series.rate = 0.123456  # the head of an archive has another length
    images = []
    for seed in (3, 4):
        image, file, pieces = series.save(seed)
        images.append(image)
        assert file == pieces
    assert images == [False, ON_TORCH]


@pytest.mark.skipif(not ON_TORCH, reason="values are copied on torch")
def test_a_head_of_another_length_needs_no_other_copy():
    series = Series(KerasArchive, mixed(KerasArchive))
    series.save(1)
    for rate in (0.5, 0.25, 0.125):
        series.rate = rate
        image, file, pieces = series.save(2)
        assert image
        assert file == pieces


@pytest.mark.skipif(not ON_TORCH, reason="values are copied on torch")
@pytest.mark.parametrize("kind", FORMATS)
def test_tensors_that_are_not_contiguous_are_saved_as_they_are_read(kind):
    import torch

    model = mixed(kind)
    series = Series(kind, model)
    series.save(1)
    dense = model.layers[-1].kernel
    value = np.arange(12, dtype="float32").reshape(4, 3)
    dense.value.data = torch.from_numpy(value.T.copy()).t()
    frozen = series.freeze()
    values = getattr(frozen, "weights", frozen).values
    held = dict(zip(map(id, values.sources), values.arrays(), strict=True))
    assert values.image is not None
    np.testing.assert_array_equal(held[id(dense)], value)
    assert series.written(frozen) == series.written(without_image(frozen))


@pytest.mark.skipif(not ON_TORCH, reason="values are copied on torch")
def test_a_tensor_of_another_dtype_in_a_variables_place_is_seen():
    model = mixed(WeightsH5)
    series = Series(WeightsH5, model)
    for seed in (1, 2):
        series.save(seed)
    kernel = model.layers[-1].kernel
    kernel.value.data = kernel.value.data.double()
    frozen = series.freeze()
    assert frozen.values.image is None
    assert series.written(frozen) == series.written(without_image(frozen))


@pytest.mark.skipif(not ON_TORCH, reason="values are copied on torch")
def test_an_image_at_the_wrong_places_would_be_seen(monkeypatch):
    series = Series(WeightsH5, mixed(WeightsH5))
    for seed in (1, 2):
        series.save(seed)
    monkeypatch.setattr("keras_ratchet._formats.image.Image._put", lambda *_: None)
    series.model.add(keras.layers.Dense(2))
    for seed in (3, 4):
        image, file, pieces = series.save(seed)
    assert image
    assert file != pieces


def test_arrays_that_lie_together_are_written_at_once(tmp_path):
    memory = np.arange(1000, dtype="float32")
    arrays = {
        "first": memory[:100],
        "second": memory[100:400].reshape(3, 100),
        "apart": np.arange(5),
        "none": np.zeros((0, 3)),
        "third": memory[400:],
        "strided": memory[::2],
    }
    sizes = []

    class File(io.BytesIO):
        def write(self, data):
            sizes.append(memoryview(data).nbytes)
            return super().write(data)

    file = File()
    write_arrays(arrays, file)
    assert sizes == [4096, 1600, 40, 2400, 2000]
    path = tmp_path / "a.safetensors"
    path.write_bytes(file.getvalue())
    found = read_arrays(str(path))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def nested():
    inner = keras.Sequential([keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), inner])
    model.compile("adam", "mse", metrics=["mae"])
    return model


def hide(layer, value):
    """Put a value where Keras's own tracking does not see it."""
    vars(layer)["added"] = value


EXTRAS = {
    "a variable": lambda m: hide(m.layers[0], keras.Variable(np.ones(3))),
    "a list that grows": lambda m: m.layers[0].things.append(keras.Variable(np.ones(3))),
    "a seed": lambda m: hide(m.layers[0], keras.random.SeedGenerator(1)),
    "a metric": lambda m: hide(m.layers[0], keras.metrics.Mean()),
    "a layer in a layer": lambda m: hide(m.layers[1].layers[0], keras.Variable(1.0)),
}
if ON_TORCH:
    import torch

    EXTRAS["a buffer"] = lambda m: m.layers[0].register_buffer("b", torch.ones(2))
    EXTRAS["a module"] = lambda m: hide(m.layers[0], torch.nn.BatchNorm1d(3))


@pytest.mark.parametrize("what", EXTRAS)
def test_what_is_added_to_a_model_is_reached(what):
    model, last = nested(), LastReach()
    vars(model.layers[0])["things"] = []
    for _ in range(2):
        assert keys(last.of(model)) == keys(reach(model))
    EXTRAS[what](model)
    after = reach(model)
    for _ in range(2):
        assert keys(last.of(model)) == keys(after)
    if what != "a metric":
        assert after.extras


def test_a_model_without_anything_special_is_walked_once(monkeypatch):
    model, last = nested(), LastReach()
    found = last.of(model)
    model.fit(np.ones((4, 4)), np.ones((4, 3)), verbose=0)
    again = last.of(model)  # the first step builds what is built late
    assert last.of(model) is again
    assert keys(again) == keys(reach(model))
    assert found is not None


def keys(found):
    return [extra.key for extra in found.extras], list(found.owners)
