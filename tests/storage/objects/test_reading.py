"""Anybody reads checkpoints from a store: listed at once, fetched once, compared, used."""

import os
import sys

import pytest
from fsspec.registry import _registry
from support import stores

from keras_ratchet._storage.objects import reading
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.record import (
    COMMITS,
    DATA,
    Record,
    StoredObject,
    data_key,
    new_id,
    record_key,
)
from keras_ratchet._storage.objects.replica import Replica
from keras_ratchet._storage.snapshot_directory import delete_snapshot
from keras_ratchet.errors import ConfigError, CorruptError, LoadError


@pytest.fixture
def url():
    return stores.new_url()


@pytest.fixture
def best(url, tmp_path):
    """URL of a checkpoint."""
    stores.put(url, tmp_path / "run", "best.keras", b"what was saved", at=1.0)
    return f"{url}/best.keras"


def content(path):
    with open(path, "rb") as file:
        return file.read()


def test_it_is_fetched_once(best, monkeypatch):
    faults = stores.Faults().install(monkeypatch)
    first = reading.local_copy(best)
    assert content(first) == b"what was saved"
    assert os.path.basename(first) == "best.keras"
    assert faults.verbs().count("get_file") == 1
    assert reading.local_copy(best) == first
    assert faults.verbs().count("get_file") == 1


def test_it_is_fetched_again_when_the_cache_was_damaged(best, monkeypatch):
    faults = stores.Faults().install(monkeypatch)
    path = reading.local_copy(best)
    with open(path, "r+b") as file:
        file.write(b"W")
    assert content(reading.local_copy(best)) == b"what was saved"
    assert faults.verbs().count("get_file") == 2


def test_a_newer_one_of_its_name_is_fetched_beside_it(best, url, tmp_path):
    first = reading.local_copy(best)
    stores.put(url, tmp_path / "run", "best.keras", b"a newer one", at=2.0)
    second = reading.local_copy(best)
    assert (content(first), content(second)) == (b"what was saved", b"a newer one")


def test_only_a_few_stay_fetched(url, tmp_path):
    for number in range(7):
        stores.put(url, tmp_path / "run", "best.keras", b"%d" % number, at=float(number))
        path = reading.local_copy(f"{url}/best.keras")
    fetched = os.path.dirname(os.path.dirname(path))
    assert len(os.listdir(fetched)) == 4
    assert content(path) == b"6"


def test_a_snapshot_is_fetched_whole(url, tmp_path, monkeypatch):
    stores.save_snapshot(tmp_path / "run", "step-1", b"weights")
    stores.push(url, tmp_path / "run", series="")
    faults = stores.Faults().install(monkeypatch)
    for _ in range(2):
        path = reading.local_copy(f"{url}/step-1")
        assert set(os.listdir(path)) == {
            "unchanged.bin",
            "state.bin",
            "state.json",
            "manifest.json",
        }
    assert faults.verbs().count("get_file") == 3
    assert reading.verify(f"{url}/step-1")
    assert not reading.is_directory(f"{url}/step-1")
    assert reading.is_directory(url)


@pytest.fixture
def two(best, url, tmp_path):
    """Keys of the data of two of one name, as a crash leaves them, the newest first."""
    store = ObjectStore(url)
    kept = {key: store.read(key) for key in store.find() if key.startswith((COMMITS, DATA))}
    stores.put(url, tmp_path / "run", "best.keras", b"a newer one", at=2.0)
    [newest] = store.find(DATA)
    for key, data in kept.items():
        store.put(key, data)
    [older] = set(store.find(DATA)) - {newest}
    return newest, older


def damage(store, key):
    store.put(key, store.read(key).swapcase())


def gone(store, key):
    store.delete(key)


def cut_record(store, key):
    [record] = store.find(f"{COMMITS}/1/{key.split('/')[1]}")
    store.put(record, store.read(record)[:100])


@pytest.mark.parametrize("harm", [damage, gone, cut_record])
def test_where_the_newest_is_damaged_the_one_before_is_used_loudly(
    harm, two, url, tmp_path, monkeypatch
):
    assert content(reading.local_copy(f"{url}/best.keras")) == b"a newer one"
    harm(ObjectStore(url), two[0])
    assert reading.verify(f"{url}/best.keras").status == "corrupt"
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cold"))
    with pytest.warns(UserWarning, match=f"{url}/.*Using the one before instead"):
        path = reading.local_copy(f"{url}/best.keras")
    assert content(path) == b"what was saved"


@pytest.mark.parametrize("harm", [damage, gone])
def test_where_all_are_damaged_none_is_used(harm, two, url):
    for key in two:
        harm(ObjectStore(url), key)
    with pytest.raises(CorruptError, match=r"(best\.keras.*){2}"):
        reading.local_copy(f"{url}/best.keras")


