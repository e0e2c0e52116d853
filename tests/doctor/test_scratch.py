"""The scratch directory: it looks like the user's, and what happens in it stays in it."""

import os

import pytest

from keras_ratchet._doctor import scratch
from keras_ratchet.errors import ConfigError


@pytest.fixture
def mine(tmp_path):
    place = tmp_path / "mine"
    (place / "src").mkdir(parents=True)
    (place / "src" / "data.csv").write_text("1,2")
    (place / "train.py").write_text("print()")
    return place


def copied(mine, tmp_path):
    target = tmp_path / "scratch"
    stamps = scratch.mirror(scratch.plan_of(str(mine)), str(target))
    return target, stamps


def test_small_files_are_copied_and_large_ones_linked(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "MAX_COPIED_BYTES", 10)
    (mine / "large.bin").write_bytes(bytes(11))
    plan = scratch.plan_of(str(mine))
    target, stamps = copied(mine, tmp_path)
    (target / "src" / "data.csv").write_text("changed")
    assert (mine / "src" / "data.csv").read_text() == "1,2"
    assert (target / "large.bin").is_symlink() and stamps.keys() == {
        "train.py",
        "large.bin",
        os.path.join("src", "data.csv"),
    }
    assert plan.changed() == []
    (target / "large.bin").write_bytes(bytes(12))
    assert plan.changed() == ["large.bin"]


def test_links_lead_where_they_led(mine, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (mine / "data").symlink_to("../elsewhere")
    target, _ = copied(mine, tmp_path)
    assert (target / "data").resolve() == (tmp_path / "elsewhere").resolve()


def test_links_inside_lead_to_the_copies(mine, tmp_path):
    (mine / "data.csv").symlink_to("src/data.csv")
    (mine / "code").symlink_to(mine / "src")
    (mine / "again").symlink_to("data.csv")
    target, _ = copied(mine, tmp_path)
    for name in ("data.csv", "code/data.csv", "again"):
        assert (target / name).resolve() == (target / "src" / "data.csv").resolve()


def test_a_file_that_is_changed_through_a_link_is_found(mine, tmp_path):
    (tmp_path / "log.txt").write_text("")
    (mine / "log.txt").symlink_to("../log.txt")
    plan = scratch.plan_of(str(mine))
    target, _ = copied(mine, tmp_path)
    assert plan.changed() == []
    (target / "log.txt").write_text("a line")
    assert plan.changed() == ["log.txt"]


def test_noise_and_what_would_be_resumed_is_left_out(mine, tmp_path):
    for name in (".git", "node_modules", "__pycache__", "env", "run"):
        (mine / name).mkdir()
        (mine / name / "file").write_text("x")
    (mine / "env" / "pyvenv.cfg").write_text("")
    snapshot = mine / "run" / "epoch-00001-batch-0000000"
    for place in (snapshot, mine / "run" / ".ratchet"):
        place.mkdir()
        (place / "manifest.json").write_text("{}")
    (mine / "keras").mkdir()
    for name in ("latest.weights.h5", "training_metadata.json", "mine.txt"):
        (mine / "keras" / name).write_text("x")
    target, _ = copied(mine, tmp_path)
    found = {
        os.path.relpath(os.path.join(p, n), target) for p, _, ns in os.walk(target) for n in ns
    }
    assert found == {"train.py", "src/data.csv", "run/file", "keras/mine.txt"}
    assert len(scratch.plan_of(str(mine)).snapshots) == 4


@pytest.mark.parametrize("limit", ["MAX_FILES", "MAX_TOTAL_BYTES"])
def test_too_much_to_copy_is_an_error_that_names_the_way_out(mine, monkeypatch, limit):
    monkeypatch.setattr(scratch, limit, 1)
    with pytest.raises(ConfigError, match="--in-place"):
        scratch.plan_of(str(mine))


def test_paths_in_a_command_lead_into_the_copy(mine, tmp_path):
    (tmp_path / "other.py").write_text("")
    target, _ = copied(mine, tmp_path)
    command = ["bin/python", str(mine / "train.py"), "../other.py", "--lr=0.1", "src", "/nowhere"]
    assert scratch.command_in(command, str(mine), str(target)) == [
        str(mine / "bin/python"),
        str(target / "train.py"),
        str(tmp_path / "other.py"),
        *("--lr=0.1", "src", "/nowhere"),
    ]


def test_a_script_that_was_copied_is_run_from_its_copy(mine, tmp_path):
    (mine / "run.sh").write_text("#!/bin/sh\n")
    (mine / "python").write_bytes(b"\x7fELF")
    target, _ = copied(mine, tmp_path)
    for program in ("./run.sh", str(mine / "run.sh")):
        assert scratch.command_in([program], str(mine), str(target)) == [str(target / "run.sh")]
    for program in ("./python", "python", "/bin/sh"):
        [found] = scratch.command_in([program], str(mine), str(target))
        assert not found.startswith(str(target))


def test_a_file_that_is_deleted_meanwhile_is_left_out(mine, tmp_path):
    plan = scratch.plan_of(str(mine))
    (mine / "train.py").unlink()
    assert scratch.mirror(plan, str(tmp_path / "scratch")).keys() == {
        os.path.join("src", "data.csv")
    }
