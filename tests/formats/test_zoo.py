"""Our files are Keras's, byte for byte, on models of every kind, written beside training.

Each model of support/zoo.py is saved twice, by Keras and by us, with other values the second time;
as soon as our hook has returned the values change again, as they do when training goes on.
"""

import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from support import keras_files, zoo
from support.h5compare import differences
from support.keras_files import BY_KERAS, Saves, members
from support.stamped import SUFFIXES

from keras_ratchet._engine.capture.variable_buffers import VariableBuffers
from keras_ratchet._keras.saving import Parts

SEEDS = (1, 2)
LATER = 99


class Visit:
    """A model of the zoo, and what became of its saves.

    Attributes:
        ours: Paths of our files by suffix, one for each of `SEEDS`.
        theirs: Bytes of Keras's files by suffix, likewise; or the error that Keras raised.
        failed: The error that we raised, by suffix.
        said: What was logged meanwhile.
    """

    def __init__(self, name, directory):
        self.entry, self.directory = zoo.ZOO[name], directory
        self.name, self.model = name, self.entry.make()
        self.ours, self.theirs, self.failed, self.said = {}, {}, {}, []
        for suffix in SUFFIXES:
            self._save(suffix)

    def _save(self, suffix):
        theirs, said = self.theirs.setdefault(suffix, []), []
        try:
            saves = Saves(self.model, suffix, self.directory)
            said = saves.said
            for seed in SEEDS:
                zoo.stir(self.model, seed)
                theirs.append(_or_error(BY_KERAS[suffix], self.model))
                saves.save(then=lambda: zoo.stir(self.model, LATER))
            self.ours[suffix] = saves.end()
        except Exception as error:
            self.failed[suffix] = error  # perhaps when training begins
            theirs += [] if theirs else [_or_error(BY_KERAS[suffix], self.model)]
        self.said += [line for line in said if "safe_mode=False" not in line]

    def pairs(self, suffix):
        """Return our bytes and Keras's of each save."""
        return list(zip(map(read, self.ours[suffix]), self.theirs[suffix], strict=True))

    def put_theirs(self, suffix):
        """Return the path of a file with Keras's bytes of the last save."""
        path = self.directory / f"theirs{suffix}"
        path.write_bytes(self.theirs[suffix][-1])
        return str(path)

    def again(self):
        """Return the model with the values of the last save."""
        zoo.stir(self.model, SEEDS[-1])
        return self.model


def read(path):
    with open(path, "rb") as file:
        return file.read()


def _or_error(action, *arguments):
    try:
        return action(*arguments)
    except Exception as error:
        return error


@pytest.fixture(scope="module", params=zoo.inhabitants())
def visit(request, tmp_path_factory):
    return Visit(request.param, tmp_path_factory.mktemp("zoo"))


def test_a_weights_file_is_byte_for_byte_kerass(visit):
    for ours, theirs in visit.pairs(".weights.h5"):
        assert same(ours, theirs)


def test_a_weights_file_has_nothing_else_in_it_than_one_that_keras_writes_to_a_path(visit):
    path = str(visit.directory / "keras.weights.h5")
    visit.again().save_weights(path)
    assert differences(visit.ours[".weights.h5"][-1], path) == []


def test_an_archive_is_kerass_member_by_member(visit):
    for ours, theirs in visit.pairs(".keras"):
        assert between_archives(ours, theirs) == []


def test_a_legacy_file_is_byte_for_byte_kerass_or_refused_like_kerass(visit):
    refused = [error for error in visit.theirs[".h5"] if isinstance(error, Exception)]
    assert bool(refused) == (visit.name in zoo.NOT_LEGACY)
    if not refused:
        for ours, theirs in visit.pairs(".h5"):
            assert same(ours, theirs)
    elif ".h5" in visit.failed:
        assert isinstance(visit.failed[".h5"], type(refused[0]))


def test_two_saves_hold_different_values(visit):
    (_, first), (_, second) = visit.pairs(".weights.h5")
    assert same(first, second) == (visit.name == "weightless")


def test_training_waits_for_no_model(visit):
    assert not any("training waits" in line for line in visit.said)
    if visit.name not in zoo.NOT_LEGACY:
        assert (visit.said, visit.failed) == ([], {})


def test_plain_keras_loads_the_model_and_the_weights_from_our_files(visit):
    loaded, wanted = load(visit.ours[".keras"][-1]), visit.again()
    if visit.entry.lossy:
        wanted = load(visit.put_theirs(".keras"))
    assert_same_state(loaded, wanted, visit.entry)
    for mine, other in zip(own(loaded, "assets"), own(wanted, "assets"), strict=True):
        assert mine == other
    zoo.stir(loaded, LATER)
    loaded.load_weights(visit.ours[".weights.h5"][-1])
    if visit.entry.lossy:
        zoo.stir(wanted, LATER)
        wanted.load_weights(visit.put_theirs(".weights.h5"))
    assert_same_state(loaded, wanted, visit.entry)


