"""The doctor on real scripts: those that break on purpose, and one of which a part is left out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "scripts"


def doctor(tmp_path, script, kills, **environment):
    """Run the command on a script in a directory of the user's; return what it found, as data."""
    for file in (SCRIPTS / script, SCRIPTS / "small.py"):
        shutil.copy(file, tmp_path)
    command = [sys.executable, "-m", "keras_ratchet", "doctor", "--json", "--seed", "3"]
    command += ["--kills", str(kills), "--", sys.executable, script]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


def kinds_of(report):
    return [cause["kind"] for cause in report["causes"]]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("unseeded_augmentation.py", "unseeded augmentation"),
        ("random_order.py", "nondeterministic data order"),
    ],
)
def test_a_script_that_is_not_reproducible_is_told_why(tmp_path, script, kind):
    code, report = doctor(tmp_path, script, kills=0)
    assert code == 1
    assert kinds_of(report) == [kind]
    parting = report["whole"]["parting"]
    assert parting["place"] == [0, 0, 0]  # fit, epoch, batch
    assert any("layers/dense" in name for name in parting["variables"])


def test_state_in_a_closure_is_named(tmp_path):
    code, report = doctor(tmp_path, "state_in_closure.py", kills=1)
    assert code == 1
    assert kinds_of(report) == ["state in a closure"]
    assert "count, in the closure of lower (state_in_closure.py:" in report["causes"][0]["sentence"]


def test_a_file_that_a_callback_writes_is_named_with_its_line(tmp_path):
    code, report = doctor(tmp_path, "callback_writes_file.py", kills=2)
    assert code == 1
    (cause,) = report["causes"]
    assert cause["kind"] == "a file is written"
    assert "losses.txt" in cause["sentence"]
    assert "callback_writes_file.py:" in cause["sentence"]
    assert "LineLogger" in cause["sentence"]
    assert not (tmp_path / "losses.txt").exists()  # the user's directory is as it was


def test_an_exact_script_passes(tmp_path):
    code, report = doctor(tmp_path, "leave_out.py", kills=3)
    assert code == 0, report
    assert len(report["kills"]) == 3
    assert not report["causes"]


@pytest.mark.parametrize(
    ("left_out", "part"),
    [("optimizer", "optimizers"), ("random streams", "random streams"), ("callbacks", "history")],
)
def test_a_part_that_is_not_restored_is_found(tmp_path, left_out, part):
    code, report = doctor(tmp_path, "leave_out.py", kills=1, LEAVE_OUT=left_out)
    assert code == 1
    (kill,) = report["kills"]
    parts = {p["part"]: p["status"] for p in kill["comparison"]["parts"]}
    assert parts[part] != "equal"
    assert kill["comparison"]["causes"]
