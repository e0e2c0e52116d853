"""The fault tests are worth something only if they catch what they are there for.

Each test plants one defect in the storage, runs the same scenarios under the same faults, and
asks for the violation that the defect must cause.
"""

import os
from dataclasses import replace

import pytest
from support import scenarios
from support.faults import CRASHES

from keras_ratchet._storage import aside, durable, files, local
from keras_ratchet._storage.manifest import record_of


def caught(scenario, directory, expected):
    """Run a scenario and assert that a violation with this text is found; return all."""
    found = scenarios.violations(scenario, directory, CRASHES)
    assert any(expected in violation for violation in found), found[:5]
    return found


def write_without_sync(which):
    """Return a `FileDraft.write` that does not sync files whose target `which` accepts."""
    write = durable.FileDraft.write

    def unsynced(draft, fill):
        if not which(draft.target):
            return write(draft, fill)
        with durable.DraftFile(draft.path) as file:
            fill(file)
            file.flush()

    return unsynced


def is_manifest(path):
    return path.endswith(".json")


def test_without_a_defect_nothing_is_found(quick_path):
    assert scenarios.violations(scenarios.SaveOver(), quick_path) == []


def test_a_draft_that_is_not_synced_is_caught(quick_path, monkeypatch):
    lazy = write_without_sync(lambda path: not is_manifest(path))
    monkeypatch.setattr(durable.FileDraft, "write", lazy)
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert all("power loss" in violation for violation in found)


def test_a_manifest_that_is_not_synced_is_caught(quick_path, monkeypatch):
    monkeypatch.setattr(durable.FileDraft, "write", write_without_sync(is_manifest))
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert all("power loss" in violation for violation in found)


def test_a_replace_before_the_sync_is_caught(quick_path, monkeypatch):
    def commit(draft):
        durable.disk.replace(draft.path, draft.target)
        draft._committed = True
        fd = durable.disk.open(draft.target, os.O_RDWR)
        durable.disk.sync(fd)
        os.close(fd)
        durable.disk.sync_directory(os.path.dirname(draft.target))

    monkeypatch.setattr(durable.FileDraft, "write", write_without_sync(lambda path: True))
    monkeypatch.setattr(durable.FileDraft, "commit", commit)
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert all("power loss" in violation for violation in found)


def test_a_directory_that_is_not_synced_after_the_replace_is_caught(quick_path, monkeypatch):
    def commit(draft):
        durable.disk.replace(draft.path, draft.target)
        draft._committed = True

    monkeypatch.setattr(durable.FileDraft, "commit", commit)
    found = caught(scenarios.SaveOver(), quick_path, "though state 2 was reported")
    assert all("power loss" in violation for violation in found)


def test_a_manifest_directory_that_is_not_synced_is_caught(quick_path, monkeypatch):
    commit = durable.FileDraft.commit

    def hasty(draft):
        if not is_manifest(draft.target):
            return commit(draft)
        durable.disk.replace(draft.path, draft.target)
        draft._committed = True

    monkeypatch.setattr(durable.FileDraft, "commit", hasty)
    caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")


def test_a_file_that_is_overwritten_in_place_is_caught(quick_path, monkeypatch):
    def commit(draft):
        with open(draft.path, "rb") as source:
            data = source.read()
        fd = durable.disk.open(draft.target, os.O_RDWR | os.O_CREAT)
        durable.disk.truncate(fd, 0)
        durable.disk.write(fd, memoryview(data))
        durable.disk.sync(fd)
        os.close(fd)
        durable.disk.sync_directory(os.path.dirname(draft.target))
        durable.disk.unlink(draft.path)

    monkeypatch.setattr(durable.FileDraft, "commit", commit)
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert any("torn write" in violation for violation in found)


def test_old_manifests_that_are_removed_before_the_commit_are_caught(quick_path, monkeypatch):
    def commit_draft(draft, facts):
        name, side = os.path.basename(draft.target), files.side_directory(draft.target)
        manifest = replace(facts, files={name: record_of(draft.path)})
        durable.make_directories(side)
        for entry, path in list(files._manifest_names(side, name)):
            assert entry
            durable.discard(path)
        digest = manifest.files[name].digest
        files.write_manifest(os.path.join(side, f"{name}.{digest}.json"), manifest)
        draft.commit()
        return manifest

    monkeypatch.setattr(files, "commit_draft", commit_draft)
    found = caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")
    assert any("crash" in violation for violation in found)


def test_a_manifest_that_is_written_after_the_commit_is_caught(quick_path, monkeypatch):
    def commit_draft(draft, facts):
        name, side = os.path.basename(draft.target), files.side_directory(draft.target)
        manifest = replace(facts, files={name: record_of(draft.path)})
        durable.make_directories(side)
        earlier = [path for _, path in files._manifest_names(side, name)]
        draft.commit()
        digest = manifest.files[name].digest
        files.write_manifest(os.path.join(side, f"{name}.{digest}.json"), manifest)
        for path in earlier:
            durable.discard(path)
        return manifest

    monkeypatch.setattr(files, "commit_draft", commit_draft)
    caught(scenarios.SaveOver(), quick_path, "best.keras is corrupt")