def load(path):
    """Load a model in plain Keras; not in safe mode, which refuses pickled torch modules."""
    return keras.models.load_model(path, safe_mode=False)


def assert_same_state(model, other, entry):
    for mine, wanted in zip(state(model), state(other), strict=True):
        assert mine.dtype == wanted.dtype
        np.testing.assert_array_equal(mine, wanted)
    example = entry.example()
    for mine, wanted in zip(outputs(model, example), outputs(other, example), strict=True):
        np.testing.assert_array_equal(mine, wanted)


def state(model):
    """Return all values that a weights file holds."""
    variables = list(model.weights)
    for optimizer in zoo.optimizers(model):
        variables += optimizer.variables
    return [as_array(value) for value in [*variables, *own(model, "values")]]


def own(model, method):
    """Return what the zoo's own layers hold."""
    layers = [layer for layer in model._flatten_layers() if hasattr(layer, method)]
    return [value for layer in layers for value in getattr(layer, method)()]


def outputs(model, example):
    return [as_array(value) for value in keras.tree.flatten(model(example, training=False))]


def as_array(value):
    array = np.asarray(keras.ops.convert_to_numpy(value))
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def same(ours, theirs):
    """Compare bytes; a bare `==` in an assertion would print megabytes."""
    return ours == theirs


def between_archives(ours, theirs):
    """Return what differs between two `.keras` files but their dates, as sentences."""
    mine, wanted = members(ours), members(theirs)
    if list(mine) != list(wanted):
        return [f"members: {list(mine)} instead of {list(wanted)}"]
    for each in (mine, wanted):
        metadata = json.loads(each["metadata.json"])
        each["metadata.json"] = {**metadata, "date_saved": None}
    return [f"{name} differs" for name in mine if mine[name] != wanted[name]]


@pytest.mark.parametrize("name", ["gradient_accumulation", "mixed_float16", "moving_averages"])
def test_an_optimizer_goes_on_from_our_file_where_it_was(name, tmp_path):
    model = zoo.ZOO[name].make()
    x, y = zoo.rows(8, 4), zoo.rows(8, 1)
    model.run_eagerly = True
    for _ in range(3):
        model.train_on_batch(x, y)
    saves = Saves(model, ".keras", tmp_path)
    saves.save()
    model.train_on_batch(x, y)
    loaded = load(saves.end()[0])
    loaded.run_eagerly = True
    loaded.train_on_batch(x, y)
    for mine, wanted in zip(state(loaded), state(model), strict=True):
        np.testing.assert_array_equal(mine, wanted)


# What may happen to a model between two saves.


def add_a_layer(model):
    model.add(keras.layers.Dense(3))


def add_a_layer_without_weights(model):
    model.add(keras.layers.Flatten())


def remove_a_layer(model):
    model.pop()


def put_a_layer_into_a_list_in_a_list(model):
    model.layers[-1]._tracker.unlock()
    model.layers[-1].deep[0].append(keras.layers.Rescaling(2.0))


def exchange_two_layers(model):
    pair = model.layers[-1]
    pair.left, pair.right = pair.right, pair.left


def rename_a_layer(model):
    model.layers[2].name = "another_name"


def replace_a_layer(model):
    model.layers[-1]._tracker.unlock()
    model.layers[-1].left = keras.layers.Dense(2)


def build_a_layer_late(model):
    model.layers[-1].maybe.build((None, 5))


def freeze_a_layer(model):
    model.layers[2].trainable = False


def quantize_to_int8(model):
    build_a_layer_late(model)  # or else it cannot be quantized
    zoo.quantize(model, "int8")


def quantize_to_int4(model):
    build_a_layer_late(model)  # or else it cannot be quantized
    zoo.quantize(model, "int4")


def enable_lora(model):
    model.layers[0].enable_lora(2)
    model.layers[2].enable_lora(2)


def enable_lora_and_train(model):
    enable_lora(model)
    added = model.layers[2].lora_kernel_b
    added.assign(zoo.rows(*added.shape))


def compile_anew(model):
    model.compile(keras.optimizers.Nadam(), "mae", metrics=["mse"])


def build_the_optimizer_late(model):
    model.optimizer.build(model.trainable_variables)


def build_the_optimizer_of_a_layer_late(model):
    model.layers[-1].optimizer.build(model.layers[-1].left.trainable_variables)


