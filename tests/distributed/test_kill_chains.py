"""One training in two processes: kill one or both anywhere, run it again, get the same bits.

A chain is a training that is cut in each of its runs but the last. On each rank it ends with the
weights, the optimizer, the History, the decisions, the best file and the random streams of the
training that nobody cut. After each cut no file is torn, and the other rank ended by itself.
`make test-ranks LONG=1` adds kills from outside at random instants.
"""

import functools
import os
import random

import pytest
from support import processes, rank_chains
from support.rank_chains import Chain

LONG = bool(os.environ.get("RATCHET_LONG"))
LIMIT_S = 1500

STRAIGHT = Chain("straight")
IN_THE_HOOK = Chain(
    "in the hook",
    kills=(
        (0, "best", 0),
        (1, "save", 0),
        (0, "save", 1),
        ("all", "batch 2", 2),
        (1, "validation", 3),
    ),
)
IN_THE_BACKGROUND = Chain(
    "in the background",
    "epoch",
    background=True,
    kills=(
        (1, "start", -1),
        (0, "train begin", -1),
        (0, "save", 1),
        (1, "epoch end", 2),
        (0, "train end", -1),
    ),
)
SHORT = Chain(  # on jax, where a run takes ten seconds
    "short",
    background=True,
    kills=((0, "save", 0), (1, "batch 2", 1), ("all", "validation", 2)),
)
NO_STATES = Chain("no states", kills=((1, "batch 2", 2),), without="ranks' states")
EVERYWHERE = (IN_THE_HOOK, IN_THE_BACKGROUND)
CHAINS = {"torch": EVERYWHERE, "torch-fit": EVERYWHERE, "jax": EVERYWHERE if LONG else (SHORT,)}

pytestmark = [pytest.mark.slow]
engines = pytest.mark.parametrize("engine", processes.ENGINES)


@functools.cache
def chains_of(engine, place):
    controls = [NO_STATES] if engine == "torch" else []
    return rank_chains.run(engine, [STRAIGHT, *CHAINS[engine], *controls], place, LIMIT_S)


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Return a function that returns what the chains of an engine ended with, by name."""
    places = {engine: tmp_path_factory.mktemp(engine) for engine in processes.ENGINES}
    return lambda engine: chains_of(engine, places[engine])


def differences(record, straight):
    """Return what differs, by rank."""
    assert record["codes"] == [0, 0], record["output"]
    pairs = zip(record["ends"], straight["ends"], strict=True)
    return [[name for name in one if one[name] != other[name]] for one, other in pairs]


def check_cuts(record):
    for cut in record["cuts"]:
        assert cut["torn"] == [], cut
        assert cut["survivor_s"] < rank_chains.SURVIVOR_LIMIT_S, cut
        assert all(code != 0 for code in cut["codes"]) or cut["place"] == "random", cut
    assert record["torn"] == []


@engines
def test_the_uninterrupted_training_decides_something(ends, engine):
    straight = ends(engine)["straight"]
    assert straight["codes"] == [0, 0], straight["output"]
    first, second = straight["ends"]
    assert first["history"] == second["history"]
    assert first["early stopping"] == second["early stopping"]
    assert first["streams"] != second["streams"]
    if engine != "torch":
        rates = first["history"]["learning_rate"]
        assert rates[-1] < rates[0], "ReduceLROnPlateau never acted"


@pytest.mark.parametrize(
    ("engine", "chain"),
    [(engine, chain) for engine in CHAINS for chain in CHAINS[engine]],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_chain_of_kills_ends_on_each_rank_as_the_training_that_nobody_killed(ends, engine, chain):
    record = ends(engine)[chain.name]
    check_cuts(record)
    for cut, (victim, *_) in zip(record["cuts"], chain.kills, strict=True):
        assert cut["killed"] == ([0, 1] if victim == "all" else [victim]), cut
    assert differences(record, ends(engine)["straight"]) == [[], []]


def test_without_the_states_of_the_other_ranks_these_tests_would_fail(ends):
    [first, second] = differences(ends("torch")[NO_STATES.name], ends("torch")["straight"])
    assert {"weights", "streams"} <= set(second), second
    assert "weights" in first, first  # its gradients are means over both ranks


def random_chains(count):
    """Return chains with kills at random instants, from fixed seeds."""
    rng = random.Random(2)
    return [
        Chain(
            f"random {number}",
            rng.choice(["epoch", 2, 4]),
            background=rng.random() < 0.5,
            random_kills=3 + number % 4,
            seed=number,
            slow_disk=number % 2 == 1,
        )
        for number in range(count)
    ]


@pytest.mark.skipif(not LONG, reason="RATCHET_LONG=1: kills at random instants")
@engines
def test_kills_from_outside_at_random_instants_change_nothing(ends, engine, tmp_path):
    planned = random_chains(8)
    found = rank_chains.run(engine, planned, tmp_path, 400 * len(planned))
    cuts = [cut for record in found.values() for cut in record["cuts"]]
    kills = sum(len(cut["killed"]) for cut in cuts)
    inside = sum(bool(cut["drafts"]) for cut in cuts)
    longest = max(cut["survivor_s"] for cut in cuts)
    print(
        f"{engine}: {len(planned)} chains, {len(cuts)} cuts, {kills} processes killed, {inside} "
        f"inside a save, {sum(len(cut['torn']) for cut in cuts)} torn; a survivor ended after "
        f"{longest:.1f} s at most"
    )
    for record in found.values():
        check_cuts(record)
        assert differences(record, ends(engine)["straight"]) == [[], []], record
    assert kills >= 16
