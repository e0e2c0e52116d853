"""Records and their keys: what is written is read, and what others wrote does no harm."""

import base64
import json
import math
import time
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import stores

from keras_ratchet._storage.manifest import FileEntry, Manifest, seal
from keras_ratchet._storage.objects import commit, reading
from keras_ratchet._storage.objects.catalog import Catalog, loaded
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.record import (
    COMMITS,
    Record,
    StoredObject,
    data_key,
    entry_of_key,
    entry_of_record,
    new_id,
    record_key,
    record_of_bytes,
)
from keras_ratchet.errors import LoadError
from keras_ratchet.types import Position

URL = "memory://tests/records"
DIGEST = "0123456789abcdef" * 2


def is_name(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return text not in (".", "..") and not set(text) & set("/\\\0")


names = st.text(min_size=1, max_size=60).filter(is_name)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
numbers = st.floats(allow_nan=True, allow_infinity=True)
counts = st.integers(0, 10**9)
manifests = st.builds(
    Manifest,
    files=st.just({}),
    position=st.builds(Position, counts, counts, st.none() | counts),
    metrics=st.dictionaries(texts, numbers, max_size=8),
    ranking=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    reason=st.builds(lambda text, n: text * n, texts, st.sampled_from([1, 50])),
    series=texts,
    run=texts,
    saved_at=st.floats(0.0, 4e9),
    versions=st.dictionaries(texts, texts, max_size=4),
    fingerprint=texts,
)


def record_of(manifest, name, data_id, is_directory=False):
    manifest = replace(manifest, files={name: FileEntry(3, DIGEST)})
    stored = StoredObject(data_key(data_id, name), 3, {"etag": "x"})
    return Record(name, is_directory, manifest, {name: stored})


def same(one, other):
    """Return whether two infos say the same, NaN being NaN."""
    if {k: str(v) for k, v in one.metrics.items()} != {k: str(v) for k, v in other.metrics.items()}:
        return False
    return replace(one, metrics={}) == replace(other, metrics={})


@settings(max_examples=60)
@given(manifests, names, st.booleans())
def test_a_key_tells_what_the_record_tells(manifest, name, is_directory):
    own = new_id(manifest.saved_at)
    record = record_of(manifest, name, own, is_directory)
    key = record_key(own, own, record)
    assert len(key.encode()) <= 1024 - 100
    assert max(len(piece) for piece in key.split("/")) <= 255
    assert key.isascii()
    entry = entry_of_key(key, URL)
    assert entry.id == entry.data_id == own
    raw = record.to_bytes()
    assert record_of_bytes(raw, key).to_bytes() == raw
    whole = entry_of_record(own, key, own, record_of_bytes(raw, key), URL)
    if entry.is_whole:
        assert same(entry.info, whole.info)
    assert (entry.info.name, entry.info.saved_at) == (name, manifest.saved_at)
    assert (entry.info.run, entry.info.size_bytes) == (manifest.run, 3)


LONG = {
    "a reason": {"reason": "".join(chr(0x4E00 + n * 37 % 20000) for n in range(1500))},
    "metrics": {"metrics": {f"metric_{n * 7919 % 9973}": n**0.5 for n in range(200)}},
    "versions": {"versions": {f"{n * 7919 % 9973}": str(n**0.5) for n in range(200)}},
}


@pytest.mark.parametrize("more", LONG.values(), ids=LONG)
def test_a_summary_that_is_cut_is_completed_by_the_record(more, tmp_path, monkeypatch):
    url = stores.new_url()
    manifest = stores.manifest
    monkeypatch.setattr(stores, "manifest", lambda **given: replace(manifest(**given), **more))
    stores.put(url, tmp_path, "best.keras", b"data")
    [key] = ObjectStore(url).find(COMMITS)
    assert not entry_of_key(key, url).is_whole
    [info] = reading.checkpoints(url)
    for name, value in more.items():
        assert getattr(info, name) == value
    assert info.run == "r1"


@pytest.mark.parametrize("length", [255, 80])
def test_a_name_as_long_as_a_file_system_allows_fits(length):
    name = "".join(chr(0x4E00 + n * 37 % 20000) for n in range(length // 3 - 2)) + ".keras"
    own = new_id(1.8e9)
    record = record_of(stores.manifest(run=DIGEST), name, own)
    key = record_key(own, own, record)
    assert len(key) < 1024
    assert entry_of_key(key, URL).info.name == name


def hostile_key(summary, kind="w", packed=None):
    packed = zlib.compress(json.dumps(summary).encode()) if packed is None else packed
    text = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    return f"{COMMITS}/1/1800000000000-0123abcd/{kind}{text}"


WHOLE = [
    "best.keras",
    0,
    "1800000000000-0123abcd",
    1.8e9,
    "r",
    3,
    [1, 0, 3],
    {},
    [],
    "",
    "",
    "",
    {},
]


def with_item(index, value):
    return [*WHOLE[:index], value, *WHOLE[index + 1 :]]


HOSTILE_KEYS = {
    "a name outside": hostile_key(with_item(0, "../best.keras")),
    "an absolute name": hostile_key(with_item(0, "/etc/passwd")),
    "a name that is a number": hostile_key(with_item(0, 7)),
    "a lone surrogate": hostile_key(with_item(0, "\ud800.keras")),
    "text for a time": hostile_key(with_item(3, "now")),
    "text for metrics": hostile_key(with_item(7, "val_loss")),
    "metrics that are lists": hostile_key(with_item(7, {"a": [1]})),
    "an endless count": hostile_key(with_item(5, math.inf)),
    "too short": hostile_key(WHOLE[:3]),
    "a mapping": hostile_key({"name": "best.keras"}),
    "deep": hostile_key(None, packed=zlib.compress(b"[" * 900_000)),
    "a bomb": hostile_key(None, packed=zlib.compress(bytes(200 << 20), 9)),
    "not packed": hostile_key(None, packed=b"[]"),
    "no base64": f"{COMMITS}/1/1800000000000-0123abcd/w_",
    "data outside": hostile_key(with_item(2, "../.ratchet")),
    "data that is no name": hostile_key(with_item(2, ".")),
    "data that is no text": hostile_key(with_item(2, [1])),
    "a time that is none": hostile_key(with_item(3, math.nan)),
    "an endless time": hostile_key(with_item(3, math.inf)),
    "another kind": hostile_key(WHOLE, kind="x"),
    "no id": f"{COMMITS}/1/latest/wabc",
    "no summary": f"{COMMITS}/1/1800000000000-0123abcd/w",
    "dots": f"{COMMITS}/1/../../wabc",
}


@pytest.mark.parametrize("key", HOSTILE_KEYS.values(), ids=HOSTILE_KEYS)
def test_a_hostile_key_is_no_checkpoint(key):
    assert entry_of_key(key, URL) is None


def test_hostile_keys_leave_the_others_listed_and_stop_the_sweep(tmp_path):
    url = stores.new_url()
    stores.put(url, tmp_path, "best.keras", b"data")
    store = ObjectStore(url)
    for key in HOSTILE_KEYS.values():
        if len(key) < 1024 and ".." not in key:
            store.put(key, b"{}")
    store.put("checkpoints/1700000000000-deadbeef/x", b"data")
    catalog = loaded(store)
    assert [entry.info.name for entry in catalog.entries()] == ["best.keras"]
    assert catalog.has_unknown
    assert commit.sweep(catalog, now_s=time.time() + 1e6) == []


def test_a_newer_versions_record_stops_the_sweep_and_nothing_else(tmp_path):
    url = stores.new_url()
    stores.put(url, tmp_path, "best.keras", b"data")
    store = ObjectStore(url)
    key = f"{COMMITS}/2/1800000000000-0123abcd/wabc"
    store.put(key, b"{}")
    leftover = "checkpoints/1700000000000-deadbeef/x"
    store.put(leftover, b"data")
    assert commit.sweep(loaded(store), now_s=time.time() + 1e6) == []
    assert [info.name for info in reading.checkpoints(url)] == ["best.keras"]
    store.delete(key)
    assert commit.sweep(loaded(store), now_s=time.time() + 1e6) == [leftover]


@pytest.mark.parametrize("key", ["best.keras", "run/best.keras", "1700000000000-deadbeef", "x/y/z"])
def test_the_sweep_leaves_what_has_no_key_of_ours(key):
    store = ObjectStore(stores.new_url())
    store.put(f"checkpoints/{key}", b"not ours")
    assert commit.sweep(loaded(store), now_s=time.time() + 1e6) == []


def changed(**more):
    """Return a change of a record that keeps its seal whole."""

    def change(raw):
        data = {k: v for k, v in json.loads(raw).items() if k != "manifest_xxh3_128"} | more
        return seal(json.dumps(data, indent=1).encode())

    return change


def with_key(key):
    return changed(objects={"best.keras": {"key": key, "bytes": 4, "checksums": {}}})


HOSTILE_RECORDS = {
    "empty": (lambda raw: b"", "not a valid record"),
    "half": (lambda raw: raw[: len(raw) // 2], "not a valid record"),
    "a flipped bit": (lambda raw: raw.replace(b'"bytes": 4', b'"bytes": 5', 1), "damaged"),
    "no seal": (lambda raw: b'{"schema": 1, "name": "best.keras"}', "damaged"),
    "a list": (lambda raw: b"[]", "not a valid record"),
    "deep": (lambda raw: b"[" * 900_000, "not a valid record"),
    "a newer schema": (changed(schema=2), "schema 2"),
    "another name": (changed(name="other.keras"), "is not the record of"),
    "a name outside": (changed(name="../best.keras"), "points outside"),
    "a key outside": (with_key("../secret"), "points outside"),
    "an empty key": (with_key(""), "points outside"),
    "an absolute key": (with_key("/etc/passwd"), "points outside"),
    "other objects": (changed(objects={}), "not the files of its manifest"),
    "no manifest": (changed(manifest="{}"), "not a valid"),
}


@pytest.mark.parametrize(("change", "text"), HOSTILE_RECORDS.values(), ids=HOSTILE_RECORDS)
def test_a_hostile_record_is_listed_and_refused_on_use(change, text, tmp_path):
    url = stores.new_url()
    stores.put(url, tmp_path, "best.keras", b"data")
    store = ObjectStore(url)
    [key] = store.find(COMMITS)
    store.put(key, change(store.read(key)))
    catalog = loaded(store)
    [entry] = catalog.entries()
    with pytest.raises(LoadError, match=text):
        catalog.record(entry)
    assert reading.verify(f"{url}/best.keras").status == "corrupt"
    with pytest.raises(LoadError):
        reading.local_copy(f"{url}/best.keras")


def test_a_damaged_record_behind_a_cut_key_does_not_stop_the_listing(tmp_path, monkeypatch):
    url = stores.new_url()
    manifest = stores.manifest
    more = LONG["a reason"]
    monkeypatch.setattr(stores, "manifest", lambda **given: replace(manifest(**given), **more))
    stores.put(url, tmp_path, "best.keras", b"data")
    store = ObjectStore(url)
    [key] = store.find(COMMITS)
    store.put(key, b"[" * 900_000)
    [info] = reading.checkpoints(url)
    assert (info.name, info.reason) == ("best.keras", "")


def test_a_record_that_is_deleted_while_it_is_listed_is_left_out(tmp_path, monkeypatch):
    url = stores.new_url()
    stores.put(url, tmp_path, "best.keras", b"data")
    catalog = Catalog(ObjectStore(url))
    catalog.load()
    [entry] = catalog.entries()
    entries = {entry.id: entry}
    catalog._complete(entries, [entry])
    catalog.store.delete(entry.key)
    with pytest.raises(LoadError, match="it was deleted"):
        catalog.record(entry)
    catalog._complete(entries, [entry])
    assert entries == {}
