"""The commands on files that hold only what trained."""

import keras
import numpy as np
import pytest
from support.models import data

import keras_ratchet


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A directory with the files of two epochs, and with one of the whole model."""
    directory = tmp_path_factory.mktemp("run")
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(8, trainable=False, name="base"),
        keras.layers.Dense(1, name="head"),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile("adam", "mse")
    saver = keras_ratchet.ModelCheckpoint(
        directory / "{epoch}.weights.h5", "loss", save_weights_only=True, trainable_only=True
    )
    model.fit(*data(), epochs=2, verbose=0, callbacks=[saver])
    (directory / "whole").mkdir()
    model.save_weights(directory / "whole" / "m.weights.h5")
    return directory


def test_they_are_listed_and_verified(ratchet, run):
    assert [c["name"] for c in ratchet.json("ls", run)] == ["1.weights.h5", "2.weights.h5"]
    assert "2.weights.h5" in ratchet("verify", run).output


def test_show_and_a_column_of_ls_say_that_they_are_no_whole_files(ratchet, run):
    one, whole = run / "2.weights.h5", run / "whole" / "m.weights.h5"
    assert "only what trained: 2 weights left out" in ratchet("show", one).output
    assert "what trained" not in ratchet("show", whole).output
    assert ratchet.json("show", one)["trainable_only"] is True
    assert ratchet.json("show", whole)["trainable_only"] is False
    table = ratchet("ls", run, "--columns", "trainable_only").output.splitlines()
    assert [line.split() for line in table[1:]] == [["1.weights.h5", "True"], [one.name, "True"]]


def test_a_file_that_cannot_be_read_is_shown_all_the_same(ratchet, run, tmp_path):
    broken = tmp_path / "b.weights.h5"
    broken.write_bytes((run / "2.weights.h5").read_bytes()[:100])
    assert "what trained" not in ratchet("show", broken).output
    assert ratchet.json("show", broken)["trainable_only"] is None
    columns = ("--columns", "trainable_only")
    assert ratchet.json("ls", tmp_path, *columns)[0]["trainable_only"] is None


def test_diff_and_export_say_what_is_not_there(ratchet, run, tmp_path):
    one, other = run / "1.weights.h5", run / "2.weights.h5"
    result = ratchet("diff", one, other)
    assert "2 weights differ, 0 are the same" in result.stdout
    assert "has only what trained: 2 weights less than the model" in result.stderr
    result = ratchet("export", other, "-o", tmp_path / "a.npz")
    assert "has only what trained" in result.stderr
    with np.load(tmp_path / "a.npz") as arrays:
        assert sorted(arrays.files) == ["head/bias", "head/kernel"]


def test_diff_with_a_whole_file_pairs_what_both_have(ratchet, run):
    found = ratchet.json("diff", run / "2.weights.h5", run / "whole" / "m.weights.h5")
    kinds = {w["name"].rpartition("/")[0]: w["change"] for w in found["weights"]}
    assert kinds == {"head": "same", "base": "only in B"}


def test_a_soup_of_them_is_one_of_them(ratchet, run, tmp_path):
    soup = tmp_path / "soup.weights.h5"
    ratchet("soup", run, "-o", soup)
    layers = [keras.layers.Dense(8), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    kept = keras_ratchet.load_weights(model, soup)
    assert kept == [variable.path for variable in model.layers[0].weights]