def compile_anew_and_build(model):
    compile_anew(model)
    build_the_optimizer_late(model)


def change_the_learning_rate(model):
    model.optimizer.learning_rate = 0.123


def save_another_key(model):
    model.layers[3].extra = np.arange(3)


def save_another_kind_of_array(model):
    model.layers[3].history = model.layers[3].history.astype("float16")


CHANGES = [
    add_a_layer,
    add_a_layer_without_weights,
    remove_a_layer,
    put_a_layer_into_a_list_in_a_list,
    exchange_two_layers,
    rename_a_layer,
    replace_a_layer,
    build_a_layer_late,
    freeze_a_layer,
    quantize_to_int8,
    quantize_to_int4,
    enable_lora,
    enable_lora_and_train,
    compile_anew,
    build_the_optimizer_late,
    build_the_optimizer_of_a_layer_late,
    compile_anew_and_build,
    change_the_learning_rate,
    save_another_key,
    save_another_kind_of_array,
]


def changed(change, suffix, directory):
    """Save, change the model, save again; return the last bytes of ours and of Keras's."""
    model = zoo.changeable()
    model.compile("adam", "mse")
    saves = Saves(model, suffix, directory)
    saves.save()
    change(model)
    theirs = BY_KERAS[suffix](model)
    saves.save()
    return read(saves.end()[-1]), theirs


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_remembered_of_a_model_is_forgotten_when_it_has_changed(change, tmp_path):
    assert same(*changed(change, ".weights.h5", tmp_path))
    assert between_archives(*changed(change, ".keras", tmp_path / "archive")) == []


@pytest.mark.parametrize("change", [compile_anew_and_build, change_the_learning_rate])
def test_the_drawing_of_a_legacy_file_is_forgotten_when_it_has_changed(change, tmp_path):
    assert same(*changed(change, ".h5", tmp_path))


# Negative controls: each comparison sees what it is there for.


@pytest.mark.parametrize("change", [add_a_layer_without_weights, exchange_two_layers])
def test_a_walk_that_is_remembered_for_too_long_would_be_seen(change, tmp_path, monkeypatch):
    monkeypatch.setattr(Parts, "are_those_of", lambda *_: True)
    assert not same(*changed(change, ".weights.h5", tmp_path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_values_that_are_not_held_would_be_seen(suffix, tmp_path, monkeypatch):
    capture = VariableBuffers.capture
    monkeypatch.setattr(
        VariableBuffers, "capture", lambda self, sources, *_: capture(self, sources, False)
    )
    for ours, theirs in Visit("sequential", tmp_path).pairs(suffix):
        differ = between_archives if suffix == ".keras" else bytes.__ne__
        assert differ(ours, theirs)


def test_one_changed_bit_is_seen(tmp_path):
    model = zoo.ZOO["sequential"].make()
    before = keras_files.archive(model)
    weights = model.get_weights()
    weights[0][0, 0] = np.nextafter(weights[0][0, 0], np.float32(9))
    model.set_weights(weights)
    assert between_archives(keras_files.archive(model), before) == ["model.weights.h5 differs"]
    assert between_archives(keras_files.archive(model), keras_files.archive(model)) == []


@pytest.mark.parametrize("missing", ["attribute", "group"])
def test_a_missing_attribute_or_group_is_seen(missing):
    whole = keras_files.weights(zoo.ZOO["sequential"].make())
    less = io.BytesIO(whole)
    with h5py.File(less, "a") as file:
        if missing == "group":
            del file["layers/dropout"]
        else:
            del file["layers/dropout/vars"].attrs["name"]
    assert not same(less.getvalue(), whole)
    assert differences(less, io.BytesIO(whole)) != []


def test_another_order_is_seen():
    model = zoo.ZOO["own_assets"].make()
    theirs = keras_files.archive(model)
    turned = io.BytesIO()
    with zipfile.ZipFile(turned, "w") as archive:
        for name, data in reversed(members(theirs).items()):
            archive.writestr(name, data)
    assert "members" in between_archives(turned.getvalue(), theirs)[0]


class OwnSave(keras.Sequential):
    """A model whose files are not Keras's."""

    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        with open(filepath, "w") as file:
            file.write("my own")


def test_training_waits_for_a_model_with_a_save_method_of_its_own_and_says_so_once(tmp_path):
    saves = Saves(OwnSave([keras.Input((4,)), keras.layers.Dense(1)]), ".keras", tmp_path)
    saves.save()
    saves.save()
    assert [read(path) for path in saves.end()] == [b"my own"] * 2
    assert len(saves.said) == 1
    assert "OwnSave has its own save method, so it is saved in the hook" in saves.said[0]
