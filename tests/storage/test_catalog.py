"""What a series remembers of its files is what is there."""

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ratchet._storage import listing, single_file
from keras_ratchet._storage.listing import FileCatalog
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.types import Position

NAMES = ["a.keras", "b.keras", "c.weights.h5"]
STEP = st.tuples(
    st.sampled_from(
        ["save", "save again", "pin", "unpin", "delete", "foreign", "vanish", "damage"]
    ),
    st.sampled_from(NAMES),
    st.integers(0, 3),
)


def do(directory, action, name, value):
    path = os.path.join(directory, name)
    if action in ("save", "save again"):
        facts = Manifest({}, Position(value), {"loss": value / 2}, saved_at=float(value))
        content = b"same" if action == "save again" else bytes([value])
        single_file.save_file(path, lambda d: d.write(lambda f: f.write(content)), facts)
    elif action == "pin" and os.path.exists(path):
        listing.pin(path)
    elif action == "unpin":
        listing.unpin(path)
    elif action == "delete" and os.path.exists(path):
        single_file.delete_file(path)
    elif action == "foreign":
        with open(os.path.join(directory, f"foreign-{name}"), "wb") as file:
            file.write(b"x")
    elif action == "damage":
        for manifest in single_file.named_manifests(directory).get(name, ()):
            single_file.replace_file(manifest, b"{")
    elif action == "vanish" and os.path.exists(path):
        os.unlink(path)


@settings(max_examples=60)
@given(st.lists(st.lists(STEP, min_size=1, max_size=3), max_size=8))
def test_after_all_changes_the_catalog_says_what_a_fresh_look_says(groups):
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        catalog = FileCatalog()
        for steps in groups:
            for step in steps:
                do(directory, *step)
                if "save" in step[0]:
                    catalog.forget(step[1])
            fresh = [r for r in listing.checkpoints(directory) if r.has_manifest]
            assert catalog.list_files(directory) == fresh


def test_a_manifest_that_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    from keras_ratchet._storage import listing as module

    for number in range(5):
        do(tmp_path, "save", f"{number}.keras", number % 4)
    catalog, read = FileCatalog(), []
    original = module._file_info
    monkeypatch.setattr(
        module, "_file_info", lambda path, paths: read.append(path) or original(path, paths)
    )
    assert len(catalog.list_files(tmp_path)) == 5
    do(tmp_path, "save", "3.keras", 1)
    catalog.list_files(tmp_path)
    assert [os.path.basename(path) for path in read[5:]] == ["3.keras"]


def test_of_two_manifests_the_one_that_matches_counts_each_time(tmp_path):
    path = tmp_path / "a.keras"
    do(tmp_path, "save", "a.keras", 1)
    [older] = single_file.named_manifests(str(tmp_path))["a.keras"]
    kept, content = Path(older).read_bytes(), path.read_bytes()
    do(tmp_path, "save", "a.keras", 2)
    Path(older).write_bytes(kept)
    catalog = FileCatalog()
    assert catalog.list_files(tmp_path)[0].position.epoch == 2
    path.write_bytes(content)
    assert catalog.list_files(tmp_path)[0].position.epoch == 1


def test_a_manifest_that_was_half_written_at_the_last_look_is_read_again(tmp_path):
    do(tmp_path, "save", "a.keras", 1)
    [path] = single_file.named_manifests(str(tmp_path))["a.keras"]
    whole = Path(path).read_bytes()
    with open(path, "r+b") as file:
        file.truncate(len(whole) // 2)
    catalog = FileCatalog()
    assert catalog.list_files(tmp_path) == []
    with open(path, "r+b") as file:
        file.write(whole)
    assert [info.name for info in catalog.list_files(tmp_path)] == ["a.keras"]
