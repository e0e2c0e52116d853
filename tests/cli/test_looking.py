"""`ls`, `show`, `best`, `verify` and `history`: what is there, and is it whole?"""

import os

import pytest
from support.checkpoints import facts, flip_bit, note, save, series, snapshot

from keras_ratchet import errors

NAN = float("nan")


def test_ls_shows_metrics_and_marks(ratchet, run):
    lines = ratchet("ls", run).output.splitlines()
    assert lines[0].split()[:5] == ["name", "epoch", "step", "val_loss", "loss"]
    assert [line.split()[0] for line in lines[1:]] == [f"epoch-0{n}.keras" for n in range(1, 6)]
    assert lines[3].split()[1:5] == ["3", "30", "1", "2"]
    assert "best" in lines[3] and "last" in lines[5]
    assert all(line.split()[-1] == "-" for line in lines[1:])


def test_ls_verifies_on_request_only(ratchet, run):
    flip_bit(run / "epoch-02.keras")
    (run / "plain.weights.h5").write_bytes(b"of plain Keras")
    assert "corrupt" not in ratchet("ls", run).output
    lines = ratchet("ls", run, "--verify", code=1).output.splitlines()
    assert lines[1].endswith("ok") and lines[2].endswith("corrupt")
    assert lines[6].startswith("plain.weights.h5") and lines[6].endswith("no manifest")
    assert [s["verified"]["status"] for s in ratchet.json("ls", run, "--verify", code=1)] == [
        *("ok", "corrupt", "ok", "ok", "ok", "unverified")
    ]


def test_ls_shows_snapshots_and_positions_within_an_epoch(ratchet, tmp_path):
    snapshot(tmp_path, 3)
    lines = ratchet("ls", tmp_path).output.splitlines()
    assert lines[1].split()[:3] == ["epoch-00003-batch-0000000", "3", "30"]


def test_ls_of_a_directory_that_was_emptied_says_so(ratchet, run):
    for name in os.listdir(run):
        if name.endswith(".keras"):
            (run / name).unlink()
    assert "No checkpoints" in ratchet("ls", run).output
    assert ratchet.json("ls", run) == []


def test_a_thousand_checkpoints_are_listed(ratchet, tmp_path):
    series(tmp_path, *(1 + abs(n - 700) for n in range(1000)))
    records = ratchet.json("ls", tmp_path)
    assert len(records) == 1000
    assert [r["name"] for r in records if "best" in r["marks"]] == ["epoch-701.keras"]
    assert len(ratchet("ls", tmp_path).output.splitlines()) == 1001
    assert ratchet("best", tmp_path).output.strip().endswith("epoch-701.keras")
    assert "1000 ok" in ratchet("verify", tmp_path).output


def test_show_has_everything_of_the_manifest(ratchet, run):
    output = ratchet("show", run / "epoch-03.keras").output
    for fact in ("best", "epoch 3 ended", "3 epochs done", "30 steps", "val_loss (min", "XXH3"):
        assert fact in output
    assert "keras 3.15.1" in output and "f" * 32 in output
    data = ratchet.json("show", run / "epoch-03.keras")
    assert data["metrics"] == {"val_loss": 1.0, "loss": 2.0} and data["marks"] == ["best"]
    assert list(data["files"]) == ["epoch-03.keras"]


def test_show_of_a_file_without_manifest_and_of_a_snapshot(ratchet, tmp_path):
    (tmp_path / "plain.h5").write_bytes(b"x")
    assert "ratchet adopt" in ratchet("show", tmp_path / "plain.h5").output
    path = snapshot(tmp_path, 2)
    assert list(ratchet.json("show", path)["files"]) == ["state.json"]


def test_best_prints_one_path_for_the_shell(ratchet, run, monkeypatch):
    assert ratchet("best", run).stdout == f"{run}/epoch-03.keras\n"
    monkeypatch.chdir(run.parent)
    assert ratchet("best", run.name).stdout == f"{run.name}/epoch-03.keras\n"
    assert ratchet.json("best", run)["name"] == "epoch-03.keras"


def test_best_goes_by_another_metric_if_told(ratchet, run):
    save(run, "epoch-06.keras", facts(6, val_loss=9.0, accuracy=0.9))
    save(run, "epoch-07.keras", facts(7, val_loss=9.0, accuracy=0.8))
    ask = ("best", run, "--metric", "accuracy")
    assert "--mode" in ratchet(*ask, code=2).stderr
    assert ratchet(*ask, "--mode", "max").stdout.strip().endswith("epoch-06.keras")
    assert ratchet("best", run, "--metric", "loss").stdout.strip().endswith("epoch-03.keras")
    assert ratchet("best", run, "--mode", "max").stdout.strip().endswith("epoch-06.keras")


def test_best_passes_over_what_is_corrupt(ratchet, run):
    flip_bit(run / "epoch-03.keras")
    result = ratchet("best", run)
    assert result.stdout.strip().endswith("epoch-04.keras")
    assert "Skipped epoch-03.keras" in result.stderr
    assert ratchet("best", run, "--no-verify").stdout.strip().endswith("epoch-03.keras")


