"""`pin`, `prune` and `adopt`: what changes on the disk, and what never does."""

import os

import keras
import pytest
from support.checkpoints import Holder, facts, flip_bit, note, save, snapshot
from support.models import dense

import keras_ratchet
from keras_ratchet._storage import journal


def names(directory):
    return sorted(name for name in os.listdir(directory) if not name.startswith("."))


def test_pin_and_unpin(ratchet, run):
    path = run / "epoch-01.keras"
    assert ratchet.json("pin", path)[0]["pinned"] is True
    assert "pinned" in ratchet("ls", run).output.splitlines()[1]
    assert ratchet.json("unpin", path)[0]["pinned"] is False
    assert "pinned" not in ratchet("ls", run).output


def test_pin_changes_nothing_if_one_path_is_wrong(ratchet, run):
    ratchet("pin", run / "epoch-01.keras", run / ".ratchet", code=2)
    assert "pinned" not in ratchet("ls", run).output


def test_prune_without_yes_only_plans(ratchet, run):
    before = names(run)
    output = ratchet("prune", run, "--keep-best", 2).output
    plan = {line.split()[1]: line.split()[0] for line in output.splitlines()[1:6]}
    assert plan == {
        "epoch-01.keras": "delete",
        "epoch-02.keras": "delete",
        "epoch-03.keras": "keep",
        "epoch-04.keras": "keep",
        "epoch-05.keras": "keep",
    }
    assert "the best" in output and "the newest" in output and "--yes" in output
    assert names(run) == before


def test_prune_with_yes_deletes_and_notes_why(ratchet, run):
    ratchet("pin", run / "epoch-01.keras")
    data = ratchet.json("prune", run, "--keep-last", 1, "--yes")
    assert data["deleted"] and data["freed_bytes"] > 0
    assert names(run) == ["epoch-01.keras", "epoch-03.keras", "epoch-05.keras"]
    drops = [e for e in journal.read(str(run)) if e["event"] == "drop"]
    assert [e["name"] for e in drops] == ["epoch-02.keras", "epoch-04.keras"]
    assert "ratchet prune" in drops[0]["reason"]
    assert "3 ok" in ratchet("verify", run).output
    assert not ratchet.json("prune", run, "--keep-last", 1, "--yes")["freed_bytes"]


def test_prune_takes_each_rule(ratchet, run):
    plan = ratchet.json("prune", run, "--keep-every", 2, "--keep-for-s", 1e12)["plan"]
    assert all(step["keep"] for step in plan)
    plan = ratchet.json("prune", run, "--keep-every", 2)["plan"]
    kept = [step["name"] for step in plan if step["keep"]]
    assert kept == [f"epoch-0{n}.keras" for n in (2, 3, 4, 5)]


def test_prune_needs_a_rule_and_a_sensible_one(ratchet, run):
    assert "--keep-best" in ratchet("prune", run, code=2).stderr
    ratchet("prune", run, "--keep-best", 0, code=2)
    assert "keep_for_s" in ratchet("prune", run, "--keep-for-s", -1, code=2).stderr


def test_prune_goes_by_series_and_leaves_strangers_alone(ratchet, run):
    for epoch in (1, 2):
        ranking = (("accuracy", "max"),)
        save(run, f"b-{epoch}.keras", facts(epoch, "b-{epoch}.keras", ranking, accuracy=epoch))
    (run / "plain.keras").write_bytes(b"of plain Keras")
    (run / "notes.txt").write_text("mine")
    ratchet("prune", run, "--keep-last", 1, "--yes")
    assert names(run) == [
        *("b-2.keras", "epoch-03.keras", "epoch-05.keras", "notes.txt", "plain.keras")
    ]


def test_prune_does_not_delete_what_somebody_changed(ratchet, run):
    flip_bit(run / "epoch-01.keras")
    result = ratchet("prune", run, "--keep-last", 1, "--yes", code=1)
    assert "has changed since it was saved" in result.output
    assert "epoch-01.keras" in names(run) and "epoch-02.keras" not in names(run)


def test_prune_refuses_while_a_training_writes_and_names_it(ratchet, run):
    with Holder(run) as pid:
        ratchet("prune", run, "--keep-last", 1)  # looking is free
        result = ratchet("prune", run, "--keep-last", 1, "--yes", code=2)
        assert f"process {pid} on" in result.stderr
        assert len(names(run)) == 5
    ratchet("prune", run, "--keep-last", 1, "--yes")
    assert len(names(run)) == 2


