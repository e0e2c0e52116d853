"""Kill it anywhere, run the script again, get the same bits: chains of SIGKILLs in real processes.

A chain is one training script that is killed in each of its runs but the last. What it ends with
is compared with a run that nobody killed and that had no BackupAndRestore at all: weights,
optimizer, History, CSV log, what EarlyStopping and ReduceLROnPlateau decided, a user's callback,
the best file, and a second training in the same script. Two more chains get real SIGTERMs, with
time to save and without. `make test-resume LONG=1` adds
24 chains with one to seven kills from outside at random instants.
"""

import os
import random

import keras
import pytest
from support import chains
from support.chains import EXIT_CODE, PER_EPOCH, Chain

LONG = bool(os.environ.get("RATCHET_LONG"))
EVERYWHERE = (
    ("save", 1),
    ("validation 1", 2),
    (f"batch {PER_EPOCH - 3}", 3),
    ("epoch end", 4),
    ("train end", -1),
)
LIMIT_S = 1200

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL"),
]

CONTROLS = [
    Chain("arrays"),
    Chain("py_dataset", "py_dataset"),
    Chain("frozen", "frozen"),
    Chain("repeat", save_freq=3),
]
CHAINS = [
    Chain("each epoch", "arrays", "epoch", kills=EVERYWHERE),
    Chain("every 3 batches", "py_dataset", 3, kills=EVERYWHERE),
    Chain("frozen base", "frozen", 3, kills=EVERYWHERE),
    *(
        Chain(f"one kill, {place}", data, freq, kills=((place, epoch),))
        for (place, epoch), data, freq in zip(
            EVERYWHERE,
            ("arrays", "py_dataset", "arrays", "py_dataset", "arrays"),
            (3, "epoch", 3, "epoch", 3),
            strict=True,
        )
    ),
]
IN_TIME = Chain(
    "sigterm", "py_dataset", "epoch", sigterms=((f"batch {PER_EPOCH - 4}", 2), ("validation 1", 4))
)
NO_TIME = Chain("too slow", "arrays", "epoch", sigterms=((f"batch {PER_EPOCH - 4}", 2),), slow=True)
KERAS = Chain("keras", "arrays", "epoch", "keras", kills=EVERYWHERE[2:4])


def random_chains():
    """Return chains with kills at random instants, from fixed seeds."""
    rng = random.Random(1)
    return [
        Chain(
            f"random {i}",
            rng.choice(["arrays", "py_dataset", "frozen"]),
            rng.choice(["epoch", 2, 5]),
            random_kills=1 + i % 7,
            seed=i,
        )
        for i in range(24)
    ]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Return what each chain ended with, by name."""
    return chains.run(
        [*CONTROLS, *CHAINS, IN_TIME, NO_TIME, KERAS], tmp_path_factory.mktemp("chains"), LIMIT_S
    )


def differences(one, other):
    how = ("killed", "preempted")
    return [name for name in one if name not in how and one[name] != other[name]]


def test_the_uninterrupted_run_decides_something(ends):
    for name in ("arrays", "py_dataset"):
        end = ends[name]
        rates = end["history"]["learning_rate"]
        assert rates[-1] < rates[0], "ReduceLROnPlateau never acted"
        assert end["early stopping"][2] < len(rates) - 1, "the last epoch was the best"
        assert end["warnings"] == []


def test_a_repeat_with_a_backup_and_without_a_kill_is_equal_bit_for_bit(ends):
    assert differences(ends["repeat"], ends["arrays"]) == []


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.name)
def test_a_chain_of_kills_ends_as_the_run_that_nobody_killed(ends, chain):
    end = ends[chain.name]
    assert [place for place, _ in end["killed"]] == [place for place, _ in chain.kills]
    if chain.kills[0][0] == "save":
        assert end["killed"][0] == ["save", 1], "the first kill fell inside a save"
    assert differences(end, ends[chain.data]) == []


def test_a_run_that_got_sigterm_saves_at_the_batch_and_the_rerun_is_exact(ends):
    """Twice in a row: in mid-epoch and, one run later, in a validation."""
    end = ends[IN_TIME.name]
    in_epoch, in_validation = end["preempted"]
    assert in_epoch["code"] == in_validation["code"] == EXIT_CODE
    assert in_epoch["reason"].startswith("SIGTERM: saved with")
    assert f"epoch-00002-batch-{PER_EPOCH - 3:07d}" in in_epoch["snapshots"]
    assert f"epoch-00004-batch-{PER_EPOCH:07d}" in in_validation["snapshots"]
    assert differences(end, ends[IN_TIME.data]) == []


def test_a_save_that_does_not_fit_into_the_grace_period_leaves_the_older_one(ends):
    end = ends[NO_TIME.name]
    [cut] = end["preempted"]
    assert cut["code"] == EXIT_CODE
    assert "so the last save stands" in cut["reason"]
    snapshots = [name for name in cut["snapshots"] if name.startswith("epoch")]
    assert snapshots == ["epoch-00001-batch-0000000", "epoch-00002-batch-0000000"]
    assert differences(end, ends[NO_TIME.data]) == []


@pytest.mark.skipif(keras.__version__ != "3.15.1", reason="Keras may be cured")
def test_kerass_own_class_ends_with_other_weights(ends):
    found = differences(ends["keras"], ends["arrays"])
    assert "weights" in found and "history" in found, found


@pytest.mark.skipif(not LONG, reason="RATCHET_LONG=1: 24 chains at random instants")
def test_kills_from_outside_at_random_instants_change_nothing(ends, tmp_path):
    planned = random_chains()
    found = chains.run(planned, tmp_path, 120 * len(planned))
    for chain in planned:
        end = found[chain.name]
        assert differences(end, ends[chain.data]) == [], chain
    fell = sum(alive for end in found.values() for alive, _ in end["killed"])
    inside = sum(drafts for end in found.values() for _, drafts in end["killed"])
    print(f"{keras.backend.backend()}: {len(planned)} chains, {fell} kills, {inside} inside a save")
    assert fell >= 2 * len(planned)
