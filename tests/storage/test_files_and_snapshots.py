"""What the storage does and does not touch."""

import contextlib
import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.scenarios import commit, content, facts, is_ours, save

import keras_ratchet
from keras_ratchet._storage import atomic, disk, single_file, snapshot_directory
from keras_ratchet._storage.listing import checkpoint_at, checkpoints, pin, unpin
from keras_ratchet._storage.manifest import Manifest


@pytest.fixture
def root(quick_path):
    return Path(quick_path)


def names(directory):
    return sorted(path.name for path in Path(directory).iterdir())


def manifests(root):
    return sorted(path.name for path in (root / single_file.METADATA).glob("*.json"))


# Single files.


def test_saving_the_same_bytes_again_keeps_their_manifest(root):
    save(root, "best.keras", 1)
    save(root, "best.keras", 1)
    assert len(manifests(root)) == 1
    assert keras_ratchet.verify(str(root / "best.keras"))


@pytest.mark.parametrize("verb", ["write", "sync", "sync_directory"])
def test_a_save_that_fails_before_its_commit_leaves_no_manifest(root, verb, monkeypatch):
    class Refuses(disk.Disk):
        pass

    def refuse(self, *_):
        raise OSError(errno.ENOSPC, "no")

    save(root, "best.keras", 1)
    before = manifests(root)
    with monkeypatch.context() as patch:
        patch.setattr(Refuses, verb, refuse)
        patch.setattr(disk, "current", Refuses())
        with pytest.raises(OSError, match="no"):
            save(root, "best.keras", 2)
    assert manifests(root) == before
    assert names(root) == [single_file.METADATA, "best.keras"]


@pytest.mark.parametrize("torn", [b"", b'{\n "schema": 1,\n "files"', bytes(700)])
def test_a_torn_manifest_is_removed_from_beside_a_file_that_never_had_one(root, torn):
    (root / "best.keras").write_bytes(b"saved by Keras")
    (root / single_file.METADATA).mkdir()
    path = root / single_file.METADATA / f"best.keras.{'0' * 32}.json"
    path.write_bytes(torn)
    assert single_file.sweep(str(root), is_ours) == [str(path)]
    assert keras_ratchet.verify(str(root / "best.keras")).status == "unverified"


def test_a_manifest_that_is_damaged_later_stays(root):
    save(root, "best.keras", 1)
    path = root / single_file.METADATA / manifests(root)[0]
    path.write_bytes(path.read_bytes()[:-9])
    assert single_file.sweep(str(root), is_ours) == []
    assert keras_ratchet.verify(str(root / "best.keras")).status == "corrupt"


def test_a_link_is_followed_and_stays_a_link(root):
    (root / "store").mkdir()
    (root / "best.keras").symlink_to(root / "store" / "epoch-1.keras")
    save(root, "best.keras", 1)
    assert (root / "best.keras").is_symlink()
    assert (root / "store" / "epoch-1.keras").read_bytes() == content(1)
    assert keras_ratchet.verify(str(root / "best.keras"))


def test_the_longest_names_that_fit_are_saved(root):
    """A manifest's name is 38 bytes longer than the file's, and a draft's is cut to fit."""
    name = f"{'ü' * 105}.keras"
    assert len(os.fsencode(name)) + 38 <= 255
    save(root, name, 1)
    assert keras_ratchet.verify(str(root / name))
    assert names(root) == [single_file.METADATA, name]


def test_a_name_that_is_too_long_is_an_os_error_and_harms_nothing(root):
    save(root, "best.keras", 1)
    with pytest.raises(OSError) as error:
        save(root, f"{'x' * 230}.keras", 2)
    assert error.value.errno == errno.ENAMETOOLONG
    assert names(root) == [single_file.METADATA, "best.keras"]
    assert len(manifests(root)) == 1


def test_names_with_odd_characters_work(root):
    for name in ("a b.keras", "ä\n.keras", "[*]?.keras", "-rf.keras", "a.keras.keras"):
        save(root, name, 1)
        assert keras_ratchet.verify(str(root / name))
        single_file.delete_file(str(root / name))
    assert names(root) == [single_file.METADATA]
    assert names(root / single_file.METADATA) == []


def test_a_file_of_another_name_keeps_its_manifest(root):
    """`best.keras` and `best.keras.keras`: the one name begins with the other."""
    save(root, "best.keras", 1)
    save(root, "best.keras.keras", 2)
    save(root, "best.keras", 3)
    single_file.delete_file(str(root / "best.keras"))
    assert keras_ratchet.verify(str(root / "best.keras.keras"))
    assert len(manifests(root)) == 1


