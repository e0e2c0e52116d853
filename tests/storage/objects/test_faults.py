"""A fault at every call to a store, in turn, of each kind: no checkpoint is lost, nothing is left.

support/stores.py tells the story and says what is checked when it has ended.
"""

import re

import pytest
from support import stores

from keras_ratchet._storage.objects import reading
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet.errors import CorruptError

PASSING = ("error before", "error after", "lasting error", "slow", "flip")  # it goes on to its end


@pytest.fixture
def length(monkeypatch):
    """The verbs of the story without a fault."""
    faults, story = stores.tell(monkeypatch)
    assert story.error is None
    return faults.verbs()


def calls_of(kind, verbs):
    return [n for n, verb in enumerate(verbs, 1) if verb in stores.KINDS[kind]]


@pytest.mark.parametrize("kind", stores.KINDS)
def test_a_fault_at_any_call_costs_no_checkpoint_and_leaves_nothing(kind, length, monkeypatch):
    numbers = calls_of(kind, length)
    assert numbers
    for at in numbers:
        faults, story = stores.tell(monkeypatch, kind, at, is_restarted=at % 2 == 0)
        assert len(faults.calls) >= at
        if kind in PASSING:
            assert story.error is None, (at, faults.calls[at - 1])
        if "crash" in kind:
            assert isinstance(story.error, stores.Crash)


@pytest.mark.parametrize("kind", ["error after", "crash before", "crash after", "cut"])
@pytest.mark.parametrize("store", ["file", "s3"])
def test_so_it_is_on_other_stores(store, kind, tmp_path, request, monkeypatch):
    root = f"file://{tmp_path}/share" if store == "file" else request.getfixturevalue("s3")
    faults, story = stores.tell(monkeypatch, url=stores.new_url(root))
    assert story.error is None
    numbers = calls_of(kind, faults.verbs())
    for at in numbers[:: len(numbers) // (20 if store == "file" else 4) + 1]:
        url = stores.new_url(root)
        stores.tell(monkeypatch, kind, at, url=url, is_restarted=at % 2 == 0)


def test_a_get_that_ends_early_is_found_by_the_digest(tmp_path, monkeypatch):
    url = stores.new_url()
    stores.put(url, tmp_path / "a", "best.keras", b"what was saved")
    faults = stores.Faults().install(monkeypatch)
    reading.local_copy(f"{url}/best.keras")
    monkeypatch.setenv("RATCHET_CACHE", str(tmp_path / "cold"))
    faults.kind, faults.at = "cut", len(faults.calls) + faults.verbs().index("get_file") + 1
    with pytest.raises(CorruptError, match="has 7 bytes where 14 were saved"):
        reading.local_copy(f"{url}/best.keras")
    assert faults.verbs()[-1] == "get_file"
    with open(reading.local_copy(f"{url}/best.keras"), "rb") as file:
        assert file.read() == b"what was saved"


@pytest.mark.parametrize("verb", ["read", "read_all"])
def test_a_record_that_is_read_in_part_is_refused(verb, tmp_path, monkeypatch):
    url = stores.new_url()
    more = {"reason": "because " * 400} if verb == "read_all" else {}
    monkeypatch.setattr(stores, "manifest", _with(stores.manifest, more))
    stores.put(url, tmp_path / "a", "best.keras", b"what was saved")
    faults = stores.Faults().install(monkeypatch)
    assert reading.verify(f"{url}/best.keras").status == "ok"
    at = faults.verbs().index(verb) + 1
    faults.kind, faults.at = "cut", len(faults.calls) + at
    outcome = reading.verify(f"{url}/best.keras")
    assert outcome.status == ("corrupt" if verb == "read" else "ok")  # a listing goes on without it


def _with(make, more):
    def manifest(**given):
        made = make(**given)
        return type(made)(**{name: getattr(made, name) for name in made.__slots__} | more)

    return manifest


def test_a_store_that_stays_away_gives_its_last_error_when_patience_has_ended(monkeypatch):
    monkeypatch.setattr("keras_ratchet._storage.objects.object_store.START_PATIENCE_S", 0.0)
    stores.Faults("error before", at=1).install(monkeypatch)
    with pytest.raises(OSError, match=re.escape("the network is gone")):
        ObjectStore(stores.new_url()).find()


def test_ctrl_c_during_a_call_is_not_waited_out(monkeypatch):
    faults = stores.Faults().install(monkeypatch)
    store = ObjectStore(stores.new_url())

    def interrupted(*args):
        faults.calls.append(("find", ""))
        raise KeyboardInterrupt

    monkeypatch.setattr(stores.FaultyCalls, "_call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.find()
    assert len(faults.calls) == 1
