"""The whole examination, on a script without Keras that can be broken in every way."""

import os
import signal
import subprocess
import sys
import time

import pytest

from keras_ratchet._doctor import examination


def parts(comparison):
    return {part["part"]: part["status"] for part in comparison["parts"]}


def kinds(found):
    return {cause["kind"] for cause in found["causes"]}


def processes_with(text):
    """Return the processes whose environment holds a text."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if text.encode() in file.read():
                    found.append(int(name))
        except OSError:
            continue
    return found


def test_a_script_that_is_right_is_said_to_be_right(doctor, here):
    found = doctor(code=0)
    assert found["fine"] and found["is_reproducible"] and len(found["kills"]) == 4
    assert [kill["planned"] for kill in found["kills"]] == [
        "in a save",
        "in a batch",
        "in validation",
        "between epochs",
    ]
    assert all(set(parts(k["comparison"]).values()) == {"equal"} for k in found["kills"])
    assert found["cost"]["saves"] == 6
    assert os.listdir(here) == ["train.py"]


@pytest.mark.parametrize(
    "broken, kind",
    [
        ("unseeded", "unseeded initialisation"),
        ("order", "nondeterministic data order"),
        ("noise", "unseeded augmentation"),
        ("stream", "unseeded stream"),
        ("kernels", "nondeterministic kernels"),
    ],
)
def test_a_script_that_is_not_reproducible_is_told_why(doctor, broken, kind):
    found = doctor(broken)
    assert not found["is_reproducible"] and not found["kills"]
    assert kinds(found) == {kind}
    batch = found["whole"]["parting"]["place"][2]
    assert (batch < 0) == (broken == "unseeded")


@pytest.mark.parametrize(
    "broken, kind, differs",
    [
        ("closure", "state in a closure", "model"),
        ("lines", "a file is written", "other files"),
        ("position", "data order not resumed", "model"),
        ("restores", "variable not restored", "model"),
    ],
)
def test_what_a_kill_loses_is_named(doctor, broken, kind, differs):
    found = doctor(broken)
    assert found["is_reproducible"] and kinds(found) == {kind}
    assert any(parts(k["comparison"])[differs] == "differs" for k in found["kills"])


def test_the_line_that_writes_a_file_is_named(doctor):
    (cause,) = doctor("lines")["causes"]
    assert "log.txt" in cause["sentence"] and "train.py:7 in LineLogger" in cause["sentence"]
    assert "lines are there twice" in cause["sentence"]


def test_kills_lose_what_was_trained_since_the_last_save(doctor):
    found = doctor("saves-not", code=0, options=["--kills", "1"])
    (kill,) = found["kills"]
    assert kill["resumed"] is None
    assert kill["lost_steps"] == 4 * (kill["epoch"] - 1) + kill["batch"]
    assert any("no moment in a save" in note for note in found["notes"])


def test_what_differs_between_two_whole_runs_that_train_the_same_is_not_compared(doctor):
    found = doctor("clock", code=0)
    assert parts(found["whole"])["other files"] == "not compared"
    assert all(parts(k["comparison"])["other files"] == "not compared" for k in found["kills"])


def test_without_a_backup_nothing_is_proven(doctor):
    found = doctor("no-backup")
    assert not found["has_backup"] and not found["kills"]
    assert len(doctor("no-backup", options=["--kills", "1"])["kills"]) == 1


def test_no_kills_asked_none_made(doctor):
    assert doctor(code=0, options=["--kills", "0"])["kills"] == []


def test_kills_are_made_all_the_same_if_they_are_asked_for(doctor):
    assert len(doctor("order", options=["--kills", "1"])["kills"]) == 1


def test_no_kill_is_begun_that_would_end_after_the_time_is_over(doctor, monkeypatch):
    monkeypatch.setattr(examination, "_startup_of", lambda start: 1000)
    found = doctor(options=["--minutes", "5"])
    assert not found["kills"] and any("longer than --minutes" in n for n in found["notes"])


def test_a_whole_run_that_takes_longer_than_the_time_is_an_error(doctor, monkeypatch):
    monkeypatch.setenv("FAKE_STEP_S", "10")
    assert "--epochs or --steps" in doctor(code=2, options=["--minutes", "0.01"])


def test_a_kill_that_comes_too_late_is_not_counted(doctor, monkeypatch):
    late = examination.kills.Instant("in a batch", "step", 10**6, 0, 0.1)
    monkeypatch.setattr(examination.kills, "choose", lambda *args: iter([late]))
    monkeypatch.setattr(examination.kills, "earlier", lambda *args: late)
    found = doctor(options=["--kills", "1"])
    assert found["missed"] == 3 and found["kills"] == []


def test_a_kill_that_comes_too_late_is_tried_earlier(doctor, monkeypatch):
    late = examination.kills.Instant("in a batch", "step", 10**6, 0, 1.0)
    monkeypatch.setattr(examination.kills, "choose", lambda *args: iter([late]))
    found = doctor(options=["--kills", "1"], code=0)
    assert found["missed"] == 1 and len(found["kills"]) == 1


@pytest.mark.parametrize("broken, problem", [("crash", "exit code 1"), ("hang", "still running")])
def test_a_start_after_a_kill_that_fails_is_a_finding(doctor, broken, problem, monkeypatch):
    monkeypatch.setattr(examination, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(examination, "_PATIENCE", 2)
    found = doctor(broken, options=["--kills", "1"])
    (kill,) = found["kills"]
    assert problem in kill["problem"] and kill["comparison"] is None


def test_a_script_without_our_callbacks_is_told_what_to_add(doctor):
    assert "BackupAndRestore" in doctor("silent", code=2)


def test_a_script_that_fails_by_itself_is_no_patient(doctor):
    assert "exit code 1" in doctor("silent", "fails", code=2)


def test_everything_stays_if_that_is_wanted_and_nothing_is_written_over(doctor, tmp_path):
    kept = tmp_path / "kept"
    doctor(code=0, options=["--kills", "1", "--keep", str(kept)])
    assert sorted(os.listdir(kept)) == ["kill-1", "whole-run-1", "whole-run-2"]
    assert "empty directory" in doctor(code=2, options=["--keep", str(kept)])


def test_snapshots_of_the_user_are_neither_used_nor_touched(doctor, here):
    mine = here / "backup"
    (mine / ".ratchet").mkdir(parents=True)
    (mine / "epoch-00001-batch-0000000").mkdir()
    (mine / "epoch-00001-batch-0000000" / "manifest.json").write_text("{}")
    found = doctor(code=0, options=["--kills", "0"])
    assert (mine / "epoch-00001-batch-0000000" / "manifest.json").read_text() == "{}"
    assert any("epoch-00001-batch-0000000" in note for note in found["notes"])


def test_in_place_a_backup_of_keras_is_not_put_at_risk(doctor, here):
    for name in ("latest.weights.h5", "training_metadata.json"):
        (here / name).write_text("mine")
    assert "Move it away" in doctor(code=2, options=["--in-place"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_doctor_that_is_interrupted_leaves_nothing(here, tmp_path, number):
    environment = {**os.environ, "FAKE_STEP_S": "5", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "keras_ratchet", "doctor", "--", sys.executable]
    process = subprocess.Popen(
        [*command, "train.py"], cwd=here, env=environment, stderr=subprocess.DEVNULL
    )
    wanted = f"RATCHET_DOCTOR={tmp_path}"
    while not processes_with(wanted):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(30) != 0
    assert processes_with(wanted) == []
    assert os.listdir(tmp_path) == ["here"]
