"""`metadata=`: plain data of the user's in every manifest, wherever it goes."""

import enum
import itertools
import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from support.checkpoints import facts, save
from support.resuming import arrays, model

import keras_ratchet
from keras_ratchet._storage.manifest import manifest_of_bytes
from keras_ratchet._storage.metadata import checked
from keras_ratchet.cli import main
from keras_ratchet.errors import ConfigError, LoadError

GIVEN = {"lr": 0.1, "data": {"name": "digits", "rows": 40}, "tags": ["a", None, True]}


def train(*callbacks, epochs=2):
    x, y = arrays()
    model().fit(x, y, batch_size=10, epochs=epochs, verbose=0, callbacks=list(callbacks))


def ratchet(*args):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A directory of two files whose metadata differ."""
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    count = itertools.count(1)
    path = str(tmp_path / "run" / "epoch-{epoch}.keras")
    given = {"metadata": lambda: {**GIVEN, "save": next(count)}}
    keras.utils.set_random_seed(1)  # so that the second epoch is the better one
    train(keras_ratchet.ModelCheckpoint(path, "loss", mode="min", **given))
    return tmp_path / "run"


def test_a_dict_is_in_every_manifest(tmp_path):
    heard = []
    train(
        keras_ratchet.ModelCheckpoint(tmp_path / "a.keras", metadata=GIVEN, on_saved=heard.append),
        keras_ratchet.BackupAndRestore(
            tmp_path / "run", metadata={"kind": "snapshot"}, delete_checkpoint=False
        ),
    )
    assert {info.name: info.metadata for info in heard} == {"a.keras": GIVEN}
    assert [i.metadata for i in keras_ratchet.checkpoints(tmp_path) if not i.is_directory] == [
        GIVEN
    ]
    snapshots = keras_ratchet.checkpoints(tmp_path / "run")
    assert [info.metadata for info in snapshots] == [{"kind": "snapshot"}] * len(snapshots)
    assert snapshots


def test_a_function_is_asked_at_each_save(run):
    assert [i.metadata["save"] for i in keras_ratchet.checkpoints(run)] == [1, 2]


def test_a_dict_that_is_changed_later_is_what_it_was(tmp_path):
    given = {"lr": 0.1}
    checkpoint = keras_ratchet.ModelCheckpoint(tmp_path / "a.keras", metadata=given)
    given["lr"] = object()
    train(checkpoint)
    assert keras_ratchet.checkpoints(tmp_path)[0].metadata == {"lr": 0.1}


class Color(enum.IntEnum):
    RED = 3


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (np.float64(0.5), 0.5),
        (Color.RED, 3),
        ((1, 2), [1, 2]),
        ("\ud800", "\ud800"),
    ],
)
def test_what_json_can_hold_is_stored(value, stored):
    assert checked({"x": value}) == {"x": stored}
    manifest = facts(1).__class__({}, metadata=checked({"x": value}))
    assert manifest_of_bytes(manifest.to_bytes(), "here").metadata == {"x": stored}


DEEP = []
for _ in range(50):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": np.float32(1)}, r"metadata\['lr'\] must be plain.*numpy.float32"),
        ({"a": {"b": [1, {2}]}}, r"metadata\['a'\]\['b'\]\[1\] must be plain"),
        ({1: 2}, "keys of metadata must be strings. Got: 1"),
        ({"a": {1: 2}}, r"keys of metadata\['a'\] must be strings"),
        ([1], "metadata must be a dict, or a function"),
        ({"a": "x" * (1 << 19)}, "at most 262144 fit"),
        ({"a": DEEP}, "nested deeper"),
        ({"a": 10**5000}, "cannot be written as JSON"),
    ],
)
def test_what_it_cannot_hold_is_named_when_it_is_given(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        keras_ratchet.ModelCheckpoint(tmp_path / "a.keras", metadata=given)
    with pytest.raises(ConfigError, match=message):
        keras_ratchet.BackupAndRestore(tmp_path / "run", metadata=given)


@pytest.mark.parametrize("background", [False, True])
def test_a_function_that_returns_no_plain_data_costs_no_file(tmp_path, background):
    given = {"metadata": lambda: {"model": object()}, "background": background}
    with pytest.raises(ConfigError, match=r"metadata\['model'\]"):
        train(keras_ratchet.ModelCheckpoint(tmp_path / "a.keras", **given))
    [info] = keras_ratchet.checkpoints(tmp_path)
    assert keras_ratchet.verify(info.path)
    assert info.metadata == {}
    with pytest.raises(ConfigError, match=r"metadata\['model'\]"):
        train(keras_ratchet.BackupAndRestore(tmp_path / "run", **given))
    assert all(keras_ratchet.verify(i.path) for i in keras_ratchet.checkpoints(tmp_path / "run"))
    assert keras_ratchet.checkpoints(tmp_path / "run")


def test_an_error_of_the_function_is_raised_as_it_is(tmp_path):
    def metadata():
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(keras_ratchet.ModelCheckpoint(tmp_path / "a.keras", metadata=metadata))
    assert keras_ratchet.verify(tmp_path / "a.keras")


def test_a_manifest_whose_metadata_is_no_object_is_refused():
    from keras_ratchet._storage.manifest import seal

    raw = seal(b'{"schema": 1, "files": {}, "metadata": [1]\n}')
    with pytest.raises(LoadError, match="metadata is a list"):
        manifest_of_bytes(raw, "here")


def test_it_is_on_a_store_and_comes_back(run, tmp_path):
    url = f"memory://{tmp_path.name}/metadata"
    before = [info.metadata for info in keras_ratchet.checkpoints(run)]
    ratchet("push", run, url)
    assert [info.metadata for info in keras_ratchet.checkpoints(url)] == before
    ratchet("pull", url, tmp_path / "back")
    assert [info.metadata for info in keras_ratchet.checkpoints(tmp_path / "back")] == before


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_store_tells_metadata_that_is_too_long_for_a_key(tmp_path, size, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    noise = "".join(np.random.default_rng(1).choice(list("abcdefgh"), size))
    url = f"memory://{tmp_path.name}/long"
    train(keras_ratchet.ModelCheckpoint(f"{url}/a.keras", metadata={"noise": noise}))
    [info] = keras_ratchet.checkpoints(url)
    assert info.metadata == {"noise": noise}


def test_show_prints_it(run):
    shown = ratchet("show", run / "epoch-2.keras")
    assert "meta lr" in shown and '{"name": "digits", "rows": 40}' in shown
    data = json.loads(ratchet("show", run / "epoch-2.keras", "--json"))
    assert data["metadata"] == {**GIVEN, "save": 2}


def test_ls_shows_the_columns_that_are_asked_for(run):
    head, first, second = ratchet(
        "ls", run, "--columns", "save,meta.lr,data.rows,epoch"
    ).splitlines()
    assert head.split() == ["name", "save", "meta.lr", "data.rows", "epoch"]
    assert first.split() == ["epoch-1.keras", "1", "0.1", "40", "1"]
    assert second.split()[1] == "2"
    columns = "epoch,name,loss,marks,verified,meta.tags"
    found = json.loads(ratchet("ls", run, "--verify", "--json", "--columns", columns))
    assert list(found[0]) == columns.split(",")
    assert found[1]["marks"] == ["best", "last"]
    assert found[1]["verified"] == "ok"
    assert found[1]["meta.tags"] == ["a", None, True]
    assert isinstance(found[0]["loss"], float)


def test_ls_names_a_column_that_nothing_has(run):
    result = CliRunner().invoke(main, ["ls", str(run), "--columns", "epok"])
    assert result.exit_code == 2
    assert "Did you mean epoch" in result.output
    result = CliRunner().invoke(main, ["ls", str(run), "--columns", " ,"])
    assert result.exit_code == 2 and "needs names" in result.output


def test_a_checkpoint_without_the_value_shows_a_dash(run):
    save(str(run), "epoch-09.keras", facts(9, val_loss=1.0))
    last = ratchet("ls", run, "--columns", "lr,val_loss").splitlines()[1:]
    assert sorted(line.split()[1:] for line in last) == [["-", "1"], ["0.1", "-"], ["0.1", "-"]]


def test_adopt_adds_metadata_and_keeps_what_was_there(run):
    path = run / "epoch-1.keras"
    ratchet("adopt", path, "--force", "--metadata", "lr=1e-3", "--metadata", "note=by hand")
    info = next(i for i in keras_ratchet.checkpoints(run) if i.name == path.name)
    assert info.metadata == {**GIVEN, "save": 1, "lr": 1e-3, "note": "by hand"}
