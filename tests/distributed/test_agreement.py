"""How ranks agree, without models: each rank is a thread; a process where it has to be killed."""

import copy
import logging
import multiprocessing
import os
import pickle
import queue
import random
import signal
import socket
import threading
import time

import pytest

from keras_ratchet._distributed import channel, sockets, step, watchdog
from keras_ratchet._distributed.argument import CoordinatorArgument, common
from keras_ratchet._distributed.given import Given
from keras_ratchet._distributed.one import One
from keras_ratchet._distributed.ranks import Ranks
from keras_ratchet._warn import speech
from keras_ratchet.errors import ConfigError, RankError

LIMIT_S = 60.0


class Owner:
    """Stands for a callback list."""


@pytest.fixture(autouse=True)
def _speaks_again():
    yield
    speech.end()


def share_of(size):
    """Return a function that returns rank 0's bytes on all ranks, as an engine's broadcast."""
    boxes = queue.Queue()

    def share(own):
        if own is not None:
            for _ in range(size):
                boxes.put(own)
        return boxes.get(timeout=LIMIT_S)

    return share


def on_ranks(size, work, make=Ranks):
    """Call `work(ranks)` on a thread for each rank; return what each returned or raised."""
    share, outcomes, made = share_of(size), [None] * size, [None] * size

    def run(rank):
        try:
            made[rank] = make(rank, size, share)
            outcomes[rank] = work(made[rank])
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive(), "a rank hangs"
    for ranks in made[::-1]:
        if isinstance(ranks, Ranks):
            ranks.close()
    return outcomes


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_exchange_values_and_errors(size):
    def work(ranks):
        owner = Owner()
        assert ranks.start_run(owner)
        assert not ranks.start_run(owner)
        assert ranks.gather(ranks.rank) == list(range(size))
        assert ranks.broadcast(ranks.rank + 7) == 7
        assert ranks.any(ranks.rank == size - 1)
        assert not ranks.any(False)
        assert ranks.first(lambda: ranks.rank, "act") == 0
        with pytest.raises(KeyError) as caught:
            ranks.together(lambda: {}["x"] if ranks.rank == 1 else 0, "fail")
        assert caught.value.__notes__ == ["raised on rank 1"]
        ranks.barrier()
        ranks.end_run(owner)
        return "done"

    assert on_ranks(size, work) == ["done"] * size


def test_ranks_at_different_places_are_told_so():
    def work(ranks):
        ranks.start_run(owners[ranks.rank])
        ranks.gather(0, "here" if ranks.rank else "there")

    owners = [Owner(), Owner()]
    for outcome in on_ranks(2, work):
        assert isinstance(outcome, RankError)
        assert "rank 0: there; rank 1: here" in str(outcome)


@pytest.mark.parametrize("seed", range(12))
def test_whoever_leaves_at_whatever_moment_nobody_hangs(seed):
    """Random exchanges; at a random one a rank leaves: all others get an error that names it."""
    dice = random.Random(seed)
    size, leaver, at = dice.choice([2, 3, 5]), None, dice.randrange(1, 20)
    leaver = dice.randrange(size)
    kinds = [dice.choice(["gather", "first", "together", "any"]) for _ in range(20)]

    def work(ranks):
        owner = Owner()
        ranks.start_run(owner)
        for number, kind in enumerate(kinds):
            if (ranks.rank, number) == (leaver, at):
                ranks.leave("it had enough", owner)
                return "left", ranks.first(lambda: "alone", "clean up")
            call(ranks, kind)
        return "never reached"

    def call(ranks, kind):
        if kind in ("first", "together"):
            getattr(ranks, kind)(lambda: 1, kind)
        else:
            getattr(ranks, kind)(True, kind)

    outcomes = on_ranks(size, work)
    assert outcomes[leaver] == ("left", None if leaver else "alone")
    for rank, outcome in enumerate(outcomes):
        if rank != leaver:
            assert isinstance(outcome, RankError)
            assert f"rank {leaver} has left the run (it had enough)" in str(outcome)


def test_clean_up_after_another_has_left_waits_for_nobody():
    def work(ranks):
        owner = Owner()
        ranks.start_run(owner)
        if ranks.rank == 2:
            return ranks.leave("gone", owner)
        with pytest.raises(RankError):
            ranks.barrier("x")
        with pytest.raises(RankError, match="out of the run"):
            ranks.barrier("y")
        return ranks.first(lambda: "alone", "clean up")

    assert on_ranks(3, work) == ["alone", None, None]


def test_a_run_inside_a_run_and_one_after_a_failed_one_stay_in_step():
    def work(ranks):
        outer, inner, later = Owner(), Owner(), Owner()
        ranks.start_run(outer)
        ranks.start_run(inner)
        ranks.barrier("inner")
        ranks.end_run(inner)
        ranks.barrier("outer")
        ranks.leave("failed", outer)
        ranks.start_run(later)
        return ranks.gather(ranks.rank, "later")

    assert on_ranks(3, work) == [[0, 1, 2]] * 3


