"""`ratchet run` starts a script again, or does not, and says why: with real processes."""

import json
import os
import signal
import subprocess
import sys

import pytest
from support import supervising

from keras_ratchet._storage import journal


def run(tmp_path, script, *options, **more):
    with supervising.start(tmp_path, script, *options, **more) as started:
        return started.end()


def events(tmp_path):
    return [event["event"] for event in journal.read(str(tmp_path / ".ratchet-run"))]


def test_what_ends_well_is_started_once(tmp_path):
    code, output = run(tmp_path, "print(sys.argv[0] and 'done')\n")
    assert code == 0 and output.count("the script is") == 1
    assert events(tmp_path) == ["start", "exit"]


def test_a_crash_is_followed_by_a_restart_and_the_journal_tells_it(tmp_path):
    code, output = run(tmp_path, "sys.exit(3 if start == 1 else 0)\n")
    assert code == 0
    assert "ratchet run: start 2 of 4, after exit code 3" in output
    assert events(tmp_path) == ["start", "exit", "start", "exit"]
    shown = subprocess.run(
        [sys.executable, "-m", "keras_ratchet", "history", str(tmp_path / ".ratchet-run")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "start 2 of 4, after exit code 3" in shown


def test_a_script_that_cannot_even_begin_is_not_started_again_and_again(tmp_path):
    code, output = run(tmp_path, "this is no Python\n", "--max-restarts", 9, prelude="")
    assert code == 1
    assert output.count("SyntaxError") == 2
    assert "gives up: no progress in 2 starts in a row" in output
    assert events(tmp_path)[-1] == "give_up"


CRASHES = """
at = int(open("at").read()) if os.path.exists("at") else 0
beat(epoch=at, snapshots=True, resumed=(at, 0) if at else None)
if at < {last}:
    open("at", "w").write(str(at + 1))
    saved(at + 1)
os.kill(os.getpid(), signal.SIGSEGV)
"""


def test_snapshots_are_progress_so_restarts_end_at_their_number(tmp_path):
    code, output = run(tmp_path, CRASHES.format(last=99), "--max-restarts", 3)
    assert code == 139 and output.count("the script is") == 4
    assert "start 4 of 4, after signal 11; goes on after epoch 3" in output
    assert "gives up: after 3 restarts, as many as allowed" in output


def test_without_a_new_snapshot_it_gives_up_although_it_trains(tmp_path):
    code, output = run(tmp_path, CRASHES.format(last=1), "--max-restarts", 9)
    assert code == 139 and output.count("the script is") == 3
    assert "gives up: no progress in 2 starts in a row" in output


def test_a_snapshot_at_the_place_where_it_began_is_no_progress(tmp_path):
    script = "beat(snapshots=True)\nsaved(0)\nsys.exit(1)\n"
    code, output = run(tmp_path, script, "--max-restarts", 9)
    assert code == 1 and output.count("the script is") == 2


def test_the_code_of_a_preemption_is_told_as_one(tmp_path):
    code, output = run(tmp_path, "sys.exit(9 if start == 1 else 0)\n", "--preempted-code", 9)
    assert code == 0
    assert "start 2 of 4, after a preemption (exit code 9)" in output


def test_a_preemption_that_callbacks_note_is_one_whatever_the_code(tmp_path):
    """As torchrun makes 1 of every code."""
    script = "beat(snapshots=True)\njournal.append('here', 'preempted')\nsys.exit(start == 1)\n"
    code, output = run(tmp_path, script)
    assert code == 0
    assert "start 2 of 4, after a preemption (exit code 1)" in output


def test_no_restarts_if_none_are_wanted(tmp_path):
    code, output = run(tmp_path, "sys.exit(4)\n", "--max-restarts", 0)
    assert code == 4 and output.count("the script is") == 1


def test_events_as_json(tmp_path):
    _, output = run(tmp_path, "sys.exit(4)\n", "--max-restarts", 0, "--json")
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [event["event"] for event in found] == ["start", "exit"]
    assert found[1]["code"] == 4


def test_what_is_no_command_is_wrong_use(tmp_path):
    code, output = run(tmp_path, "", command=["no-such-command"])
    assert code == 2
    assert "'no-such-command' cannot be started: No such file or directory." in output


def test_the_script_reads_what_is_typed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "keras_ratchet", "run", "cat"],
        input="typed",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert done.stdout == "typed"


LEAVES = """
left = subprocess.Popen(["sleep", "60"], start_new_session=True)
say("left", left.pid)
os._exit({code})
"""


def test_what_a_crash_has_left_is_ended_before_the_restart(tmp_path):
    with supervising.start(tmp_path, LEAVES.format(code="start == 1")) as started:
        code, output = started.end()
        first, second = map(int, started.lines("left "))
        assert code == 0 and "processes that it had left were ended" in output
        assert supervising.is_gone(first, 0.1)
        assert not supervising.is_gone(second, 0.1)  # after a good end it is the user's


SCONTROL = """#!/bin/sh
echo "$@" >> {tmp}/requeued
exit {code}
"""
ASKED = """
beat(snapshots=True)
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
say("waits")
while not got:
    time.sleep(0.01)
if {code} == 0:  # then the callbacks have to say that training has not come to its end
    journal.append("here", "preempted")
sys.exit({code})
"""


def slurm(tmp_path, code=0, **env):
    path = tmp_path / "scontrol"
    path.write_text(SCONTROL.format(tmp=tmp_path, code=code))
    path.chmod(0o755)
    return {"SLURM_JOB_ID": "17", "PATH": f"{tmp_path}:{os.environ['PATH']}"} | env


def requeued(tmp_path):
    path = tmp_path / "requeued"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("script_code", [0, 75])
def test_a_slurm_job_whose_time_is_over_is_queued_again(tmp_path, script_code):
    script = ASKED.format(code=script_code)
    env = slurm(tmp_path)
    with supervising.start(tmp_path, script, "--slurm-requeue", env=env) as started:
        assert started.says("waits")
        started.signal(signal.SIGUSR1)
        code, output = started.end()
    assert requeued(tmp_path) == ["requeue 17"]
    assert code == 75 and output.count("the script is") == 1
    assert "job 17 was put into the queue again" in output


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_a_job_whose_time_is_over_between_two_starts_is_queued_again(tmp_path, name):
    options = ("--slurm-requeue", "--backoff", 60)
    with supervising.start(tmp_path, "sys.exit(5)\n", *options, env=slurm(tmp_path)) as started:
        assert started.says("ended with exit code 5")
        started.signal(getattr(signal, name))
        code, output = started.end()
    assert requeued(tmp_path) == ["requeue 17"]
    assert code == 5 and output.count("the script is") == 1


def test_a_job_that_cannot_be_queued_again_says_so_and_goes_on_here(tmp_path):
    env = slurm(tmp_path, code=1, SLURM_JOB_END_TIME="0")
    script = "sys.exit(75 if start == 1 else 0)\n"
    code, output = run(tmp_path, script, "--slurm-requeue", env=env)
    assert code == 0
    assert (
        "the job could not be put into the queue again: scontrol ended with exit code 1" in output
    )
    assert "start 2 of 4" in output


def test_without_slurm_requeue_nobody_calls_scontrol(tmp_path):
    env = slurm(tmp_path, SLURM_JOB_END_TIME="0")
    assert run(tmp_path, "sys.exit(75 if start == 1 else 0)\n", env=env)[0] == 0
    assert requeued(tmp_path) == []


def test_a_crash_long_before_the_end_of_the_job_is_none_of_slurm(tmp_path):
    env = slurm(tmp_path, SLURM_JOB_END_TIME="99999999999")
    script = "sys.exit(75 if start == 1 else 0)\n"
    assert run(tmp_path, script, "--slurm-requeue", env=env)[0] == 0
    assert requeued(tmp_path) == []
