"""Who writes to a store: one at a time, and who comes back from a long sleep finds out."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from support import stores

from keras_ratchet._storage.objects import lease
from keras_ratchet._storage.objects.lease import LEASES, Lease, _Chain
from keras_ratchet._storage.objects.object_store import ObjectStore
from keras_ratchet.errors import LockedError


@pytest.fixture(autouse=True)
def _nobody_is_gone(monkeypatch):
    monkeypatch.setattr(lease, "_gone", set())


@pytest.fixture
def store():
    return ObjectStore(stores.new_url())


@pytest.fixture
def faults(monkeypatch):
    """Waiting costs no time: the clock goes on by itself."""
    return stores.Faults().install(monkeypatch)


def lease_of(store, series="best.keras"):
    return Lease(store, series, repr(series))


def foreign(store, number=1, host="elsewhere", **more):
    """Write a lease of another machine's process by hand; return its key."""
    data = {"pid": 7, "host": host, "boot": "?", "command": "fit.py", "since": "noon"}
    data |= {"token": "theirs", "number": number, "renewed_at": time.time(), **more}
    key = f"{lease_of(store)._prefix}/{number:010d}.json"
    store.put(key, json.dumps(data).encode())
    return key


def objects(store):
    return [json.loads(store.read(key)) for key in sorted(store.find(LEASES))]


def here(**more):
    return {"host": lease.socket.gethostname(), "boot": lease._boot(), **more}


def test_it_is_re_entrant_in_a_process(store):
    with lease_of(store):
        [first] = objects(store)
        with lease_of(store):
            assert objects(store) == [first]
        assert objects(store) == [first]
        assert first["pid"] == os.getpid()
    [last] = objects(store)
    assert last["released"]


def test_leases_of_two_series_are_apart(store):
    with lease_of(store), lease_of(store, ""), lease_of(store, "ünï/{epoch}.keras"):
        assert len(objects(store)) == 3


def test_one_that_was_given_back_is_taken_without_waiting(store, faults, caplog):
    foreign(store, number=41, released=True)
    with lease_of(store):
        [own] = objects(store)
        assert own["number"] == 42
    assert (faults.late_s, caplog.records) == (0.0, [])


def test_one_that_is_not_renewed_is_taken_over_loudly(faults, caplog):
    store = ObjectStore(stores.new_url())
    foreign(store)
    with lease_of(store):
        [own] = objects(store)
        assert own["pid"] == os.getpid()
    assert lease.LEASE_S <= faults.late_s < lease.LEASE_S + 5
    waits, takes = (record.getMessage() for record in caplog.records)
    assert "is leased by process 7 on elsewhere (fit.py, since noon): waiting up to 60 s" in waits
    assert "which is gone: it is taken over" in takes


def test_one_that_is_renewed_is_held(faults, monkeypatch):
    store = ObjectStore(stores.new_url())
    foreign(store)

    def sleep(seconds):
        faults.late_s += seconds
        if faults.late_s > 19:
            foreign(store, number=2)

    monkeypatch.setattr(lease.time, "sleep", sleep)
    with pytest.raises(LockedError, match="being written by process 7 on elsewhere"):
        lease_of(store).acquire()
    assert faults.late_s < 30
    assert {data["token"] for data in objects(store)} == {"theirs"}


def test_one_that_is_given_back_meanwhile_is_taken_quietly(faults, monkeypatch, caplog):
    store = ObjectStore(stores.new_url())
    foreign(store)
    monkeypatch.setattr(lease.time, "sleep", lambda s: foreign(store, number=2, released=True))
    with lease_of(store):
        assert objects(store)[-1]["number"] == 3
    assert "taken over" not in caplog.text


def test_a_process_of_this_machine_that_has_ended_is_not_waited_for(faults, caplog):
    store = ObjectStore(stores.new_url())
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    foreign(store, pid=child.pid, **here())
    with lease_of(store):
        assert faults.late_s == 0.0
    assert "taken over" in caplog.text


def test_one_that_lives_here_is_waited_for(faults):
    store = ObjectStore(stores.new_url())
    foreign(store, pid=os.getppid(), **here())
    with lease_of(store):
        assert faults.late_s >= lease.LEASE_S


def test_one_of_this_process_that_could_not_be_given_back_is_not_waited_for(store, monkeypatch):
    faults = stores.Faults("lasting error").install(monkeypatch)
    faults.kind = None
    store = ObjectStore(store.url)
    held = lease_of(store)
    held.acquire()
    faults.kind, faults.at = "lasting error", len(faults.calls) + 1
    held.release()
    assert "released" not in objects(store)[-1]
    with lease_of(store):
        assert faults.late_s == 0.0


