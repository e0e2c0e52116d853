"""What arrived is compared with what was sent, by what the store says or by reading it again."""

import hashlib

import pytest
from support import stores

from keras_ratchet._storage.objects import calls
from keras_ratchet._storage.objects.checksums import differs
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet._storage.objects.record import DATA
from keras_ratchet._storage.objects.store_calls import PART_BYTES, Stat

DATA_BYTES = b"what was sent"
MD5 = hashlib.md5(DATA_BYTES).hexdigest()
SHA256 = hashlib.sha256(DATA_BYTES).hexdigest()
OTHER = "0" * 32
BIG_BYTES = 2 * PART_BYTES + (8 << 20) + 1


@pytest.fixture
def path(tmp_path):
    (tmp_path / "sent").write_bytes(DATA_BYTES)
    return str(tmp_path / "sent")


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A file that S3 takes in three parts."""
    path = tmp_path_factory.mktemp("big") / "big.keras"
    block = hashlib.sha256(b"seed").digest() * (1 << 15)
    path.write_bytes((block * (BIG_BYTES // len(block) + 1))[:BIG_BYTES])
    return str(path)


class Reads:
    """The store's bytes, and how often they were read."""

    def __init__(self, data=DATA_BYTES):
        self.data, self.count = data, 0

    def __call__(self):
        self.count += 1
        return iter([self.data[:5], self.data[5:]])


# What a store says; whether it is read again although it has what was sent.
SAID = {
    "an etag that is the MD5": ({"etag": MD5}, 0),
    "an MD5": ({"md5": MD5}, 0),
    "a SHA-256": ({"sha256": SHA256}, 0),
    "an etag of one part": ({"etag": f"{hashlib.md5(bytes.fromhex(MD5)).hexdigest()}-1"}, 0),
    "an etag of Azure": ({"etag": "0x8DC0FFEE"}, 0),
    "an etag of Azure and an MD5": ({"etag": "0x8DC0FFEE", "md5": MD5}, 0),
    "an etag of other parts": ({"etag": f"{OTHER}-7"}, 0),
    "another kind": ({"crc32c": "AAAAAA=="}, 0),
    "nothing": ({}, 1),
    "an etag that looks like an MD5": ({"etag": OTHER}, 1),
    "an etag of one part that is not": ({"etag": f"{OTHER}-1"}, 1),
}


@pytest.mark.parametrize(("said", "count"), SAID.values(), ids=SAID)
def test_what_was_sent_is_found_to_be_there(said, count, path):
    reads = Reads()
    assert differs(path, Stat(len(DATA_BYTES), None, said), reads) == ""
    assert reads.count == count


WRONG = [{}, {"etag": OTHER}, {"md5": OTHER}, {"sha256": "0" * 64}, {"etag": "0x8", "md5": OTHER}]


@pytest.mark.parametrize("said", WRONG, ids=str)
def test_other_bytes_are_found(said, path):
    reads = Reads(DATA_BYTES.upper())
    problem = differs(path, Stat(len(DATA_BYTES), None, said), reads)
    assert problem == "its bytes are not those that were sent"
    assert reads.count == 1


@pytest.mark.parametrize("said", [*WRONG, {"md5": MD5}], ids=str)
def test_another_length_is_found_before_anything_is_read(said, path):
    reads = Reads()
    assert "it has 5 bytes where 13 were sent" in differs(path, Stat(5, None, said), reads)
    assert reads.count == 0


def test_an_empty_file_may_be_sent(tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    said = {"etag": hashlib.md5(b"").hexdigest()}
    assert differs(str(path), Stat(0, None, said), Reads(b"")) == ""
    assert differs(str(path), Stat(0, None, {}), Reads(b"")) == ""


def no_reads():
    raise AssertionError("it was read again")


def test_the_etag_of_an_upload_in_parts_is_the_one_that_s3_makes(big, s3):
    url = stores.new_url(s3)
    store = calls.connect(url, {})
    store.put_file(big, "big.keras")
    stat = store.stat("big.keras")
    assert stat.checksums["etag"].endswith("-3")
    assert differs(big, stat, no_reads) == ""
    with stores.altered(big, lambda data: data[:-1] + bytes([data[-1] ^ 1])) as other:
        problem = differs(other, stat, lambda: store.chunks("big.keras"))
    assert problem == "its bytes are not those that were sent"


def test_an_upload_in_parts_is_not_read_again(big, s3, monkeypatch):
    faults = stores.Faults().install(monkeypatch)
    store = ObjectStore(stores.new_url(s3))
    store.put_file(big, f"{DATA}/big.keras")
    assert faults.verbs() == ["put_file", "stat"]


@pytest.mark.parametrize("size", [1, PART_BYTES])
def test_the_etag_of_a_small_upload_is_the_one_that_s3_makes(size, s3, tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"x" * size)
    store = calls.connect(stores.new_url(s3), {})
    store.put_file(str(path), "small")
    assert differs(str(path), store.stat("small"), no_reads) == ""


@pytest.mark.parametrize("store", ["memory", "file", "s3"])
def test_what_arrived_with_another_byte_is_put_again(store, path, tmp_path, request, monkeypatch):
    root = {"memory": "memory://tests", "file": f"file://{tmp_path}/share"}.get(store)
    faults = stores.Faults("flip", at=1).install(monkeypatch)
    found = ObjectStore(stores.new_url(root or request.getfixturevalue("s3")))
    found.put_file(path, "sent")
    assert found.read("sent") == DATA_BYTES
    assert faults.verbs().count("put_file") == 2


def test_what_never_arrives_whole_is_an_error(path, monkeypatch):
    monkeypatch.setattr("keras_ratchet._storage.objects.object_store.START_PATIENCE_S", 0.0)
    stores.Faults("flip", at=1).install(monkeypatch)
    store = ObjectStore(stores.new_url())
    with pytest.raises(OSError, match="did not arrive as it was sent: its bytes"):
        store.put_file(path, "sent")
