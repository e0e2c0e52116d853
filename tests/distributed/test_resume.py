"""A run of several ranks resumes bit by bit on each of them, with what is each rank's own.

What is interrupted: by SIGKILL in mid-epoch, and by a signal to one rank in mid-validation.
"""

import json
import shutil
from pathlib import Path

import keras
import pytest
from click.testing import CliRunner
from support import processes

from keras_ratchet.cli import main

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the scripts choose their own backends"
)
SCRIPT = Path(processes.TESTS, "support", "rank_resume.py")
SAME = ("weights", "statistics", "optimizer", "history", "callback", "streams")


def launch(engine, where, *plans, env=None):
    """Return what the trainings of one start ended with: by name, for each rank."""
    ended = processes.run(engine, SCRIPT, [where, *plans], env=env, limit_s=400)
    codes = {-9, 1, -6} if any(plan.endswith(":kill") for plan in plans) else {0}
    assert {one.code for one in ended} <= codes, processes.report(ended)
    lines = [[line.split(" ", 2) for line in one.output.splitlines()] for one in ended]
    found = [{x[1]: json.loads(x[2]) for x in of if x[0] == "RESULT"} for of in lines]
    wanted = [name for name, _, what in (plan.partition(":") for plan in plans) if what != "kill"]
    assert all(list(of) == wanted for of in found), processes.report(ended)
    return {name: [of[name] for of in found] for name in wanted}


@pytest.fixture(scope="module", params=processes.ENGINES)
def ends(request, tmp_path_factory):
    """Return what trainings ended with: straight, told (to stop), killed, and controls."""
    where = tmp_path_factory.mktemp(request.param)
    found = launch(request.param, where, "straight", "told:term", "killed:kill")
    found["ended early"] = found["told"]
    shutil.copytree(where / "killed", where / "control")
    found["listed"] = listed(where / "killed")
    return found | launch(request.param, where, "killed", "told", "control:first")


def listed(where):
    """Return what `ratchet ls --verify` says of snapshots, and which ranks are in them."""
    result = CliRunner().invoke(main, ["ls", "--verify", "--json", str(where)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    states = [json.loads(Path(where, one["name"], "state.json").read_text()) for one in found]
    return [
        (one["verified"]["status"], sorted(s["ranks"]))
        for one, s in zip(found, states, strict=True)
    ]


def differing(ends, name):
    """Return what differs from the training that nobody interrupted, for each rank."""
    pairs = zip(ends[name], ends["straight"], strict=True)
    return [[what for what in SAME if one[what] != other[what]] for one, other in pairs]


def test_ranks_have_much_of_their_own(ends):
    first, second = ends["straight"]
    assert first["weights"] == second["weights"]
    assert first["history"] == second["history"]
    for what in ("callback", "streams"):
        assert first[what] != second[what]


def test_a_run_that_was_killed_in_mid_epoch_goes_on_as_if_it_had_not(ends):
    assert all("batch=3" in one["from"] and "epoch=1" in one["from"] for one in ends["killed"])
    assert differing(ends, "killed") == [[], []]


def test_a_run_that_a_signal_to_one_rank_ended_in_validation_goes_on_likewise(ends):
    for early, late in zip(ends["ended early"], ends["told"], strict=True):
        assert early["stopped"] and len(early["history"]["loss"]) < 3
        assert late["from"] and not late["stopped"]
    assert differing(ends, "told") == [[], []]


def test_without_the_part_of_each_rank_it_would_not(ends):
    first, second = differing(ends, "control")
    assert {"callback", "streams"} <= set(second)
    assert "history" in first  # what ranks agree on is computed from the streams of all


def test_the_commands_list_and_verify_a_snapshot_of_several_ranks(ends):
    assert ends["listed"] == [("ok", ["1", "world_size"])] * 2
