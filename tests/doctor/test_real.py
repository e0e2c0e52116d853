"""The doctor on a real script, on the backend under test; and where callbacks save meanwhile."""

import json
import os
import sys
from pathlib import Path

import keras
import pytest
from click.testing import CliRunner

import keras_ratchet
from keras_ratchet._engine.saving.place import place_of
from keras_ratchet._probe.process import refuse_keras_backups
from keras_ratchet.cli import main
from keras_ratchet.errors import ConfigError

SCRIPT = """
import os
import keras
import numpy as np
import keras_ratchet

keras.utils.set_random_seed(1)
x = np.random.default_rng(0).normal(size=(96, 8)).astype("float32")
layers = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
model = keras.Sequential([keras.Input((8,)), *layers])
model.compile("adam", "mse")
model.fit(x, x.sum(axis=1), batch_size=12, epochs=3, validation_split=0.25, verbose=0, callbacks=[
    keras_ratchet.BackupAndRestore(os.environ["MINE"] + "/backup", save_freq=2),
    keras_ratchet.ModelCheckpoint("best.keras", save_best_only=True),
    keras_ratchet.EarlyStopping(patience=2),
])
"""


def test_a_real_script_that_is_killed_ends_as_a_whole_one_does(tmp_path, monkeypatch):
    mine, here = tmp_path / "mine", tmp_path / "here"
    here.mkdir()
    (here / "train.py").write_text(SCRIPT)
    monkeypatch.setenv("MINE", str(mine))
    monkeypatch.chdir(here)
    report = tmp_path / "report.html"
    options = ["--kills", "2", "--seed", "3", "--json", "--report", str(report)]
    result = CliRunner().invoke(main, ["doctor", *options, "--", sys.executable, "train.py"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout[result.stdout.index("{\n") :])
    assert found["fine"] and len(found["kills"]) == 2 and found["steps"] == 18
    compared = {part["part"] for part in found["kills"][0]["comparison"]["parts"]}
    wanted = {"model", "optimizers", "metrics", "history", "callbacks", "random streams"}
    assert compared >= {*wanted, "model files", "decisions", "data position"}
    assert "ended as the whole run did" in report.read_text()
    assert not mine.exists() and os.listdir(here) == ["train.py"]


def place(path):
    return Path(place_of(str(path), "backup_dir", None, None, False)[0])


def test_in_place_nothing_is_saved_where_the_user_s_snapshots_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outside = tmp_path / "outside"
    assert place("backup") == Path("backup")
    monkeypatch.setenv("RATCHET_DOCTOR_OUTSIDE", str(outside))
    assert place("backup").is_relative_to(outside)
    assert place("backup") == place(tmp_path / "backup")
    assert place("s3://bucket/run").is_relative_to(outside)


def test_in_a_scratch_directory_a_path_that_leads_out_of_it_is_saved_elsewhere(
    tmp_path, monkeypatch
):
    outside, work, mine = (tmp_path / name for name in ("outside", "work", "mine"))
    work.mkdir()
    (mine / "sub").mkdir(parents=True)
    (work / "runs").symlink_to(mine)
    monkeypatch.chdir(work)
    monkeypatch.setenv("RATCHET_DOCTOR_OUTSIDE", str(outside))
    monkeypatch.setenv("RATCHET_DOCTOR_SCRATCH", str(work))
    for inside in ("backup", work / "backup"):
        assert place(inside) == Path(inside)
    for beyond in ("runs/backup", work / "runs" / "backup", "../mine/backup", mine / "backup"):
        assert place(beyond) == outside / mine.relative_to("/") / "backup"
    monkeypatch.chdir(mine / "sub")  # what a script does that wants to be where it lies
    assert place("../backup") == outside / mine.relative_to("/") / "backup"


def test_a_backup_of_keras_outside_of_the_scratch_directory_is_refused(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / "link").symlink_to(tmp_path)
    monkeypatch.chdir(work)
    theirs, ours = keras.callbacks.BackupAndRestore, keras_ratchet.BackupAndRestore
    refuse_keras_backups([theirs(str(tmp_path / "backup"))])  # no doctor
    monkeypatch.setenv("RATCHET_DOCTOR_SCRATCH", str(work))
    refuse_keras_backups([theirs("backup"), ours(tmp_path / "ours"), keras.callbacks.Callback()])
    for outside in (str(tmp_path / "backup"), "link/backup"):
        with pytest.raises(ConfigError, match="delete it"):
            refuse_keras_backups([theirs(outside)])