def test_a_run_whose_list_is_gone_is_left():
    def work(ranks):
        owner, kept = Owner(), Owner()
        ranks.start_run(owner if ranks.rank else kept)
        del owner
        if ranks.rank:
            time.sleep(2.0)
            return "left"
        ranks.barrier("waiting")

    error, left = on_ranks(2, work)
    assert left == "left"
    assert "rank 1 has left the run (its loop was left" in str(error)


def test_long_messages_in_all_directions_do_not_block():
    def work(ranks):
        block = bytes([ranks.rank]) * 20_000_000
        return [each == bytes([rank]) * 20_000_000 for rank, each in enumerate(ranks.gather(block))]

    assert on_ranks(3, work) == [[True] * 3] * 3


def test_what_is_collected_travels_to_rank_0_alone():
    def work(ranks):
        bring, received = ranks._bring, []
        ranks._bring = lambda *given: received.extend(bring(*given)) or received
        found = ranks.collect((ranks.rank, bytes(3_000_000)), "parts")
        return [rank for rank, _ in found or ()], sum(map(len, received)), ranks.gather(ranks.rank)

    first, *others = on_ranks(3, work)
    assert first[0] == [0, 1, 2] and first[1] > 9_000_000
    assert all(other[:2] == ([], 0) for other in others)
    assert all(outcome[2] == [0, 1, 2] for outcome in (first, *others))


def test_who_does_not_come_is_named_after_the_timeout():
    def work(ranks):
        ranks.barrier("both")
        ranks.timeout_s = 0.5
        if ranks.rank == 0:
            ranks.barrier("alone")
        done.wait(5)

    done = threading.Event()
    error = on_ranks(2, work)[0]
    assert str(error).startswith("Not all ranks have come to 'alone' within 0.5 s")
    assert "rank 1 (last at: both)" in str(error)


def test_a_batch_that_never_ends_is_waited_for_in_vain_and_a_slow_one_is_not(monkeypatch, caplog):
    def work(ranks):
        owner = Owner()
        ranks.start_run(owner)
        for batch in range(3):
            ranks.step.begin(f"batch {batch + 1}")
            ranks.step.end()
        if ranks.rank == 0:  # one that is slow: it comes, before the other has waited long
            ranks.step.begin("batch 4")
            time.sleep(2)
            ranks.step.end()
            ranks.barrier("end of epoch 1")
            ranks.step.begin("batch 5")
            done.wait(LIMIT_S)
            return None
        time.sleep(1.5)
        ranks.barrier("end of epoch 1")
        try:
            ranks.barrier("end of epoch 2")
        finally:
            done.set()

    monkeypatch.setattr(step, "PATIENCE_S", 1.0)
    monkeypatch.setattr(step, "_TIMES_LONGEST", 2)
    monkeypatch.setattr(channel, "NOTICE_S", 0.3)
    done = threading.Event()
    error = on_ranks(2, work)[1]
    assert isinstance(error, RankError)
    assert "rank 1 waits in vain at 'end of epoch 2' for rank 0 (in batch 5" in str(error)
    assert "give each the same number" in str(error)
    said = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("rank 1 waits at 'end of epoch 2'") for text in said)


def test_a_stranger_who_says_nothing_or_nonsense_disturbs_nobody(monkeypatch):
    monkeypatch.setattr(sockets, "HANDSHAKE_S", 3.0)
    ends = []

    def work(ranks):
        if ranks.rank == 0:
            address = next(a for a in ranks._server.addresses if a[0] == "127.0.0.1")
            ends.extend(socket.create_connection(address) for _ in range(10))
            ends[0].sendall(pickle.dumps(0))
            ends[1].close()
            with pytest.raises(ConnectionError, match="digest"):
                sockets.connect([address], b"a wrong key", within_s=0.0)
        ranks.barrier()
        return "done"

    assert on_ranks(2, work) == ["done", "done"]
    for end in ends:
        end.close()


def test_nothing_is_unpickled_before_the_key_is_shown():
    """A pickle in place of the answer to the challenge is not loaded."""
    listener = sockets.listen(True, 1)
    caught = []

    def serve():
        try:
            sockets.authenticated(listener.accept()[0], b"key", is_server=True)
        except Exception as error:
            caught.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with socket.create_connection(listener.getsockname()) as end:
        bomb = pickle.dumps(_Bomb())
        end.sendall(len(bomb).to_bytes(2, "big") + bomb)
        thread.join(LIMIT_S)
    assert caught and not _Bomb.went_off
    pickle.loads(bomb)
    assert _Bomb.went_off
    listener.close()


class _Bomb:
    went_off = False

    def __reduce__(self):
        return _go_off, ()


def _go_off():
    _Bomb.went_off = True


def test_rank_0_that_cannot_be_reached_is_said_clearly(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"127.0.0.1 port {port}: .*refused"):
        sockets.connect([("127.0.0.1", port), ("no.such.host.invalid", 1)], b"key", within_s=0.0)


