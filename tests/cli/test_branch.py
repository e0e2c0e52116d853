"""`ratchet branch`: a copy that is whole, in a directory of its own."""

import pytest
from support.checkpoints import facts, save

import keras_ratchet
from keras_ratchet._storage import journal, snapshot_directory
from keras_ratchet.types import Position

NAME = "epoch-00003-batch-0000004"


@pytest.fixture
def snapshot(tmp_path):
    """A snapshot of two files, made without a training."""
    root = tmp_path / "source"
    root.mkdir()
    with snapshot_directory.SnapshotDraft(str(root), NAME) as draft:
        draft.write("state.json", lambda file: file.write(b"{}"))
        draft.write("state.safetensors", lambda file: file.write(b"arrays" * 1000))
        manifest = facts(3, series="", ranking=(), val_loss=0.5)
        draft.commit(manifest.__class__({}, Position(3, 4), {"val_loss": 0.5}, metadata={"lr": 1}))
    return root / NAME


def test_the_copy_is_whole_and_says_where_it_comes_from(ratchet, snapshot, tmp_path):
    new = tmp_path / "deep" / "new"
    result = ratchet("branch", snapshot, new)
    assert f"branched from {snapshot}" in result.stdout
    [info] = keras_ratchet.checkpoints(new)
    assert keras_ratchet.verify(info.path)
    assert (info.name, info.position, info.metadata) == (NAME, Position(3, 4), {"lr": 1})
    assert info.reason == f"branched from {snapshot}"
    assert info.run.startswith(f"{NAME}@")
    for file in ("state.json", "state.safetensors"):
        copied, original = new / NAME / file, snapshot / file
        assert copied.read_bytes() == original.read_bytes()
        assert copied.stat().st_ino != original.stat().st_ino
    [event] = journal.read(str(new))
    assert (event["event"], event["from"]) == ("branch", str(snapshot))
    assert "branched from" in ratchet("history", new).stdout
    assert ratchet.json("history", new)[0]["epoch"] == 3
    assert list(tmp_path.joinpath("source").iterdir()) == [snapshot]  # not a byte was added there


def test_json_has_the_copy_and_its_source(ratchet, snapshot, tmp_path):
    data = ratchet.json("branch", snapshot, tmp_path / "new")
    assert data["path"] == str(tmp_path / "new" / NAME)
    assert data["from"] == str(snapshot)


def test_an_empty_directory_is_taken_and_another_one_refused(ratchet, snapshot, tmp_path):
    (tmp_path / "empty").mkdir()
    ratchet("branch", snapshot, tmp_path / "empty")
    assert "is not empty" in ratchet("branch", snapshot, tmp_path / "empty", code=2).stderr
    assert len(keras_ratchet.checkpoints(tmp_path / "empty")) == 1


def test_a_model_file_is_refused_with_what_to_use(ratchet, tmp_path):
    path = save(str(tmp_path), "epoch-01.keras", facts(1))
    said = ratchet("branch", path, tmp_path / "new", code=2).stderr
    assert "is a model file" in said and "load_model" in said
    assert not (tmp_path / "new").exists()


def test_a_directory_of_snapshots_is_refused(ratchet, snapshot, tmp_path):
    said = ratchet("branch", snapshot.parent, tmp_path / "new", code=2).stderr
    assert "name one of them" in said
    assert "there is no" in ratchet("branch", tmp_path / "none", tmp_path / "new", code=2).stderr


@pytest.mark.parametrize("file", ["state.safetensors", "manifest.json"])
def test_a_damaged_snapshot_is_refused(ratchet, snapshot, tmp_path, file):
    data = bytearray((snapshot / file).read_bytes())
    data[len(data) // 2] ^= 1
    (snapshot / file).write_bytes(data)
    assert "is damaged" in ratchet("branch", snapshot, tmp_path / "new", code=1).stderr
    assert not any((tmp_path / "new").glob("epoch*"))
    assert not any((tmp_path / "new").glob(".draft*"))


def test_a_snapshot_on_a_store_is_branched_too(ratchet, snapshot, tmp_path, monkeypatch):
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}/run"
    ratchet("push", snapshot.parent, url)
    ratchet("branch", f"{url}/{NAME}", tmp_path / "new")
    [info] = keras_ratchet.checkpoints(tmp_path / "new")
    assert keras_ratchet.verify(info.path)
    assert info.reason == f"branched from {url}/{NAME}"
