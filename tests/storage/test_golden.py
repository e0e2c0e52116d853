"""Checkpoints that were written when schema 1 was new: they verify and load for ever."""

import json
import math
import re
import shutil
from pathlib import Path

import fsspec
import keras
import numpy as np
import pytest
from click.testing import CliRunner
from support.versions import KERAS

import keras_ratchet
from keras_ratchet._formats.safetensors import read_arrays
from keras_ratchet._storage import single_file, snapshot_directory
from keras_ratchet._storage.manifest import SCHEMA, read_manifest
from keras_ratchet.cli import main
from keras_ratchet.types import Position

GOLDEN = Path(__file__).parent.parent / "golden" / "schema1"
SINGLE = ["epoch-1.h5", "epoch-1.keras", "epoch-1.weights.h5", "epoch-2.keras"]
SNAPSHOT = "epoch-00003-batch-0000004"


def weights(number):
    shapes = [(2, 2), (2,), (2, 1), (1,)]
    return [np.full(s, number + i / 8, "float32") for i, s in enumerate(shapes)]


def assert_holds(model, number):
    for found, expected in zip(model.get_weights(), weights(number), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_schema_1_is_what_is_written_today():
    """When this fails, make golden files of the new schema and keep these."""
    assert SCHEMA == 1


@pytest.mark.parametrize("name", [*SINGLE, SNAPSHOT])
def test_they_verify(name):
    assert keras_ratchet.verify(str(GOLDEN / name))


def test_they_are_listed_with_all_that_was_known():
    infos = {info.name: info for info in keras_ratchet.checkpoints(str(GOLDEN))}
    assert sorted(infos) == sorted([*SINGLE, SNAPSHOT])
    first, snapshot = infos["epoch-1.keras"], infos[SNAPSHOT]
    assert first.position == Position(1, 0, 10)
    assert {k: v for k, v in first.metrics.items() if k != "odd"} == {
        "val_accuracy": 0.5,
        "val_loss": 1.0,
    }
    assert math.isnan(first.metrics["odd"])
    assert first.ranking == (("val_loss", "min"), ("val_accuracy", "max"))
    assert first.reason == "val_loss improved to 1.00000 — “gold”"
    assert first.series == "epoch-{epoch}.keras"
    assert first.saved_at == 1_700_000_001.5
    assert first.versions == {"keras": "3.15.1", "backend": "torch"}
    assert first.fingerprint == "0123456789abcdef0123456789abcdef"
    assert first.size_bytes == (GOLDEN / "epoch-1.keras").stat().st_size
    assert first.pinned
    assert not infos["epoch-2.keras"].pinned
    assert snapshot.is_directory
    assert snapshot.position == Position(3, 4, None)


@pytest.mark.skipif(
    KERAS < (3, 13), reason="Keras before 3.13 refuses the Dense layers of any later file"
)
def test_they_load():
    assert_holds(keras_ratchet.load_model(GOLDEN), 2)
    assert_holds(keras_ratchet.load_model(GOLDEN, "epoch-1.keras"), 1)
    assert_holds(keras_ratchet.load_model(GOLDEN / "epoch-1.h5"), 1)
    model = keras_ratchet.load_model(GOLDEN)
    keras_ratchet.load_weights(model, GOLDEN / "epoch-1.weights.h5")
    assert_holds(model, 1)
    assert isinstance(model.optimizer, keras.optimizers.SGD)


def test_their_weights_load_into_a_model_that_is_there():
    layers = [keras.layers.Dense(n, name=name) for n, name in [(2, "hidden"), (1, "out")]]
    model = keras.Sequential([keras.Input((2,), name="x"), *layers])
    keras_ratchet.load_weights(model, GOLDEN)
    assert_holds(model, 2)
    keras_ratchet.load_weights(model, GOLDEN / "epoch-1.weights.h5")
    assert_holds(model, 1)


def test_the_state_of_the_snapshot_is_read():
    arrays = read_arrays(str(GOLDEN / SNAPSHOT / "state.safetensors"))
    for name, expected in zip(sorted(arrays), weights(3), strict=True):
        np.testing.assert_array_equal(arrays[name], expected)
    assert json.loads((GOLDEN / SNAPSHOT / "state.json").read_text()) == {"position": [3, 4, 34]}


def reader_in_the_docs():
    page = (GOLDEN.parent.parent.parent / "docs" / "formats.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    reader = {}
    exec(compile("\n".join(blocks), "docs/formats.md", "exec"), reader)
    return reader


def test_the_reader_in_the_docs_reads_a_store(tmp_path):
    url, reader = "memory://golden/run", reader_in_the_docs()
    shutil.copytree(GOLDEN, tmp_path / "run")
    pushed = CliRunner().invoke(main, ["push", str(tmp_path / "run"), url])
    assert pushed.exit_code == 0, pushed.output
    fs, root = fsspec.core.url_to_fs(url)
    found = {name: (record, facts) for name, record, facts in reader["newest"](fs, root)}
    listed = [info for info in keras_ratchet.checkpoints(url) if info.has_manifest]
    assert set(found) == {info.name for info in listed} != set()
    for record, facts in found.values():
        for file in facts["files"]:
            assert reader["read_file"](fs, root, record, facts, file)
        [file] = list(facts["files"])[:1]
        bad = {**facts, "files": {file: {"bytes": 1, "xxh3_128": "0" * 32}}}
        with pytest.raises(ValueError, match="is damaged"):
            reader["read_file"](fs, root, record, bad, file)


def test_the_reader_in_the_docs_reads_them():
    """docs/formats.md promises that a reader can be written from it; there is one on the page."""
    reader = reader_in_the_docs()
    places = [(GOLDEN, path) for path in (GOLDEN / single_file.METADATA).glob("*.json")]
    places.append((GOLDEN / SNAPSHOT, GOLDEN / SNAPSHOT / snapshot_directory.MANIFEST))
    for directory, path in places:
        manifest = reader["read_manifest"](path)
        assert reader["is_whole"](directory, manifest)
        ours = read_manifest(str(path))
        assert manifest["saved_at"] == ours.saved_at
        assert {n: r["xxh3_128"] for n, r in manifest["files"].items()} == {
            name: record.digest for name, record in ours.files.items()
        }
    bad = {**manifest, "files": {"state.json": {"bytes": 24, "xxh3_128": "0" * 32}}}
    assert not reader["is_whole"](GOLDEN / SNAPSHOT, bad)


@pytest.mark.parametrize(
    "path",
    [
        *sorted((GOLDEN / single_file.METADATA).glob("*.json")),
        GOLDEN / SNAPSHOT / snapshot_directory.MANIFEST,
    ],
    ids=lambda path: path.name,
)
def test_the_same_facts_give_the_same_manifest_today_byte_for_byte(path):
    assert read_manifest(str(path)).to_bytes() == path.read_bytes()


def test_a_sweep_leaves_them_alone(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "copy")
    before = sorted((tmp_path / "copy").rglob("*"))
    assert single_file.sweep(str(tmp_path / "copy"), lambda name: True) == []
    assert snapshot_directory.sweep_snapshots(str(tmp_path / "copy")) == []
    assert sorted((tmp_path / "copy").rglob("*")) == before


def test_they_are_small_and_all_there():
    paths = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) < 100_000
    assert len(paths) == 4 + 4 + 1 + 3