def test_a_delete_that_removes_the_manifest_first_is_caught(quick_path, monkeypatch):
    def delete_file(path):
        for _, manifest in list(files._manifest_names(files.side_directory(path), "ckpt-2.keras")):
            durable.disk.unlink(manifest)
        files.remove_pin(path)
        durable.disk.unlink(path)
        durable.disk.sync_directory(os.path.dirname(path))

    monkeypatch.setattr(files, "delete_file", delete_file)
    caught(scenarios.Delete(), quick_path, "ckpt-2.keras is unverified")


def test_a_snapshot_that_is_deleted_in_place_is_caught(quick_path, monkeypatch):
    monkeypatch.setattr(local, "delete_snapshot", local._remove_tree)
    caught(scenarios.SnapshotDelete(), quick_path, "step-1 is corrupt")


def test_a_delete_whose_rename_is_not_synced_is_caught(quick_path, monkeypatch):
    def delete_snapshot(path):
        trash = durable.draft_path(path, durable.TRASH_PREFIX)
        durable.disk.rename(path, trash)
        local._remove_tree(trash)
        files.remove_pin(path)

    monkeypatch.setattr(local, "delete_snapshot", delete_snapshot)
    found = caught(scenarios.SnapshotDelete(), quick_path, "step-1 is corrupt")
    assert all("power loss" in violation for violation in found)


def test_an_older_checkpoint_that_goes_before_the_new_one_is_durable_is_caught(
    quick_path, monkeypatch
):
    class Rotation(scenarios.SaveOver):
        """Frees the room first, as disks that are nearly full tempt one to do."""

        def act(self, root, reported):
            files.delete_file(os.path.join(root, "best.keras"))
            super().act(root, reported)

    caught(Rotation(), quick_path, "there is {} though state 0 was reported")


def snapshot_commit(syncs_files=True, syncs_draft=True, syncs_parent=True):
    """Return a `SnapshotDraft.commit` that leaves out one of its syncs."""

    def commit(draft, facts):
        records = {n: record_of(os.path.join(draft.path, n)) for n in draft._files}
        text = replace(facts, files=records).to_bytes()
        draft.write(local.MANIFEST, lambda file: file.write(text))
        if syncs_draft:
            durable.disk.sync_directory(draft.path)
        durable.disk.rename(draft.path, draft.target)
        draft._committed = True
        if syncs_parent:
            durable.disk.sync_directory(os.path.dirname(draft.target))

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
    monkeypatch.setattr(local.SnapshotDraft, "commit", snapshot_commit(**{left_out: False}))
    found = caught(scenarios.SnapshotCommit(), quick_path, expected)
    assert all("power loss" in violation for violation in found)


def test_snapshot_files_that_are_not_synced_are_caught(quick_path, monkeypatch):
    monkeypatch.setattr(durable.DraftFile, "sync", lambda file: file.flush())
    found = caught(scenarios.SnapshotCommit(), quick_path, "step-2")
    assert all("power loss" in violation for violation in found)


def test_a_new_directory_whose_parent_is_not_synced_is_caught(quick_path, monkeypatch):
    def make_directories(path):
        if not os.path.isdir(path):
            make_directories(os.path.dirname(path))
            durable.disk.mkdir(path)

    monkeypatch.setattr(durable, "make_directories", make_directories)
    caught(scenarios.SaveInNewDirectory(), quick_path, "though state 1 was reported")


def test_a_new_directory_that_somebody_else_left_unsynced_is_caught(quick_path, monkeypatch):
    monkeypatch.setattr(durable, "probe", lambda directory: None)
    expected = "though state 1 was reported"
    caught(scenarios.SaveInUnsyncedDirectory(), quick_path, expected)


def test_a_sweep_that_takes_what_is_not_ours_is_caught(quick_path, monkeypatch):
    sweep = files.sweep
    monkeypatch.setattr(files, "sweep", lambda root, _: sweep(root, lambda name: True))
    caught(scenarios.FirstSave(), quick_path, "is not ours and was touched")


def test_a_kept_file_without_its_manifest_is_caught(quick_path, monkeypatch):
    give_name, write = aside._give_name, files.write_manifest
    root = f"{quick_path}/checkpoints"

    def first_the_name(path, manifest):
        if ".before-01" in path:
            give_name(f"{root}/best.keras", f"{root}/best.before-01.keras")
        write(path, manifest)

    monkeypatch.setattr(aside, "_give_name", lambda source, target: None)
    monkeypatch.setattr(files, "write_manifest", first_the_name)
    caught(scenarios.SetAside(), quick_path, "best.before-01.keras is unverified")


def test_a_sweep_that_forgets_something_is_caught(quick_path, monkeypatch):
    monkeypatch.setattr(files, "_leftovers", lambda root, is_ours: iter(()))
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
                patch.setattr(type(durable.disk), "sync_directory", lambda disk, path: None)
                return sweep(*args)

        return swept

    monkeypatch.setattr(files, "sweep", hasty(files.sweep))
    monkeypatch.setattr(local, "sweep_snapshots", hasty(local.sweep_snapshots))
    runs = scenarios.all_runs_with_two_faults(scenario, quick_path)
    assert any(expected in what for run in runs for what in run.violations)