def test_a_crash_between_manifest_and_file_is_told_apart_by_the_digest(root):
    save(root, "best.keras", 1)
    [old] = manifests(root)
    kept = (root / single_file.METADATA / old).read_bytes()
    save(root, "best.keras", 2)
    (root / single_file.METADATA / old).write_bytes(kept)
    assert len(manifests(root)) == 2
    assert keras_ratchet.verify(str(root / "best.keras"))
    assert checkpoint_at(str(root / "best.keras")).position.epoch == 2
    assert single_file.manifest_of(str(root / "best.keras")).position.epoch == 2
    single_file.sweep(str(root), is_ours)
    assert manifests(root) != [old]
    assert len(manifests(root)) == 1


def test_a_damaged_file_keeps_all_its_manifests_through_a_sweep(root):
    """They are the evidence: none of them matches, and none is known to be the wrong one."""
    save(root, "best.keras", 1)
    [old] = manifests(root)
    kept = (root / single_file.METADATA / old).read_bytes()
    save(root, "best.keras", 2)
    (root / single_file.METADATA / old).write_bytes(kept)
    (root / "best.keras").write_bytes(b"damaged")
    assert single_file.sweep(str(root), is_ours) == []
    assert keras_ratchet.verify(str(root / "best.keras")).status == "corrupt"


def test_a_sweep_of_a_directory_that_is_not_there_does_nothing(root):
    assert single_file.sweep(str(root / "nowhere"), is_ours) == []
    assert snapshot_directory.sweep_snapshots(str(root / "nowhere")) == []


def test_adopting_a_file_does_not_touch_it(root):
    path = root / "plain.keras"
    path.write_bytes(content(1))
    os.utime(path, (1e9, 1e9))
    single_file.adopt(str(path), facts(1))
    assert keras_ratchet.verify(str(path))
    assert path.read_bytes() == content(1)
    assert path.stat().st_mtime == 1e9


def test_adopting_cures_a_damaged_manifest(root):
    save(root, "best.keras", 1)
    (root / single_file.METADATA / manifests(root)[0]).write_bytes(b"{")
    outcome = keras_ratchet.verify(str(root / "best.keras"))
    assert outcome.status == "corrupt"
    assert "ratchet adopt" in outcome.problem
    single_file.adopt(str(root / "best.keras"), facts(1))
    assert keras_ratchet.verify(str(root / "best.keras"))


def test_a_pin_is_seen_and_taken_away_and_goes_with_its_file(root):
    save(root, "best.keras", 1)
    path = str(root / "best.keras")
    unpin(path)
    assert not checkpoint_at(path).pinned
    pin(path)
    pin(path)
    assert checkpoint_at(path).pinned
    unpin(path)
    assert not checkpoint_at(path).pinned
    pin(path)
    single_file.delete_file(path)
    save(root, "best.keras", 2)
    assert not checkpoint_at(path).pinned


def test_a_pin_that_cannot_be_taken_away_is_an_error(root, monkeypatch):
    class Refuses(disk.Disk):
        def unlink(self, path):
            raise PermissionError(errno.EACCES, "no", path)

    save(root, "best.keras", 1)
    pin(str(root / "best.keras"))
    monkeypatch.setattr(disk, "current", Refuses())
    with pytest.raises(PermissionError):
        unpin(str(root / "best.keras"))


def test_a_draft_that_cannot_be_opened_leaves_no_noise_behind():
    """Python closes what `__init__` left, also where there is no descriptor yet."""
    code = (
        "from keras_ratchet._storage.atomic import HashingFile\n"
        "try:\n    HashingFile('/nowhere/x')\nexcept FileNotFoundError:\n    pass\n"
    )
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# Snapshots.


def test_a_snapshot_of_a_name_that_is_taken_is_refused_and_leaves_nothing(root):
    commit(root, "step-1", 1)
    with pytest.raises(FileExistsError):
        commit(root, "step-1", 2)
    assert names(root) == ["step-1"]
    assert keras_ratchet.verify(str(root / "step-1"))


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a\0b"])
def test_a_snapshot_and_its_files_stay_in_their_directory(name, root):
    with pytest.raises(ValueError, match="points outside"):
        snapshot_directory.SnapshotDraft(str(root), name)
    with (
        snapshot_directory.SnapshotDraft(str(root), "step-1") as draft,
        pytest.raises(ValueError, match="points outside"),
    ):
        draft.write(name, lambda file: None)
    assert names(root) == []


def test_a_missing_and_an_added_file_are_found(root):
    commit(root, "step-1", 1)
    (root / "step-1" / "extra.bin").write_bytes(b"x")
    assert "extra.bin" in keras_ratchet.verify(str(root / "step-1")).problem
    (root / "step-1" / "extra.bin").unlink()
    (root / "step-1" / "state.json").unlink()
    assert "state.json cannot be read" in keras_ratchet.verify(str(root / "step-1")).problem