def test_a_damaged_one_is_found_by_its_length_without_reading(best, url, monkeypatch):
    store = ObjectStore(url)
    [key] = store.find(DATA)
    assert reading.verify(best, read=False)
    store.put(key, b"short")
    faults = stores.Faults().install(monkeypatch)
    outcome = reading.verify(best, read=False)
    assert outcome.status == "corrupt"
    assert "has 5 bytes where 14 were saved" in outcome.problem
    assert "chunks" not in faults.verbs()


def test_a_damaged_one_is_found_by_the_stores_checksum_without_reading(s3, tmp_path):
    url = stores.new_url(s3)
    stores.put(url, tmp_path / "run", "best.keras", b"what was saved")
    store = ObjectStore(url)
    [key] = store.find(DATA)
    damage(store, key)
    outcome = reading.verify(f"{url}/best.keras", read=False)
    assert "etag is not the one that it had" in outcome.problem


def test_a_plain_file_is_listed_and_unverified(url):
    store = ObjectStore(url)
    for key in ("plain.keras", "plain.weights.h5", "notes.txt", ".hidden.keras", "sub/x.keras"):
        store.put(key, b"plain")
    found = reading.checkpoints(url)
    assert {info.name for info in found} == {"plain.keras", "plain.weights.h5"}
    assert not any(info.has_manifest for info in found)
    assert reading.verify(f"{url}/plain.keras").status == "unverified"
    assert content(reading.local_copy(f"{url}/plain.keras")) == b"plain"
    with pytest.raises(LoadError, match="has no manifest"):
        reading.set_pin(f"{url}/plain.keras", True)


@pytest.mark.parametrize(
    "act", [reading.local_copy, reading.verify, reading.checkpoint_at], ids=lambda f: f.__name__
)
def test_what_is_not_there_is_said_by_its_url(act, url):
    with pytest.raises(LoadError, match=f"there is no checkpoint '{url}/best.keras'"):
        act(f"{url}/best.keras")


ACTS = {
    "checkpoints": reading.checkpoints,
    "local_copy": lambda url: reading.local_copy(f"{url}/best.keras"),
    "verify": lambda url: reading.verify(f"{url}/best.keras"),
    "events": reading.events,
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_missing_bucket_is_said(act, s3):
    with pytest.raises(LoadError, match=r"'s3://no-such-bucket/.*Does the bucket .* exist\?"):
        act("s3://no-such-bucket/run")


def no_credentials():
    from botocore.exceptions import NoCredentialsError

    return NoCredentialsError()


ERRORS = {
    "no credentials": (no_credentials, "s3", "AWS_ACCESS_KEY_ID.*storage_options="),
    "not allowed": (lambda: PermissionError("Access Denied"), "s3", "check your credentials"),
    "no network": (lambda: OSError("Cannot connect to host"), "s3", "Is the network up"),
    "forbidden by GCS": (lambda: PermissionError("Forbidden"), "memory", "check your credentials"),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
@pytest.mark.parametrize(("error", "scheme", "text"), ERRORS.values(), ids=ERRORS)
def test_what_to_do_is_said(error, scheme, text, act, monkeypatch):
    monkeypatch.setattr("keras_ratchet._storage.objects.object_store.START_PATIENCE_S", 0.0)
    stores.Faults().install(monkeypatch)
    made = error()

    def fail(*args):
        raise made

    monkeypatch.setattr(stores.FaultyCalls, "_call", fail)
    with pytest.raises(LoadError, match=text) as raised:
        act(f"{scheme}://bucket/run")
    assert raised.value.__cause__ is made


LIBRARIES = {
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "az": ("adlfs", "azure"),
    "hf": ("huggingface_hub", "hf"),
}


@pytest.mark.parametrize("scheme", LIBRARIES)
def test_a_missing_library_is_named_with_its_extra(scheme, monkeypatch):
    library, extra = LIBRARIES[scheme]
    monkeypatch.delitem(_registry, scheme, raising=False)
    for name in [n for n in sys.modules if n.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"needs {library}: pip install .*\[{extra}\]"):
        reading.checkpoints(f"{scheme}://bucket/run")


def test_a_scheme_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="is not a scheme that fsspec can open"):
        reading.checkpoints("carrier-pigeon://bucket/run")


def test_without_fsspec_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"a URL needs fsspec: pip install"):
        reading.checkpoints("s3://bucket/run")