def test_if_all_that_could_be_best_are_corrupt_best_says_so(ratchet, run):
    for number in range(1, 6):
        flip_bit(run / f"epoch-0{number}.keras")
    result = ratchet("best", run, code=1)
    *skipped, said, link = result.stderr.splitlines()
    assert len(skipped) == 5 and all("digest differs" in line for line in skipped)
    assert said.startswith("Error: there is no best checkpoint in")
    assert said.endswith("all that have a usable val_loss are corrupt.")
    assert link == f"See {errors.PAGE}#corrupt"
    assert ratchet.json("best", run, code=1) is None


def test_nan_is_never_best_and_none_is_code_1(ratchet, tmp_path):
    series(tmp_path, NAN, NAN)
    assert "No best checkpoint" in ratchet("best", tmp_path, code=1).stderr
    assert ratchet.json("best", tmp_path, code=1) is None
    assert all("best" not in r["marks"] for r in ratchet.json("ls", tmp_path))


def test_best_goes_by_the_order_that_most_were_saved_by(ratchet, run):
    save(run, "last.keras", facts(9, "last.keras", (("loss", "min"),), val_loss=8.0, loss=0.0))
    assert ratchet("best", run).stdout.strip().endswith("epoch-03.keras")


@pytest.mark.parametrize("at", [0, 10, 999])
def test_verify_names_the_problem_of_one_flipped_bit(ratchet, run, at):
    flip_bit(run / "epoch-04.keras", at)
    result = ratchet("verify", run, code=1)
    bad = [line for line in result.output.splitlines() if line.startswith("corrupt")]
    assert len(bad) == 1 and "epoch-04.keras" in bad[0] and "digest differs" in bad[0]
    assert "4 ok, 1 corrupt" in result.output
    statuses = [outcome["status"] for outcome in ratchet.json("verify", run, code=1)]
    assert statuses == ["ok", "ok", "ok", "corrupt", "ok"]


def test_verify_takes_files_snapshots_and_directories(ratchet, run, tmp_path):
    path = snapshot(tmp_path, 7)
    data = ratchet.json("verify", run / "epoch-01.keras", path)
    assert [outcome["status"] for outcome in data] == ["ok", "ok"]
    (tmp_path / "plain.keras").write_bytes(b"x")
    assert ratchet.json("verify", tmp_path / "plain.keras")[0]["status"] == "unverified"
    flip_bit(os.path.join(path, "state.json"), 0)
    assert "state.json" in ratchet("verify", tmp_path, code=1).output


def test_history_shows_reasons_and_hides_epochs(ratchet, tmp_path):
    note(
        tmp_path,
        {"event": "begin", "series": "a.keras"},
        {"event": "epoch", "series": "a.keras", "epoch": 1, "metrics": {"loss": NAN}},
        {"event": "save", "name": "a.keras", "epoch": 1, "reason": "why", "bytes": 2000},
        {"event": "skip", "series": "a.keras", "epoch": 2, "reason": "no gain"},
        {"event": "save_error", "name": "a.keras", "problem": "disk full"},
        {"event": "stop", "series": "a.keras", "epoch": 2, "kind": "patience", "reason": "enough"},
        {"event": "end", "series": "a.keras", "reason": "training ended"},
    )
    lines = ratchet("history", tmp_path).output.splitlines()
    events = ["begin", "save", "skip", "save_error", "stop", "end"]
    assert [line.split()[2] for line in lines[1:]] == events
    assert "why (2.0 kB" in lines[2] and "disk full" in lines[4] and "enough" in lines[5]
    assert "loss nan" in ratchet("history", tmp_path, "--epochs").output
    short = ratchet("history", tmp_path, "--most", 2).output
    assert "4 earlier" in short and "skip" not in short
    assert [e["event"] for e in ratchet.json("history", tmp_path, "--most", 2)] == ["stop", "end"]


def test_history_names_a_file_only_where_something_happened_to_one(ratchet, tmp_path):
    kinds = ("begin", "skip", "reduce_lr", "rollback", "average", "stop", "end")
    own = {"series": "a.keras", "epoch": 1, "reason": "why"}
    note(tmp_path, *({"event": kind, **own} for kind in kinds))
    lines = ratchet("history", tmp_path).output.splitlines()[1:]
    named = [kind for kind, line in zip(kinds, lines, strict=True) if "a.keras" in line]
    assert named == ["begin", "skip", "end"]


def test_history_survives_a_journal_of_a_stranger(ratchet, tmp_path):
    side = tmp_path / ".ratchet"
    side.mkdir()
    (side / "journal.jsonl").write_text(
        '{"event": "save", "time": "x", "bytes": "y", "metrics": 3, "epoch": []}\n'
        '{"event": "epoch", "time": 1e300, "metrics": {"a": [1], "b": 1' + "0" * 400 + "}}\n"
        '{"event": "drop", "reason": "\\u001b[2J\\nx", "bytes": 1' + "0" * 400 + "}\nnot json\n"
    )
    output = ratchet("history", tmp_path, "--epochs").output
    assert "save" in output and "?[2J?x" in output and "\x1b" not in output


def test_without_a_terminal_nothing_is_written_where_a_bar_would_be(ratchet, run):
    for command in ("verify", "ls --verify"):
        assert ratchet(*command.split(), run).stderr == ""
