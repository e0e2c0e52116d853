"""Our files are Keras's files: the same structure and values, and plain Keras loads them."""

import functools
import io
import os
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import h5py
import keras
import numpy as np
import pytest
from support.h5compare import differences
from support.stamped import SUFFIXES, strangers

import keras_ratchet
from keras_ratchet import ModelCheckpoint
from keras_ratchet._engine.capture.variable_buffers import VariableBuffers
from keras_ratchet._formats import keras_archive
from keras_ratchet.errors import ConfigError


def sequential():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]
    )


def two_outputs():
    x = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    left = keras.layers.Dense(1, name="left")(hidden)
    return keras.Model(x, [left, keras.layers.Dense(3, name="right")(hidden)])


def nested():
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dropout(0.5)])
    deep = keras.Model(x, keras.layers.Dense(2)(inner(inner(x))), name="deep")
    return keras.Model(x, keras.layers.Concatenate()([deep(x), keras.layers.Dense(3)(x)]))


def recurrent():
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            keras.layers.BatchNormalization(),
            keras.layers.Bidirectional(keras.layers.LSTM(3)),
            keras.layers.Dense(1),
        ]
    )


def mixed_bfloat16():
    dense = keras.layers.Dense(8, dtype="mixed_bfloat16")
    return keras.Sequential([keras.Input((4,)), dense, keras.layers.Dense(1)])


def all_bfloat16():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, dtype="bfloat16")])


def weightless():
    return keras.Sequential([keras.Input((4,)), keras.layers.Flatten()])


def compiled(model, optimizer):
    # "mse" by name would do but for `.h5`, which Keras 3.15.1 cannot load again with it
    model.compile(optimizer, keras.losses.MeanSquaredError(), metrics=["mae"])
    return model


def trained():
    model = compiled(sequential(), keras.optimizers.Adam(0.01))
    model.fit(np.ones((8, 4)), np.ones((8, 1)), epochs=1, verbose=0)
    return model


def trained_recurrent():
    model = compiled(recurrent(), keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True))
    model.fit(np.ones((8, 5, 4)), np.ones((8, 1)), epochs=1, verbose=0)
    return model


def compiled_only():
    return compiled(two_outputs(), "adam")


MODELS = [
    sequential,
    two_outputs,
    nested,
    recurrent,
    mixed_bfloat16,
    all_bfloat16,
    weightless,
    trained,
    trained_recurrent,
    compiled_only,
]


@functools.cache
def model_of(make):
    """Return a model that tests share and do not change, for to train one takes seconds."""
    return make()


def save_with(callback, model):
    """Save once, as `fit` would have the callback do it."""
    callbacks = keras.callbacks.CallbackList([callback], model=model, add_history=False)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_epoch_end(0, {"loss": 1.0})
    callbacks.on_train_end()


def save_both(model, suffix, directory):
    """Return the path of our file and that of Keras's."""
    ours, theirs = (os.path.join(directory, f"{name}{suffix}") for name in ("ours", "theirs"))
    weights_only = suffix == ".weights.h5"
    save_with(ModelCheckpoint(ours, save_weights_only=weights_only), model)
    if weights_only:
        model.save_weights(theirs)
    else:
        model.save(theirs)
    return ours, theirs


def state(model):
    """Return every value that a file holds."""
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.weights, *(optimizer.variables if optimizer and optimizer.built else [])]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def assert_same_state(model, other):
    mine, wanted = state(model), state(other)
    assert len(mine) == len(wanted)
    for a, b in zip(mine, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", MODELS)
def test_our_file_has_the_structure_and_the_values_of_kerass(make, suffix, tmp_path):
    assert differences(*save_both(model_of(make), suffix, tmp_path)) == []


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("make", MODELS)
def test_plain_keras_loads_the_model_from_our_file(make, suffix, tmp_path):
    if make is all_bfloat16 and suffix == ".h5":
        pytest.skip("Keras 3.15.1 cannot load bfloat16 from the legacy format, its own files too")
    model = model_of(make)
    ours, theirs = save_both(model, suffix, tmp_path)
    loaded = keras.models.load_model(ours)
    assert_same_state(loaded, keras.models.load_model(theirs))
    for mine, wanted in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, wanted)
    assert loaded.compiled == model.compiled


@pytest.mark.parametrize("make", MODELS)
def test_plain_keras_loads_the_weights_from_our_file(make, tmp_path):
    model = model_of(make)
    ours, _ = save_both(model, ".weights.h5", tmp_path)
    other = make()
    other.set_weights([np.zeros_like(w) for w in other.get_weights()])
    other.load_weights(ours)
    assert_same_state(other, model)


def test_an_optimizer_goes_on_from_our_file_where_it_was(tmp_path):
    model = trained()
    ours, _ = save_both(model, ".keras", tmp_path)
    loaded = keras.models.load_model(ours)
    assert int(loaded.optimizer.iterations) == 1
    assert_same_state(loaded, model)