def test_a_listing_of_a_thousand_records_reads_none(url, monkeypatch):
    store = ObjectStore(url)
    for number in range(1000):
        name, own = f"ckpt-{number:04d}.keras", new_id(1.8e9 + number)
        manifest = stores.manifest(at=float(number))
        stored = StoredObject(data_key(own, name), 3, {})
        store.put(record_key(own, own, Record(name, False, manifest, {name: stored})), b"")
    faults = stores.Faults().install(monkeypatch)
    found = reading.checkpoints(url)
    assert [info.name for info in found] == [f"ckpt-{n:04d}.keras" for n in range(1000)]
    assert found[-1].metrics == {"val_loss": 0.5}
    assert faults.calls == [("find", ".ratchet"), ("read_all", []), ("find_here", "")]


def test_a_pin_is_kept_by_a_drop_and_goes_with_its_checkpoint(url, tmp_path):
    stores.put(url, tmp_path / "run", "best.keras", b"one", at=1.0)
    reading.set_pin(f"{url}/best.keras", True)
    assert reading.checkpoint_at(f"{url}/best.keras").pinned
    replica = stores.Replica(str(tmp_path / "run"), ObjectStore(url), "best.keras", True)
    replica.start()
    replica.drop("best.keras")
    replica.push(True, lambda size: None)
    assert reading.checkpoint_at(f"{url}/best.keras").pinned
    reading.set_pin(f"{url}/best.keras", False)
    assert not reading.checkpoint_at(f"{url}/best.keras").pinned
    replica.end()


def test_one_that_was_changed_by_hand_is_not_deleted(best, url):
    info = reading.checkpoint_at(best)
    store = ObjectStore(url)
    [key] = store.find(DATA)
    store.put(key, b"by hand")
    with reading.lease(url, "best.keras"):
        assert reading.delete_unless_changed(info) is False
    assert reading.checkpoint_at(best) == info


def test_what_was_deleted_on_the_store_goes_from_the_cache_and_what_was_never_put_is_put(
    url, tmp_path
):
    run = tmp_path / "run"
    stores.put(url, run, "c1.keras", b"one", at=1.0)
    stores.put(url, run, "c2.keras", b"two", at=2.0)
    with reading.lease(url, "best.keras"):
        assert reading.delete_unless_changed(reading.checkpoint_at(f"{url}/c1.keras"))
    stores.save(run, "c3.keras", b"three", at=3.0)
    stores.push(url, run)
    assert {info.name for info in reading.checkpoints(url)} == {"c2.keras", "c3.keras"}
    assert {n for n in os.listdir(run) if n.endswith(".keras")} == {"c2.keras", "c3.keras"}


def test_what_snapshots_share_is_put_once_and_deleted_with_the_last(tmp_path):
    url, directory = stores.new_url(), str(tmp_path / "a")
    store = ObjectStore(url)

    def bases():
        return [key for key in store.find("checkpoints") if key.endswith("unchanged.bin")]

    replica = Replica(directory, store, "", True)
    replica.start()
    sizes = []
    for number in range(1, 4):
        stores.save_snapshot(directory, f"step-{number}", b"state %d" % number, at=float(number))
        if number > 1:
            delete_snapshot(f"{directory}/step-{number - 1}")
            replica.drop(f"step-{number - 1}")
        replica.push(True, sizes.append)
        assert len(bases()) == 1
        assert reading.verify(f"{url}/step-{number}", read=True)
        assert reading.verify(f"{url}/step-{number}", read=False)
    assert sizes[0] > 100_000 and sizes[1:] == [9, 9]
    states = [key for key in store.find("checkpoints") if key.endswith("state.bin")]
    assert len(states) == 1
    replica.end()
    again = Replica(directory, store, "", True)  # another process finds it, too
    again.start()
    stores.save_snapshot(directory, "step-4", b"state 4", at=4.0)
    again.push(True, sizes.append)
    assert len(bases()) == 1 and sizes[-1] == 9
    for name in ("step-3", "step-4"):
        delete_snapshot(f"{directory}/{name}")
        again.drop(name)
    again.push(True, sizes.append)
    assert store.find("checkpoints") == {}
    again.end()


def test_an_object_that_is_shared_and_gone_is_put_again(tmp_path):
    url, directory = stores.new_url(), str(tmp_path / "a")
    store = ObjectStore(url)
    replica = Replica(directory, store, "", True)
    replica.start()
    stores.save_snapshot(directory, "step-1", b"state 1", at=1.0)
    replica.push(True, lambda size: None)
    [base] = [key for key in store.find("checkpoints") if key.endswith("unchanged.bin")]
    store.delete(base)
    stores.save_snapshot(directory, "step-2", b"state 2", at=2.0)
    replica.push(True, lambda size: None)
    assert not reading.verify(f"{url}/step-1", read=False)
    assert reading.verify(f"{url}/step-2", read=True)
    replica.end()
