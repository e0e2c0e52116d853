"""The fault tests of stores are worth something only if they catch what they are there for.

Each test plants one defect, tells the same story with the same faults, and asks for the assertion
that the defect must break.
"""

import pytest
from support import stores

from keras_ratchet._storage.objects import checksums, commit, lease, object_store, replica
from keras_ratchet._storage.objects.record import (
    DATA,
    Record,
    StoredObject,
    data_key,
    new_id,
)


def tell_all(monkeypatch, kinds):
    """Tell the story with a fault of each kind at each call that it strikes."""
    faults, story = stores.tell(monkeypatch)
    if story.error is not None:
        raise AssertionError(f"the story ends early: {story.error!r}")
    for kind in kinds:
        for at, verb in enumerate(faults.verbs(), 1):
            if verb in stores.KINDS[kind]:
                _, story = stores.tell(monkeypatch, kind, at, is_restarted=at % 2 == 0)
                passes = kind in ("error before", "error after", "flip", "slow")
                if passes and story.error is not None:
                    raise AssertionError(f"{kind} at {at} ends the story: {story.error!r}")


def caught(monkeypatch, text, *kinds):
    """Assert that a violation with this text is found."""
    with pytest.raises(AssertionError, match=text):
        tell_all(monkeypatch, kinds)


def test_without_a_defect_nothing_is_found(monkeypatch):
    tell_all(monkeypatch, ["crash after"])


def test_a_record_that_is_put_before_the_data_is_caught(monkeypatch):
    def put_checkpoint(catalog, path, manifest):
        name, is_directory = commit.os.path.basename(path), commit.os.path.isdir(path)
        own = new_id(manifest.saved_at)
        objects = {
            file: StoredObject(data_key(own, file), entry.size_bytes, {})
            for file, entry in manifest.files.items()
        }
        entry = commit._commit(catalog, own, own, Record(name, is_directory, manifest, objects))
        for file in manifest.files:
            source = commit.os.path.join(path, file) if is_directory else path
            catalog.store.put_file(source, objects[file].key)
        return entry

    monkeypatch.setattr(commit, "put_checkpoint", put_checkpoint)
    caught(monkeypatch, "it is not there", "crash before")


def test_objects_that_are_deleted_before_their_record_are_caught(monkeypatch):
    def delete_checkpoint(catalog, entry):
        for key in catalog.store.find(f"{DATA}/{entry.data_id}"):
            catalog.store.delete(key)
        catalog.store.delete(entry.key)
        catalog.remove(entry)

    monkeypatch.setattr(commit, "delete_checkpoint", delete_checkpoint)
    caught(monkeypatch, "it is not there", "crash after")


def test_objects_that_another_record_names_and_are_deleted_are_caught(monkeypatch):
    monkeypatch.setattr(commit.Catalog, "is_used", lambda catalog, key: False)
    caught(monkeypatch, "it is not there")


def test_a_put_that_is_not_compared_is_caught(monkeypatch):
    monkeypatch.setattr(object_store, "differs", lambda path, found, chunks: "")
    caught(monkeypatch, "is listed: the bytes of .*digest differs", "flip")


def test_a_put_whose_length_alone_is_compared_is_caught(monkeypatch):
    monkeypatch.setattr(checksums, "_read_again", lambda path, chunks: "")
    caught(monkeypatch, "digest differs", "flip")


def test_a_sweep_without_an_age_limit_is_caught(monkeypatch):
    sweep = commit.sweep
    monkeypatch.setattr(commit, "sweep", lambda catalog, now_s=None: sweep(catalog, now_s=1e12))
    caught(monkeypatch, "another machine's upload is deleted")


def test_a_sweep_that_sweeps_what_is_in_use_is_caught(monkeypatch):
    def sweep(catalog, now_s=None):
        for key in catalog.store.find(DATA):
            catalog.store.delete(key)

    monkeypatch.setattr(commit, "sweep", sweep)
    caught(monkeypatch, "it is not there")


def test_a_sweep_that_is_left_out_is_caught(monkeypatch):
    monkeypatch.setattr(commit, "sweep", lambda catalog, now_s=None: [])
    caught(monkeypatch, "the leftover stays")


def test_an_older_checkpoint_that_goes_before_the_new_one_is_put_is_caught(monkeypatch):
    put = replica.commit.put_checkpoint

    def put_checkpoint(catalog, path, manifest):
        for entry in catalog.named(commit.os.path.basename(path)):
            if entry.info.run == manifest.run:
                commit.delete_checkpoint(catalog, entry)
        return put(catalog, path, manifest)

    monkeypatch.setattr(commit, "put_checkpoint", put_checkpoint)
    caught(monkeypatch, "best.keras is None", "crash before")


def test_another_runs_file_that_is_not_kept_is_caught(monkeypatch):
    monkeypatch.setattr(replica.Replica, "_preserve", lambda self, entry: None)
    caught(monkeypatch, "best.before-01.keras is None")


def test_another_runs_file_that_is_renamed_too_late_is_caught(monkeypatch):
    def preserve(self, entry):
        record = self.catalog.record(entry)
        self.store.delete(entry.key)
        self.catalog.remove(entry)
        name = "best.before-01.keras"
        files = {name: record.manifest.files["best.keras"]}
        renamed = Record(
            name,
            False,
            commit.replace(record.manifest, files=files),
            {name: record.objects["best.keras"]},
        )
        commit._commit(self.catalog, new_id(record.manifest.saved_at), entry.data_id, renamed)

    monkeypatch.setattr(replica.Replica, "_preserve", preserve)
    caught(monkeypatch, "lost: ", "crash after")


def test_a_drop_that_is_forgotten_is_caught(monkeypatch):
    monkeypatch.setattr(replica.Replica, "drop", lambda self, name: None)
    caught(monkeypatch, "(c1.keras|step-1) is .*, not {None}")


def test_a_record_that_is_put_again_under_another_key_is_caught(monkeypatch):
    """As a put that is repeated with a new id for every try would be."""

    def put_new(store, key, data):
        store._calls.put_new(key, data)
        return True

    monkeypatch.setattr(object_store.ObjectStore, "put_new", put_new)
    caught(monkeypatch, "ends the story", "error after")


def test_a_put_whose_lost_answer_is_taken_for_a_refusal_is_caught(monkeypatch):
    def put_new(store, key, data):
        def put():
            try:
                store._calls.put_new(key, data)
            except FileExistsError:
                return False
            return True

        return store._try(put)

    monkeypatch.setattr(object_store.ObjectStore, "put_new", put_new)
    caught(monkeypatch, "ends the story", "error after")


def test_leases_that_pile_up_are_caught(monkeypatch):
    monkeypatch.setattr(lease._Chain, "_delete_below", lambda chain, number: None)
    caught(monkeypatch, "leases are left", "crash after")
