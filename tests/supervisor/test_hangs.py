"""A hang ends with the stacks of all threads, and a restart: with real processes."""

import os
import signal
import time

from support import supervising

HANGS = """
import faulthandler
def hangs_here():
    time.sleep(60)
if start == 1:
    faulthandler.register(62)
    beat(epoch=3, snapshots=True, stacks=62)
    hangs_here()
"""


def test_the_stacks_are_printed_and_the_script_is_started_again(tmp_path):
    with supervising.start(tmp_path, HANGS, "--hang-after", 0.6) as run:
        code, output = run.end()
        assert supervising.is_gone(run.script(1), 0.1)
    assert code == 0
    assert "no batch has ended and nothing was saved for 0.6 s" in output
    assert "in hangs_here" in output
    assert "start 2 of 4, after a hang; goes on at the beginning" in output


def test_a_script_that_ignores_sigterm_is_killed_with_its_workers(tmp_path):
    script = HANGS.replace(
        "    hangs_here()",
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    worker = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "    say('worker', worker.pid)\n"
        "    hangs_here()",
    )
    with supervising.start(tmp_path, script, "--hang-after", 0.6, "--grace", 0.3) as run:
        code, output = run.end()
        assert code == 0 and "ended as it hung" in output
        assert supervising.is_gone(int(run.lines("worker ")[0]), 0.1)


def test_a_hang_before_training_prints_its_stacks_too(tmp_path):
    script = "def hangs_here(): time.sleep(60)\nif start == 1: hangs_here()\n"
    options = ["--hang-after", 0.6, "--start-after", 1]
    with supervising.start(tmp_path, script, *options) as run:
        code, output = run.end()
    assert code == 0
    assert "no training has begun for 1 s" in output and "in hangs_here" in output


def test_a_hang_again_and_again_is_given_up_and_no_success(tmp_path):
    script = HANGS.replace("start == 1", "True")
    script = script.replace(
        "    hangs_here()", "    signal.signal(15, lambda *_: os._exit(0))\n    hangs_here()"
    )
    with supervising.start(tmp_path, script, "--hang-after", 0.6) as run:
        code, output = run.end()
    assert code == 75 and output.count("the script is") == 2
    assert "gives up: no progress in 2 starts in a row" in output


def test_without_hang_after_nothing_is_ended(tmp_path):
    script = HANGS.replace("sleep(60)", "sleep(1.5)")
    with supervising.start(tmp_path, script) as run:
        code, output = run.end()
    assert code == 0 and "hang:" not in output and output.count("the script is") == 1


def test_the_time_in_which_the_script_is_stopped_does_not_count(tmp_path):
    script = "beat()\nsay('waits')\ntime.sleep(0.2)\nbeat('ended')\nsay('done')\n"
    with supervising.start(tmp_path, script, "--hang-after", 2.5) as run:
        assert run.says("waits")
        os.kill(run.script(), signal.SIGSTOP)
        time.sleep(4)
        os.kill(run.script(), signal.SIGCONT)
        code, output = run.end()
    assert code == 0 and "hangs" not in output and "done" in output