def test_the_comparison_sees_one_changed_bit(tmp_path):
    model = sequential()
    _, theirs = save_both(model, ".weights.h5", tmp_path)
    weights = model.get_weights()
    weights[0][0, 0] = np.nextafter(weights[0][0, 0], np.float32(9))
    model.set_weights(weights)
    (tmp_path / "changed").mkdir()
    ours, _ = save_both(model, ".weights.h5", tmp_path / "changed")
    assert len(differences(ours, theirs)) == 1


def test_the_comparison_sees_a_missing_attribute(tmp_path):
    ours, theirs = save_both(sequential(), ".h5", tmp_path)
    with h5py.File(ours, "a") as file:
        del file.attrs["keras_version"]
    assert differences(ours, theirs) != []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_our_file_has_the_permissions_of_kerass(suffix, tmp_path):
    ours, theirs = save_both(sequential(), suffix, tmp_path)
    assert os.stat(ours).st_mode == os.stat(theirs).st_mode


class WithItsOwnSave(keras.Sequential):
    """A model whose files are not Keras's, as KerasHub's presets or a LoRA adapter's are."""

    fails = False

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        self._write(filepath, "model")

    def save_weights(self, filepath, overwrite=True, **kwargs):
        self._write(filepath, "weights")

    def _write(self, filepath, what):
        with open(filepath, "w") as file:
            file.write(f"my own {what}")
            if self.fails:
                raise OSError("in the middle")


def with_its_own_save():
    return WithItsOwnSave([keras.Input((4,)), keras.layers.Dense(1)])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_model_that_overrides_saving_is_saved_by_its_own_method(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    weights_only = suffix == ".weights.h5"
    save_with(ModelCheckpoint(path, save_weights_only=weights_only), with_its_own_save())
    assert path.read_text() == f"my own {'weights' if weights_only else 'model'}"
    assert strangers(str(path)) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_own_method_that_fails_leaves_the_older_file(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    model = with_its_own_save()
    checkpoint = ModelCheckpoint(path, save_weights_only=suffix == ".weights.h5")
    save_with(checkpoint, model)
    before = path.read_bytes()
    model.fails = True
    with pytest.raises(OSError, match="in the middle"):
        save_with(checkpoint, model)
    assert path.read_bytes() == before
    assert strangers(str(path)) == []


@pytest.mark.parametrize("name", ["model", "model.ckpt", "model.hdf5", "model.keras.tmp", "h5"])
def test_a_suffix_that_names_no_format_is_an_error_that_lists_them(name, tmp_path):
    with pytest.raises(ConfigError, match=r"'\.keras' or '\.h5'.*Got: .*" + name):
        ModelCheckpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "weights.h5x", "model"])
def test_weights_only_with_another_suffix_is_an_error_that_names_the_right_one(name, tmp_path):
    with pytest.raises(ConfigError, match=r"'\.weights\.h5'.*Got: .*" + name):
        ModelCheckpoint(tmp_path / name, save_weights_only=True)


def test_a_whole_model_saved_under_a_weights_name_is_what_keras_writes_there(tmp_path):
    model, name = sequential(), "model.weights.h5"
    (tmp_path / "keras").mkdir()
    save_with(keras.callbacks.ModelCheckpoint(tmp_path / "keras" / name), model)
    save_with(ModelCheckpoint(tmp_path / "ours" / name), model)
    assert differences(tmp_path / "ours" / name, tmp_path / "keras" / name) == []
    assert keras_ratchet.load_model(tmp_path / "ours" / name).count_params() == model.count_params()


def test_an_archive_beyond_four_gigabytes_is_one_that_zipfile_and_keras_read(tmp_path, monkeypatch):
    """With the limit set down: the sizes then stand in 64-bit fields."""
    model, path = sequential(), str(tmp_path / "m.keras")
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    model.compile("adam", "mse")
    save_with(ModelCheckpoint(path), model)
    monkeypatch.undo()
    raw = (tmp_path / "m.keras").read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        large = archive.getinfo("model.weights.h5")
        assert large.file_size > 1000 and large.extract_version == zipfile.ZIP64_VERSION
    descriptor = struct.pack("<LLQQ", 0x08074B50, large.CRC, large.file_size, large.file_size)
    assert raw.count(descriptor) == 1
    loaded = keras.models.load_model(path)
    for mine, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_without_zlib_ng_a_file_has_the_same_bytes(tmp_path, monkeypatch):
    if keras_archive.crc32 is zlib.crc32:
        pytest.skip("zlib-ng is not installed")
    buffers, archive = VariableBuffers(), keras_archive.KerasArchive()
    frozen = archive.freeze(sequential(), lambda sources, _: buffers.capture(sources, False))
    monkeypatch.setattr(time, "localtime", lambda *_: time.struct_time([2026, 1, 1] + [0] * 6))
    fast = io.BytesIO()
    archive.write(frozen, fast)
    monkeypatch.setattr(keras_archive, "crc32", zlib.crc32)
    plain = io.BytesIO()
    archive.write(frozen, plain)
    assert fast.getvalue() == plain.getvalue()


def test_zlib_serves_where_zlib_ng_is_not_installed():
    code = (
        "import sys; sys.modules['zlib_ng'] = None; import zlib; "
        "from keras_ratchet._formats import keras_archive; "
        "assert keras_archive.crc32 is zlib.crc32"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
