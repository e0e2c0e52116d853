"""`ratchet doctor DIR`: each finding is planted once, and a directory in order has no problem."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.checkpoints import Holder, facts, flip_bit, note, save, series, snapshot
from support.stores import new_url, put, quiet

from keras_ratchet import errors
from keras_ratchet._doctor import health, health_of_disk
from keras_ratchet._storage import listing, single_file
from keras_ratchet._storage.disk import Disk
from keras_ratchet.cli import main


def told(*args, code=0):
    """Run `ratchet doctor` in this process, and return what it prints."""
    result = CliRunner().invoke(main, ["doctor", *map(str, args)])
    assert result.exit_code == code, result.output
    return result.stdout


def tree(directory):
    """Return every path below a directory, with its content."""
    found = {}
    for below, _, files in os.walk(directory):
        found[below] = sorted(files)
        found |= {path: path.read_bytes() for path in (Path(below, name) for name in files)}
    return found


def found(directory, level=None):
    findings = health.examine(str(directory)).findings
    return [f for f in findings if level in (None, f.level)]


def named(directory, text):
    """Return the findings whose words have a text in them."""
    return [f for f in found(directory) if text in f.what]


@pytest.fixture
def run(tmp_path):
    """A directory in order, on a disk as far as anybody can tell."""
    directory = tmp_path / "run"
    directory.mkdir()
    series(directory, 3.0, 1.0, 2.0)
    snapshot(directory, 3)
    note(directory, {"event": "begin"}, {"event": "end", "reason": "training ended"})
    return directory


def test_a_directory_in_order_has_no_problem_and_is_not_changed(run):
    before = tree(run)
    result = health.examine(str(run))
    assert result.is_healthy and not found(run, "note")
    assert "4 of 4 verify, byte for byte" in result.findings[0].what
    assert tree(run) == before
    assert health.lines(result)[-1] == "in order"
    data = json.loads(told("--json", run))
    assert {f["level"] for f in data["findings"]} == {"ok"}
    assert result.to_dict()["healthy"] is True


def test_a_directory_without_checkpoints_gets_no_metadata(tmp_path):
    health.examine(str(tmp_path))
    assert os.listdir(tmp_path) == []
    with pytest.raises(errors.LoadError, match="no directory"):
        health.examine(str(tmp_path / "none"))


def test_damage_is_a_problem(run):
    flip_bit(run / "epoch-02.keras")
    os.truncate(run / "epoch-00003-batch-0000000" / "state.json", 1)
    assert [f.where for f in found(run, "problem")] == [
        "epoch-02.keras",
        "epoch-00003-batch-0000000",
    ]
    shown = told(run, code=1)
    assert "PROBLEM epoch-02.keras: the bytes" in shown and "2 problems" in shown


def test_files_that_do_not_belong_to_a_snapshot_are_a_problem(run):
    (run / "epoch-00003-batch-0000000" / "notes.txt").write_text("mine")
    (finding,) = found(run, "problem")
    assert "notes.txt" in finding.what and "move them" in finding.cure


def test_files_without_manifest_and_manifests_without_file_are_noted(run):
    (run / "plain.keras").write_bytes(b"of Keras's own callback")
    os.rename(run / "epoch-01.keras", run.parent / "moved.keras")
    wheres = {f.where for f in found(run, "note")}
    assert "plain.keras" in wheres
    assert any(where.startswith(".ratchet/epoch-01.keras.") for where in wheres)


def test_leftovers_are_noted_with_their_age_and_who_removes_them(run):
    old = time.time() - 7200
    (run / ".draft-01234567-epoch-09.keras").write_bytes(b"half")
    os.utime(run / ".draft-01234567-epoch-09.keras", (old, old))
    (run / ".trash-01234567-epoch-00001-batch-0000000").mkdir()
    (run / ".ratchet" / ".draft-01234567-epoch-09.keras.pin").write_bytes(b"")
    notes = found(run, "note")
    assert len(notes) == 3 and all("nobody writes here" in f.what for f in notes)
    assert "4 B, 2 hours old" in notes[0].what and "next start" in notes[0].cure
    with Holder(run):
        assert all("is alive" in f.what for f in named(run, "draft of"))


def test_locks_are_named_whether_held_or_left_by_a_killed_process(run):
    with Holder(run) as pid:
        (held,) = named(run, "held by")
        assert f"process {pid}" in held.what and held.level == "ok"
        lock = run / held.where
        text = lock.read_bytes()
    lock.write_bytes(text)  # as SIGKILL leaves it
    (killed,) = named(run, "was killed")
    assert killed.level == "note" and f"process {pid}" in killed.what


def test_a_checkpoint_from_the_future_is_a_problem(run, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0 - 3600)
    monkeypatch.setattr(health_of_disk, "probe", lambda directory: ("ok", "", ""))
    problems = found(run, "problem")
    assert len(problems) == 4 and "60 minutes in the future" in problems[0].what


def test_pins_torn_lines_and_shared_arrays_are_told(run):
    listing.pin(str(run / "epoch-02.keras"))
    with open(run / ".ratchet" / "journal.jsonl", "ab") as file:
        file.write(b'{"event": "sa\n')
    shutil.copytree(
        run / "epoch-00003-batch-0000000", run / "epoch-00004-batch-0000000", copy_function=os.link
    )
    (pinned,), (torn,), (shared,) = (named(run, t) for t in ("pinned", "torn", "share"))
    assert "epoch-02.keras" in pinned.what and "1 line" in torn.what and "2 B" in shared.what


def test_space_for_two_of_the_newest_is_asked_for(run, monkeypatch):
    size = os.path.getsize(run / "epoch-03.keras")
    save(run, "epoch-04.keras", facts(4), b"x" * size)
    for free, level in ((2 * size, "ok"), (2 * size - 1, "problem"), (None, "note")):
        monkeypatch.setattr("keras_ratchet._storage.space.free_bytes", lambda _, free=free: free)
        assert [f.level for f in found(run) if "free" in f.what] == [level]


@pytest.mark.parametrize(
    ("mounts", "level", "words"),
    [
        ("/dev/a / ext4 rw 0 0", "ok", "ext4"),
        ("/dev/a / ext4 rw 0 0\nhost:/x {run} nfs4 rw,hard 0 0", "note", "network"),
        ("/dev/a / ext4 ro 0 0", "problem", "read-only"),
        ("tmpfs {run} tmpfs rw 0 0\n/dev/a / ext4 rw 0 0", "problem", "in memory"),
        ("s3 {run} fuse.s3fs rw 0 0", "note", "pass its URL"),
        ("tmpfs {run}ning tmpfs rw 0 0\n/dev/a / xfs rw 0 0", "ok", "xfs"),
        ("torn", "ok", ""),
    ],
)
def test_the_kind_of_file_system_is_told(mounts, level, words, run, monkeypatch):
    (run.parent / "mounts").write_text(mounts.format(run=os.path.realpath(run)))
    monkeypatch.setattr(health_of_disk, "_MOUNTS", str(run.parent / "mounts"))
    said = health_of_disk.mount(str(run))
    assert said[0] == level and words in " ".join(said)


@pytest.mark.parametrize("call", ["open", "sync", "replace", "sync_directory"])
def test_a_place_that_cannot_be_saved_to_is_a_problem_and_nothing_is_left(call, run, monkeypatch):
    before = tree(run)

    def fail(self, *_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("keras_ratchet._storage.disk.current", type("Bad", (Disk,), {call: fail})())
    (finding,) = found(run, "problem")
    assert "Input/output error" in finding.what
    assert tree(run) == before


def test_a_place_without_hard_links_is_noted(run, monkeypatch):
    def fail(self, *_):
        raise OSError(95, "not supported")

    monkeypatch.setattr(
        "keras_ratchet._storage.disk.current", type("No", (Disk,), {"link": fail})()
    )
    assert [f.what for f in found(run, "note")] == [
        "there are no hard links: snapshots copy what they could share"
    ]


def test_a_store_is_verified_and_says_what_is_not_looked_at(tmp_path, monkeypatch):
    quiet(monkeypatch, tmp_path / "cache")
    url = new_url()
    put(url, tmp_path / "local", "best.keras", b"data", at=-1e9)
    result = health.examine(url)
    assert result.is_healthy and "1 of 1" in result.findings[0].what
    assert "not looked at" in result.findings[1].what


def test_names_of_strangers_are_cleaned_on_their_way_to_the_terminal(run):
    save(run, "a\x1b[2Jb.keras", facts(4))
    flip_bit(run / "a\x1b[2Jb.keras")
    assert "\x1b" not in told(run, code=1)
    assert single_file.METADATA in os.listdir(run)
