"""A run that was saved by so many ranks goes on with another number of them."""

import itertools
import os
import shutil
from pathlib import Path

import keras
import pytest
from support import processes

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the scripts choose their own backends"
)
SCRIPT = Path(processes.TESTS, "support", "ddp_loop.py")
ROWS = 48
LONG = bool(os.environ.get("RATCHET_LONG"))
TO_THREE = pytest.mark.skipif(not LONG, reason="RATCHET_LONG=1: three more processes")


def launch(where, world_size, *arguments, codes=(0,)):
    ended = processes.run("torch", SCRIPT, [where, *arguments], world_size=world_size)
    assert {one.code for one in ended} <= set(codes), processes.report(ended)
    return [one.output for one in ended]


def seen(outputs, epoch):
    """Return, by rank, the batches of an epoch that were trained: lists of rows."""
    lines = [[line.split() for line in text.splitlines()] for text in outputs]
    start = ["SEEN", str(epoch)]
    return [[tuple(map(int, line[2:])) for line in of if line[:2] == start] for of in lines]


def rows_of(batches):
    return sorted(itertools.chain.from_iterable(itertools.chain.from_iterable(batches)))


def stream(output):
    return next(line for line in output.splitlines() if line.startswith("STREAM")).split()[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return, by the number of ranks, a run that was killed in batch 6, and what it had trained."""
    found = {}
    for world_size in (1, 2):
        where = tmp_path_factory.mktemp(f"by-{world_size}")
        outputs = launch(where, world_size, "dealt", "all:6", codes=(-9, 1, -6))
        found[world_size] = where, [batches[:5] for batches in seen(outputs, 0)], outputs
    return found


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2), pytest.param(2, 3, marks=TO_THREE)])
def test_no_sample_of_the_epoch_comes_twice(saved, tmp_path, before, now):
    where, done, first = saved[before]
    shutil.copytree(where, tmp_path, dirs_exist_ok=True)
    outputs = launch(tmp_path, now)
    rest = seen(outputs, 0)
    rows = rows_of(done) + rows_of(rest)
    assert len(set(rows)) == len(rows) == 5 * 2 * before + now * 2 * len(rest[0])
    assert ROWS - len(rows) < 2 * now  # less than a step was left out
    assert rows_of(seen(outputs, 1)) == list(range(ROWS))
    warnings = "".join(outputs).count("rank" + "s" * (before > 1) + f", and {now} go")
    assert warnings == 1, outputs
    skipped = (5 * before + now - 1) // now
    assert f"goes on after {skipped} batches of each rank; no sample comes twice" in outputs[0]
    for rank in range(now):  # each has its own stream: that of before, or the script's
        own = first[rank] if rank < before else None
        assert own is None or stream(outputs[rank]) == stream(own)
    assert len({stream(text) for text in outputs}) == now
    assert len({text.split("RESULT")[1].split()[1] for text in outputs}) == 1  # equal weights


def test_an_epoch_of_data_that_does_not_tell_starts_anew(saved, tmp_path):
    shutil.copytree(saved[2][0], tmp_path, dirs_exist_ok=True)
    output = launch(tmp_path, 1, "shuffled")[0]
    assert output.count("Epoch 1 starts anew") == 1
    assert rows_of(seen([output], 0)) == list(range(ROWS))