def test_another_name_of_the_same_store_does_not_take_what_this_process_holds(store, faults):
    """As `gs://` and `gcs://`."""
    with lease_of(store):
        other = ObjectStore(store.url.replace("memory://", "memory:///"))
        chain = _Chain(other, lease_of(other)._prefix, "it")
        assert chain._newest().data["pid"] == os.getpid()
        assert not chain._newest().is_dead


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"7", b'{"pid": "x", "renewed_at": "y"}'])
def test_a_damaged_one_is_waited_for_like_any_other(text, faults):
    store = ObjectStore(stores.new_url())
    store.put(foreign(store), text)
    with lease_of(store):
        assert faults.late_s >= lease.LEASE_S
    assert objects(store)[-1]["number"] == 3


def test_clocks_are_not_compared(faults):
    store = ObjectStore(stores.new_url())
    foreign(store, renewed_at=time.time() - 3600)
    with lease_of(store):
        assert faults.late_s >= lease.LEASE_S


def test_a_renewal_whose_answer_was_lost_is_found(faults):
    store = ObjectStore(stores.new_url())
    with lease_of(store) as held:
        chain = held._chain
        before = chain._number
        chain._put(before + 1)
        chain._number = before
        chain._renew()
        held.check()
        assert [one["number"] for one in objects(store)] == [before + 1]


def test_a_holder_that_slept_keeps_what_nobody_took(faults):
    store = ObjectStore(stores.new_url())
    with lease_of(store) as held:
        faults.late_s += 3600
        held.check()
        [own] = objects(store)
        assert own["number"] == 2


def test_a_holder_that_slept_finds_that_it_lost_it(faults):
    store = ObjectStore(stores.new_url())
    held = lease_of(store)
    held.acquire()
    faults.late_s += 3600
    foreign(store, number=2)
    with pytest.raises(LockedError, match=r"lost while this process was away.*process 7"):
        held.check()
    with pytest.raises(LockedError):
        held.check()
    held.release()
    assert objects(store)[-1]["token"] == "theirs"
    assert "released" not in objects(store)[-1]


def test_a_holder_whose_next_number_is_taken_finds_that_it_lost_it(store):
    held = lease_of(store)
    held.acquire()
    foreign(store, number=2)
    held._chain._renew()
    with pytest.raises(LockedError, match="process 7"):
        held.check()
    held.release()


def test_a_held_lease_is_renewed_by_itself(store, monkeypatch):
    renewed = threading.Event()
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    renew = _Chain._renew

    def observed(chain):
        renew(chain)
        if chain._number > 3:
            renewed.set()

    monkeypatch.setattr(_Chain, "_renew", observed)
    with lease_of(store):
        assert renewed.wait(20)
    assert len(objects(store)) == 1


def test_a_renewal_that_fails_is_tried_again(store, monkeypatch):
    renewed = threading.Event()
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    tries = []

    def renew(chain):
        tries.append(chain)
        if len(tries) < 3:
            raise OSError("the network is gone")
        renewed.set()

    monkeypatch.setattr(_Chain, "_renew", renew)
    with lease_of(store) as held:
        assert renewed.wait(20)
        held.check()


@pytest.mark.parametrize("turn", range(2))
@pytest.mark.parametrize("before", ["nothing", "given back", "gone"])
def test_of_several_that_take_it_at_once_one_wins(before, turn, tmp_path, monkeypatch):
    store = ObjectStore(f"file://{tmp_path}/share")  # memory:// has no atomic put for threads
    monkeypatch.setattr(lease, "LEASE_S", 5.0)
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    monkeypatch.setattr(lease, "_POLL_S", 0.02)
    if before != "nothing":
        foreign(store, released=before == "given back", renewed_at=0.0)
    barrier = threading.Barrier(4)
    chains = [_Chain(ObjectStore(store.url), lease_of(store)._prefix, "it") for _ in range(4)]
    for number, chain in enumerate(chains):
        chain._identity["host"] = f"machine {number}"
    outcomes = []

    def take(chain):
        barrier.wait()
        try:
            chain.take()
            outcomes.append("won")
        except LockedError:
            outcomes.append("refused")

    threads = [threading.Thread(target=take, args=[chain]) for chain in chains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for chain in chains:
        chain._ended.set()
    assert sorted(outcomes) == ["refused"] * 3 + ["won"]


def test_a_child_made_by_fork_does_not_give_back_what_its_parent_holds(store, monkeypatch):
    held = lease_of(store)
    held.acquire()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        held.release()
    [own] = objects(store)
    assert "released" not in own


def test_who_is_gone_is_waited_for_once(faults):
    store, other = ObjectStore(stores.new_url()), ObjectStore(stores.new_url())
    foreign(store, boot="b")
    foreign(other, boot="b")
    with lease_of(store):
        waited_s = faults.late_s
        with lease_of(other):
            assert waited_s >= lease.LEASE_S
            assert faults.late_s == waited_s
