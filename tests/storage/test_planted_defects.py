"""The fault tests are worth something only if they catch what they are there for.

Each test plants one defect in the storage, runs the same scenarios under the same faults, and
asks for the violation that the defect must cause.
"""

import os
from dataclasses import replace

import pytest
from support import scenarios
from support.faults import CRASHES

from keras_ratchet._storage import (
    atomic,
    disk,
    earlier_runs,
    single_file,
    snapshot_directory,
)
from keras_ratchet._storage.manifest import entry_of


def caught(scenario, directory, expected):
    """Run a scenario and assert that a violation with this text is found; return all."""
    found = scenarios.violations(scenario, directory, CRASHES)
    assert any(expected in violation for violation in found), found[:5]
    return found


def write_without_sync(which):
    """Return an `AtomicFile.write` that does not sync files whose target `which` accepts."""
    write = atomic.AtomicFile.write

    def unsynced(draft, fill):
        if not which(draft.target):
            return write(draft, fill)
        with atomic.HashingFile(draft.path) as file:
            fill(file)
            file.flush()

    return unsynced


def is_manifest(path):
    return path.endswith(".json")


def test_without_a_defect_nothing_is_found(quick_path):
    assert scenarios.violations(scenarios.SaveOver(), quick_path) == []


def test_a_draft_that_is_not_synced_is_caught(quick_path, monkeypatch):
    lazy = write_without_sync(lambda path: not is_manifest(path))
    monkeypatch.setattr(atomic.AtomicFile, "write", lazy)
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert all("power loss" in violation for violation in found)


def test_a_manifest_that_is_not_synced_is_caught(quick_path, monkeypatch):
    monkeypatch.setattr(atomic.AtomicFile, "write", write_without_sync(is_manifest))
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert all("power loss" in violation for violation in found)


def test_a_replace_before_the_sync_is_caught(quick_path, monkeypatch):
    def commit(draft):
        disk.current.replace(draft.path, draft.target)
        draft._committed = True
        fd = disk.current.open(draft.target, os.O_RDWR)
        disk.current.sync(fd)
        os.close(fd)
        disk.current.sync_directory(os.path.dirname(draft.target))

    monkeypatch.setattr(atomic.AtomicFile, "write", write_without_sync(lambda path: True))
    monkeypatch.setattr(atomic.AtomicFile, "commit", commit)
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert all("power loss" in violation for violation in found)


def test_a_directory_that_is_not_synced_after_the_replace_is_caught(quick_path, monkeypatch):
    def commit(draft):
        disk.current.replace(draft.path, draft.target)
        draft._committed = True

    monkeypatch.setattr(atomic.AtomicFile, "commit", commit)
    found = caught(scenarios.SaveOver(), quick_path, "though state 2 was reported")
    assert all("power loss" in violation for violation in found)


def test_a_manifest_directory_that_is_not_synced_is_caught(quick_path, monkeypatch):
    commit = atomic.AtomicFile.commit

    def hasty(draft):
        if not is_manifest(draft.target):
            return commit(draft)
        disk.current.replace(draft.path, draft.target)
        draft._committed = True

    monkeypatch.setattr(atomic.AtomicFile, "commit", hasty)
    caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")


def test_a_file_that_is_overwritten_in_place_is_caught(quick_path, monkeypatch):
    def commit(draft):
        with open(draft.path, "rb") as source:
            data = source.read()
        fd = disk.current.open(draft.target, os.O_RDWR | os.O_CREAT)
        disk.current.truncate(fd, 0)
        disk.current.write(fd, memoryview(data))
        disk.current.sync(fd)
        os.close(fd)
        disk.current.sync_directory(os.path.dirname(draft.target))
        disk.current.unlink(draft.path)

    monkeypatch.setattr(atomic.AtomicFile, "commit", commit)
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert any("torn write" in violation for violation in found)


def test_old_manifests_that_are_removed_before_the_commit_are_caught(quick_path, monkeypatch):
    def commit_draft(draft, manifest):
        manifest = replace(manifest, files={os.path.basename(draft.target): entry_of(draft.path)})
        for path in list(single_file._manifest_paths(draft.target)):
            disk.discard(path)
        single_file.write_manifest(draft.target, manifest)
        draft.commit()
        return manifest

    monkeypatch.setattr(single_file, "commit_draft", commit_draft)
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert any("crash" in violation for violation in found)


def test_a_manifest_that_is_written_after_the_commit_is_caught(quick_path, monkeypatch):
    def commit_draft(draft, manifest):
        manifest = replace(manifest, files={os.path.basename(draft.target): entry_of(draft.path)})
        earlier = list(single_file._manifest_paths(draft.target))
        draft.commit()
        single_file.write_manifest(draft.target, manifest)
        for path in earlier:
            disk.discard(path)
        return manifest

    monkeypatch.setattr(single_file, "commit_draft", commit_draft)
    caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")


def test_a_delete_that_removes_the_manifest_first_is_caught(quick_path, monkeypatch):
    def delete_file(path):
        for manifest in list(single_file._manifest_paths(path)):
            disk.current.unlink(manifest)
        single_file.remove_pin(path)
        disk.current.unlink(path)
        disk.current.sync_directory(os.path.dirname(path))

    monkeypatch.setattr(single_file, "delete_file", delete_file)
    caught(scenarios.Delete(), quick_path, "ckpt-2.keras is unverified")