def test_prune_of_snapshots_takes_the_lock_of_their_training(ratchet, tmp_path):
    for epoch in (1, 2, 3):
        snapshot(tmp_path, epoch)
    with Holder(tmp_path, ""):
        ratchet("prune", tmp_path, "--keep-last", 1, "--yes", code=2)
    ratchet("prune", tmp_path, "--keep-last", 1, "--yes")
    assert names(tmp_path) == ["epoch-00003-batch-0000000"]


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_adopt_gives_a_plain_file_a_manifest(ratchet, tmp_path, suffix):
    path = tmp_path / f"best{suffix}"
    model = dense()
    if suffix == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    before = path.read_bytes()
    data = ratchet.json("adopt", path, "--metric", "val_loss=0.125", "--epoch", 7)[0]
    assert path.read_bytes() == before
    assert data["ranking"] == [["val_loss", "min"]] and data["series"] == path.name
    assert data["position"]["epoch"] == 7 and data["metrics"] == {"val_loss": 0.125}
    assert keras_ratchet.verify(str(path))
    assert ratchet("best", tmp_path).stdout.strip() == str(path)
    flip_bit(path)
    ratchet("verify", path, code=1)


def test_an_adopted_file_is_not_overwritten_by_a_worse_model_that_goes_on_from_it(
    ratchet, tmp_path
):
    from support.models import Curve, fit

    path = tmp_path / "best.keras"
    dense().save(path)
    ratchet("adopt", path, "--metric", "val_loss=0.5")
    before = path.read_bytes()
    model = keras_ratchet.load_model(path)
    checkpoint = keras_ratchet.ModelCheckpoint(path, save_best_only=True)
    fit(model, [Curve(val_loss=[0.9, 0.6]), checkpoint], epochs=2)
    assert path.read_bytes() == before
    fit(model, [Curve(val_loss=[0.4]), checkpoint])
    assert path.read_bytes() != before


def test_the_files_of_an_earlier_run_are_listed_and_not_best(ratchet, run):
    from dataclasses import replace

    from support.checkpoints import facts, save

    later = replace(facts(9, val_loss=2.5), run="second")
    save(run, "epoch-09.keras", later)
    marks = {s["name"]: s["marks"] for s in ratchet.json("ls", run)}
    assert marks["epoch-09.keras"] == ["best", "last"]
    assert marks["epoch-03.keras"] == ["earlier run"]  # the best of the first run
    assert ratchet("best", run).stdout.strip().endswith("epoch-09.keras")
    lines = ratchet("prune", run, "--keep-best", 1).output.splitlines()
    kept = [line.split()[1] for line in lines if line.startswith("keep")]
    assert kept == ["epoch-03.keras", "epoch-09.keras"]
    assert "second" in ratchet("show", f"{run}/epoch-09.keras").output


def test_adopt_checks_what_it_is_told(ratchet, tmp_path):
    path = tmp_path / "best.keras"
    dense().save(path)
    assert "--mode" in ratchet("adopt", path, "--metric", "f1=0.9", code=2).stderr
    assert "val_loss=0.123" in ratchet("adopt", path, "--metric", "f1", code=2).stderr
    assert "val_loss=0.123" in ratchet("adopt", path, "--metric", "f1=high", code=2).stderr
    ratchet("adopt", path, "--metric", "f1=0.9", "--mode", "max")
    assert ratchet("adopt", path, code=2).stderr.count("already has a manifest")
    ratchet("adopt", path, "--force", "--metric", "loss=1")
    assert ratchet.json("show", path)["metrics"] == {"loss": 1.0}


def test_adopt_refuses_a_broken_file(ratchet, tmp_path):
    path = tmp_path / "best.keras"
    dense().save(path)
    path.write_bytes(path.read_bytes()[:-50])
    ratchet("adopt", path, code=2)
    assert names(tmp_path) == ["best.keras"] and not (tmp_path / ".ratchet").exists()


def test_adopt_waits_for_no_training(ratchet, tmp_path):
    path = tmp_path / "best.keras"
    dense().save(path)
    with Holder(tmp_path, "best.keras"):
        assert "is being written by process" in ratchet("adopt", path, code=2).stderr


def test_what_a_training_saved_is_listed_with_its_reasons(ratchet, tmp_path):
    from support.models import Curve, fit

    template = tmp_path / "epoch-{epoch}.keras"
    checkpoint = keras_ratchet.ModelCheckpoint(template, keep_best=1, keep_last=1)
    keras.utils.set_random_seed(0)
    fit(dense(), [Curve(val_loss=[3.0, 1.0, 2.0, 2.5]), checkpoint], epochs=4)
    marks = {r["name"]: r["marks"] for r in ratchet.json("ls", tmp_path)}
    assert marks == {"epoch-2.keras": ["best"], "epoch-4.keras": ["last"]}
    events = [e["event"] for e in ratchet.json("history", tmp_path)]
    assert events.count("save") == 4 and events.count("drop") == 2


def test_a_journal_of_an_unknown_event_is_no_problem(ratchet, run):
    note(run, {"event": "future", "reason": "who knows"})
    assert "who knows" in ratchet("history", run).output
