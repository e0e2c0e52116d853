"""The launcher of these tests: it bounds time, tells what happened, and leaves nothing behind."""

import os
import time

import pytest
from support import processes

HELLO = """
from support import rank
found = rank.join()
print(f"I am {found}\\n", end="")  # in one piece
"""
HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid)
def wait_for_the_other():
    time.sleep(600)
wait_for_the_other()
"""


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("engine", processes.ENGINES)
def test_every_process_is_a_rank_of_its_engine(engine):
    ended = processes.run(engine, HELLO)
    assert [rank.code for rank in ended] == [0, 0], processes.report(ended)
    for rank in ended:
        assert f"I am ({rank.rank}, 2)" in rank.output


def test_torchrun_starts_the_same_script():
    ended = processes.torchrun("torch", HELLO)
    assert ended.code == 0, ended.output
    assert "I am (0, 2)" in ended.output and "I am (1, 2)" in ended.output


def test_what_hangs_is_killed_at_the_limit_with_its_children_and_its_stacks_are_told():
    with pytest.raises(AssertionError, match=r"ranks \[0, 1\] still ran after 8 s") as raised:
        processes.run("torch", HANGS, limit_s=8)
    text = str(raised.value)
    assert text.count("in wait_for_the_other") == 2
    pids = [int(line.split()[1]) for line in text.splitlines() if line.startswith("child ")]
    assert len(pids) == 2
    time.sleep(0.5)
    assert not any(is_there(pid) for pid in pids)


def test_one_rank_is_killed_and_the_others_are_not():
    with processes.start("torch", HANGS, limit_s=60) as ranks:
        assert ranks.wait_for(1, "child")
        ranks.kill(1)
        assert ranks.end_of(1).code == -9
        assert is_there(ranks.pid(0))


def test_a_missing_keras_is_an_error_and_no_reason_to_skip(monkeypatch):
    monkeypatch.setenv("RATCHET_KERAS_NEXT", "/nowhere")
    with pytest.raises(RuntimeError, match=r"RATCHET_KERAS_NEXT .* Got: '/nowhere'"):
        processes.run("torch-fit", HELLO)