def test_a_file_that_somebody_put_into_a_snapshot_survives_its_delete(root):
    commit(root, "step-1", 1)
    (root / "step-1" / "notes.txt").write_text("mine")
    (root / "step-1" / "plots").mkdir()
    (root / "step-1" / "plots" / "loss.png").write_text("mine")
    snapshot_directory.delete_snapshot(str(root / "step-1"))
    assert names(root / "step-1") == ["notes.txt", "plots"]
    assert (root / "step-1" / "plots" / "loss.png").read_text() == "mine"
    assert names(root) == ["step-1"]
    assert checkpoints(str(root)) == []


def test_a_link_to_a_snapshot_is_no_snapshot(root):
    """A user's `latest -> step-2` is neither listed nor deleted, and leads no delete astray."""
    commit(root, "step-1", 1)
    commit(root, "step-2", 2)
    (root / "latest").symlink_to(root / "step-2")
    assert [info.name for info in checkpoints(str(root))] == ["step-1", "step-2"]
    with pytest.raises(OSError, match="symbolic link"):
        snapshot_directory.delete_snapshot(str(root / "latest"))
    (root / ".trash-0123abcd-latest").symlink_to(root / "step-2")
    snapshot_directory.sweep_snapshots(str(root))
    assert keras_ratchet.verify(str(root / "latest"))
    assert keras_ratchet.verify(str(root / "step-2"))


def test_a_damaged_snapshot_can_be_deleted(root):
    commit(root, "step-1", 1)
    (root / "step-1" / snapshot_directory.MANIFEST).write_bytes(b"{")
    assert keras_ratchet.verify(str(root / "step-1")).status == "corrupt"
    snapshot_directory.delete_snapshot(str(root / "step-1"))
    assert names(root) == []


def test_a_directory_without_a_manifest_is_nobodys_snapshot(root):
    (root / "plots").mkdir()
    (root / "plots" / "a.png").write_text("x")
    assert checkpoints(str(root)) == []
    with pytest.raises(keras_ratchet.errors.LoadError, match=r"without manifest.json"):
        keras_ratchet.verify(str(root / "plots"))


def test_an_error_while_a_snapshot_is_written_leaves_nothing(root):
    def fail(file):
        raise RuntimeError("boom")

    with (
        pytest.raises(RuntimeError),
        snapshot_directory.SnapshotDraft(str(root), "step-1") as draft,
    ):
        draft.write("a.bin", lambda file: file.write(b"x"))
        draft.write("b.bin", fail)
    assert names(root) == []


def test_every_fact_of_a_manifest_survives_the_disk(root):
    full = replace(
        facts(3),
        metrics={"a": float("nan"), "b": float("inf"), "c": -0.0, "ü": 1e-300},
        versions={"keras": "3"},
        fingerprint="f",
        reason="because\n“why”",
    )
    save(root, "best.keras", 3)
    single_file.adopt(str(root / "best.keras"), full)
    back = single_file.manifest_of(str(root / "best.keras"))
    assert repr(replace(back, files={})) == repr(replace(full, files={}))
    assert Manifest(files={}).position.step is None


@pytest.mark.parametrize("direct", [True, False])
def test_writing_past_the_page_cache_can_be_switched_off(root, direct, monkeypatch):
    asked = []
    monkeypatch.setattr(atomic, "DIRECT_IO", direct)
    monkeypatch.setattr(disk.current, "bypass_cache", lambda fd, on: asked.append(on) or False)
    data = os.urandom(1 << 13)
    with contextlib.closing(atomic.HashingFile(str(root / "file"))) as file:
        file.write(data * 1024)
        file.sync()
    assert (root / "file").read_bytes() == data * 1024
    assert bool(asked) == direct


def test_files_that_are_written_in_turns_do_not_share_a_block(root):
    for turn in range(3):
        files = [atomic.HashingFile(str(root / f"{turn}-{name}")) for name in range(3)]
        for part in range(4):
            for number, file in enumerate(files):
                file.write(b"%d %d %d\n" % (turn, number, part))
        for file in files:
            file.flush()
            file.close()
    for turn in range(3):
        for number in range(3):
            lines = [f"{turn} {number} {part}\n" for part in range(4)]
            assert (root / f"{turn}-{number}").read_text() == "".join(lines)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_write_into_the_block_of_its_parent(root):
    code = (
        "import os, sys\n"
        "from keras_ratchet._storage import atomic\n"
        "def begin(name):\n"
        "    file = atomic.HashingFile(name)\n"
        "    file.write(name.encode() * 9)\n"
        "    return file\n"
        "begin('first').close()\n"
        "child = os.fork()\n"
        "file = begin('child' if child == 0 else 'parent')\n"
        "if child:\n"
        "    os.waitpid(child, 0)\n"
        "file.flush()\n"
        "os._exit(0) if child == 0 else file.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
    assert (root / "child").read_text() == "child" * 9
    assert (root / "parent").read_text() == "parent" * 9
