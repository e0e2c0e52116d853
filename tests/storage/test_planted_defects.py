"""The fault tests are worth something only if they catch what they are there for.

Each test plants one defect in the storage, runs the same scenarios under the same faults, and
asks for the violation that the defect must cause.
"""

import os
from dataclasses import replace

import pytest
from support import scenarios
from support.faults import CRASHES, FaultDisk

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


def sync_without(left_out):
    """Return a `FaultDisk.sync_all` that leaves out one part of a checkpoint."""
    sync_all = FaultDisk.sync_all

    def lazy(self, fds, directories=()):
        if len(fds) > 1:
            fds = [
                fd for what, fd in zip(("draft", "manifest"), fds, strict=True) if what != left_out
            ]
            directories = [] if left_out == "directory" else directories
        sync_all(self, fds, directories)

    return lazy


def test_without_a_defect_nothing_is_found(quick_path):
    assert scenarios.violations(scenarios.SaveOver(), quick_path) == []


@pytest.mark.parametrize("left_out", ["draft", "manifest", "directory"])
def test_a_part_that_is_not_synced_is_caught(left_out, quick_path, monkeypatch):
    monkeypatch.setattr(FaultDisk, "sync_all", sync_without(left_out))
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert all("power loss" in violation for violation in found)


def test_a_replace_before_the_sync_is_caught(quick_path, monkeypatch):
    sync = atomic.AtomicFile.sync

    def commit(draft):
        disk.current.replace(draft.path, draft.target)
        draft._committed = True
        sync(draft)
        disk.current.sync_directory(os.path.dirname(draft.target))

    monkeypatch.setattr(atomic.AtomicFile, "sync", lambda draft, *_: sync_others(*_))
    monkeypatch.setattr(atomic.AtomicFile, "commit", commit)
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert all("power loss" in violation for violation in found)


def sync_others(others, directories):
    disk.current.sync_all(others, directories)


def test_a_directory_that_is_not_synced_after_the_replace_is_caught(quick_path, monkeypatch):
    def commit(draft):
        disk.current.replace(draft.path, draft.target)
        draft._committed = True

    monkeypatch.setattr(atomic.AtomicFile, "commit", commit)
    found = caught(scenarios.SaveOver(), quick_path, "though state 2 was reported")
    assert all("power loss" in violation for violation in found)


def test_a_manifest_that_is_overwritten_in_place_is_caught(quick_path, monkeypatch):
    def sync_with_manifest(draft, where, manifest):
        disk.make_directories(os.path.dirname(where))
        fd = disk.current.open(where, os.O_RDWR | os.O_CREAT)
        disk.current.truncate(fd, 0)
        disk.current.write(fd, memoryview(manifest.to_bytes()))
        draft.sync([fd], [os.path.dirname(where)])
        os.close(fd)

    monkeypatch.setattr(single_file, "_sync_with_manifest", sync_with_manifest)
    assert scenarios.violations(scenarios.SaveOver(), quick_path, CRASHES) == []
    caught(scenarios.SaveSameBytes(), quick_path, "best.keras is corrupt")


def test_a_manifest_that_goes_when_the_commit_reports_an_error_is_caught(quick_path, monkeypatch):
    def commit_draft(draft, manifest):
        manifest = replace(manifest, files={os.path.basename(draft.target): entry_of(draft.path)})
        own = single_file.write_manifest(draft.target, manifest)
        try:
            draft.commit()
        except OSError:
            disk.discard(own)
            raise

    monkeypatch.setattr(single_file, "commit_draft", commit_draft)
    found = scenarios.violations(scenarios.SaveOver(), quick_path, ["late error"])
    assert any("best.keras is corrupt" in violation for violation in found)


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


@pytest.mark.parametrize("left_out", [0, 1, 2, "directory"])
def test_a_part_of_a_snapshot_that_is_not_synced_is_caught(left_out, quick_path, monkeypatch):
    sync_all = FaultDisk.sync_all

    def lazy(self, fds, directories=()):
        kept = [fd for number, fd in enumerate(fds) if number != left_out]
        sync_all(self, kept, () if left_out == "directory" else directories)

    monkeypatch.setattr(FaultDisk, "sync_all", lazy)
    found = caught(scenarios.SnapshotCommit(), quick_path, "step-2")
    assert all("power loss" in violation for violation in found)


@pytest.mark.parametrize("scenario", [scenarios.SnapshotLink, scenarios.SnapshotLinkWithoutLinks])
def test_a_shared_file_that_moves_into_the_next_snapshot_is_caught(
    scenario, quick_path, monkeypatch
):
    def link(draft, name, source, entry, opened):
        disk.current.rename(source, os.path.join(draft.path, name))
        draft.add(name, entry)

    monkeypatch.setattr(snapshot_directory.SnapshotDraft, "link", link)
    caught(scenario(), quick_path, "step-1")


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