def _process(rank, box, order, results, everyone):
    size = 3

    def share(own):
        if own is not None:
            for _ in range(size):
                box.put(own)
        return box.get(timeout=LIMIT_S)

    ranks = Ranks(rank, size, share)
    owner = Owner()
    ranks.start_run(owner)
    ranks.barrier("all here")
    everyone.wait(LIMIT_S)  # rank 0 has sent the others its answer
    if order[rank] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if order[rank] == "exit":
        raise SystemExit(0)
    if order[rank] == "native":
        watchdog.GRACE_S = 1.0
        results.put((rank, "waits"))
        time.sleep(LIMIT_S)
    try:
        ranks.barrier("again")
    except RankError as error:
        results.put((rank, str(error)))


@pytest.mark.parametrize("end", ["kill", "exit"])
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_ends_in_whatever_way_is_named_and_a_native_wait_has_an_end(end, who):
    spawn = multiprocessing.get_context("spawn")
    box, results, everyone = spawn.Queue(), spawn.Queue(), spawn.Barrier(3)
    order = {who: end, 1 - who: "goes on", 2: "native"}
    processes = [
        spawn.Process(target=_process, args=(rank, box, order, results, everyone))
        for rank in range(3)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(results.get(timeout=LIMIT_S) for _ in range(2))
        for process in processes:
            process.join(LIMIT_S)
        assert f"rank {who} has left the run (its process has ended)" in found[1 - who]
        assert processes[2].exitcode == watchdog.EXIT_CODE
        assert processes[1 - who].exitcode == 0
    finally:
        for process in processes:
            process.kill()


def test_a_child_made_by_fork_is_no_rank():
    def work(ranks):
        ranks.barrier("before")
        if ranks.rank == 1:
            child = os.fork()
            if not child:
                try:
                    ranks.leave("I am a child")
                    ranks.barrier("child")
                except RankError as error:
                    os._exit(7 if "fork" in str(error) else 1)
                os._exit(2)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            ranks.barrier("after")
            return status
        ranks.barrier("after")

    assert on_ranks(2, work) == [None, 7]


class Threads:
    """A coordinator of a user's, for threads of one process."""

    def __init__(self, rank, world_size, meeting, values):
        self.rank, self.world_size = rank, world_size
        self._meeting, self._values = meeting, values

    def gather(self, value):
        self._values[self.rank] = value
        self._meeting.wait(LIMIT_S)
        found = list(self._values)
        self._meeting.wait(LIMIT_S)
        return found

    def broadcast(self, value):
        return self.gather(value)[0]

    def any(self, flag):
        return any(self.gather(flag))

    def barrier(self):
        self.gather(None)


def with_given(size, work):
    meeting, values = threading.Barrier(size), [None] * size
    return on_ranks(
        size, work, lambda rank, size, share: Given(Threads(rank, size, meeting, values))
    )


def test_a_users_coordinator_does_the_same_and_finds_ranks_at_different_places():
    def work(ranks):
        owner = Owner()
        ranks.start_run(owner)
        assert ranks.first(lambda: ranks.rank, "act") == 0
        assert ranks.gather(ranks.rank) == [0, 1, 2]
        ranks.gather(0, f"place {min(ranks.rank, 1)}")

    for outcome in with_given(3, work):
        assert "rank 0: place 0; rank 1: place 1" in str(outcome)


def test_the_argument_is_checked_shared_by_copies_and_agreed_in_a_list():
    mine = Threads(0, 2, None, [None, None])
    argument = CoordinatorArgument(mine)
    assert copy.deepcopy(argument) is argument
    assert isinstance(argument.find("torch"), Given)
    assert argument.find("torch") is CoordinatorArgument(mine).find("torch")
    assert isinstance(CoordinatorArgument(Threads(0, 1, None, [])).find("torch"), One)
    assert common([CoordinatorArgument(None), argument]) is argument
    with pytest.raises(ConfigError, match="different coordinators"):
        common([argument, CoordinatorArgument(Threads(0, 2, None, []))])
    for wrong in (object(), 3, Threads, Threads(2, 2, None, []), Threads("0", 2, None, [])):
        with pytest.raises(ConfigError, match="coordinator"):
            CoordinatorArgument(wrong)


def test_a_coordinator_that_cannot_be_pickled_is_missed_and_not_replaced_silently():
    copied = pickle.loads(pickle.dumps(CoordinatorArgument(Threads(0, 2, threading.Lock(), []))))
    with pytest.raises(ConfigError, match="was pickled"):
        copied.find("torch")
    kept = pickle.loads(pickle.dumps(CoordinatorArgument(Threads(0, 2, None, []))))
    assert kept.given.world_size == 2


def test_rank_0_says_what_it_has_not_said_itself_and_names_who_has(caplog):
    from keras_ratchet._warn import warn

    log = logging.getLogger("keras_ratchet")
    speech.start(1)
    log.warning("the same")
    warn("only here")
    assert not caplog.records
    unsaid = speech.unsaid()
    speech.end()
    speech.start(0)
    log.warning("the same")
    with pytest.warns(UserWarning, match="rank 1: only here"):
        speech.relay([[], unsaid])
    assert [record.getMessage() for record in caplog.records] == ["the same"]