def test_a_snapshot_that_is_deleted_in_place_is_caught(quick_path, monkeypatch):
    monkeypatch.setattr(snapshot_directory, "delete_snapshot", snapshot_directory._remove_tree)
    caught(scenarios.SnapshotDelete(), quick_path, "step-1 is corrupt")


def test_a_delete_whose_rename_is_not_synced_is_caught(quick_path, monkeypatch):
    def delete_snapshot(path):
        trash = atomic.draft_path(path, atomic.TRASH_PREFIX)
        disk.current.rename(path, trash)
        snapshot_directory._remove_tree(trash)
        single_file.remove_pin(path)

    monkeypatch.setattr(snapshot_directory, "delete_snapshot", delete_snapshot)
    found = caught(scenarios.SnapshotDelete(), quick_path, "step-1 is corrupt")
    assert all("power loss" in violation for violation in found)


def test_an_older_checkpoint_that_goes_before_the_new_one_is_durable_is_caught(
    quick_path, monkeypatch
):
    class Rotation(scenarios.SaveOver):
        """Frees the room first, as disks that are nearly full tempt one to do."""

        def act(self, root, reported):
            single_file.delete_file(os.path.join(root, "best.keras"))
            super().act(root, reported)

    caught(Rotation(), quick_path, "there is {} though state 0 was reported")


def snapshot_commit(syncs_files=True, syncs_draft=True, syncs_parent=True):
    """Return a `SnapshotDraft.commit` that leaves out one of its syncs."""

    def commit(draft, manifest):
        records = {n: entry_of(os.path.join(draft.path, n)) for n in draft._files}
        text = replace(manifest, files=records).to_bytes()
        draft.write(snapshot_directory.MANIFEST, lambda file: file.write(text))
        if syncs_draft:
            disk.current.sync_directory(draft.path)
        disk.current.rename(draft.path, draft.target)
        draft._committed = True
        if syncs_parent:
            disk.current.sync_directory(os.path.dirname(draft.target))

    return commit


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ("syncs_draft", "though state"),
        ("syncs_parent", "though state 1 was reported"),
    ],
)
def test_a_snapshot_directory_that_is_not_synced_is_caught(
    left_out, expected, quick_path, monkeypatch
):
    monkeypatch.setattr(
        snapshot_directory.SnapshotDraft, "commit", snapshot_commit(**{left_out: False})
    )
    found = caught(scenarios.SnapshotCommit(), quick_path, expected)
    assert all("power loss" in violation for violation in found)


def test_snapshot_files_that_are_not_synced_are_caught(quick_path, monkeypatch):
    monkeypatch.setattr(atomic.HashingFile, "sync", lambda file: file.flush())
    found = caught(scenarios.SnapshotCommit(), quick_path, "step-2")
    assert all("power loss" in violation for violation in found)


def test_a_new_directory_whose_parent_is_not_synced_is_caught(quick_path, monkeypatch):
    def make_directories(path):
        if not os.path.isdir(path):
            make_directories(os.path.dirname(path))
            disk.current.mkdir(path)

    monkeypatch.setattr(disk, "make_directories", make_directories)
    caught(scenarios.SaveInNewDirectory(), quick_path, "though state 1 was reported")


def test_a_new_directory_that_somebody_else_left_unsynced_is_caught(quick_path, monkeypatch):
    monkeypatch.setattr(atomic, "probe", lambda directory: None)
    expected = "though state 1 was reported"
    caught(scenarios.SaveInUnsyncedDirectory(), quick_path, expected)


def test_a_sweep_that_takes_what_is_not_ours_is_caught(quick_path, monkeypatch):
    sweep = single_file.sweep
    monkeypatch.setattr(single_file, "sweep", lambda root, _: sweep(root, lambda name: True))
    caught(scenarios.FirstSave(), quick_path, "is not ours and was touched")


def test_a_kept_file_without_its_manifest_is_caught(quick_path, monkeypatch):
    link, write = earlier_runs._link, single_file.write_manifest
    root = f"{quick_path}/checkpoints"

    def first_the_name(path, manifest):
        if ".before-01" in path:
            link(f"{root}/best.keras", f"{root}/best.before-01.keras")
        return write(path, manifest)

    monkeypatch.setattr(earlier_runs, "_link", lambda source, target: None)
    monkeypatch.setattr(single_file, "write_manifest", first_the_name)
    caught(scenarios.SetAside(), quick_path, "best.before-01.keras is unverified")


def test_a_sweep_that_forgets_something_is_caught(quick_path, monkeypatch):
    monkeypatch.setattr(single_file, "_leftovers", lambda root, is_ours: iter(()))
    caught(scenarios.FirstSave(), quick_path, "is left over")


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        (scenarios.Delete(), "ckpt-2.keras is unverified"),
        (scenarios.SnapshotDelete(), "'step-1': '?'"),
    ],
)
def test_a_sweep_that_builds_on_an_unsynced_rename_is_caught(
    scenario, expected, quick_path, monkeypatch
):
    def hasty(sweep):
        def swept(*args):
            with monkeypatch.context() as patch:
                patch.setattr(type(disk.current), "sync_directory", lambda disk, path: None)
                return sweep(*args)

        return swept

    monkeypatch.setattr(single_file, "sweep", hasty(single_file.sweep))
    monkeypatch.setattr(
        snapshot_directory, "sweep_snapshots", hasty(snapshot_directory.sweep_snapshots)
    )
    runs = scenarios.all_runs_with_two_faults(scenario, quick_path)
    assert any(expected in what for run in runs for what in run.violations)
