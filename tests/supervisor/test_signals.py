"""Signals reach the script once, and what the supervisor's own end means: with real processes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import termios

import pytest
from support import supervising
from support.supervising import is_gone

from keras_ratchet._storage import journal
from keras_ratchet._supervisor.events import Events

COUNTS = """
got = []
for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT"):
    if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
        say("ignores", name)
    else:
        signal.signal(getattr(signal, name), lambda n, _: got.append(n))
say("waits")
until = time.monotonic() + 30
while not got and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.5)  # a second one would come by now
say("got", *(signal.Signals(n).name for n in got))
sys.exit(7)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_a_signal_that_ends_is_passed_on_once_and_nothing_is_started_again(tmp_path, name):
    with supervising.start(tmp_path, COUNTS) as run:
        assert run.says("waits")
        run.signal(getattr(signal, name))
        code, output = run.end()
    assert code == 7
    assert f"got {name}\n" in output
    assert output.count("the script is") == 1 and f"{name} passed on" in output


def test_another_signal_is_passed_on_and_a_crash_is_a_crash(tmp_path):
    script = COUNTS.replace("sys.exit(7)", "sys.exit(7 if start == 1 else 0)")
    script = script.replace("while not got and", "while start == 1 and not got and")
    with supervising.start(tmp_path, script) as run:
        assert run.says("waits")
        run.signal(signal.SIGUSR1)
        code, output = run.end()
    assert code == 0 and "got SIGUSR1\n" in output and output.count("the script is") == 2


def test_a_script_that_a_signal_ends_has_the_code_that_a_shell_would_give(tmp_path):
    with supervising.start(tmp_path, "say('waits')\ntime.sleep(30)\n") as run:
        assert run.says("waits")
        run.signal(signal.SIGTERM)
        assert run.end()[0] == 128 + 15


def test_a_second_signal_is_passed_on_too_and_then_there_is_little_time(tmp_path):
    script = "signal.signal(signal.SIGTERM, lambda *_: say('no'))\nsay('waits')\n"
    script += "while True: time.sleep(0.1)\n"
    with supervising.start(tmp_path, script, "--grace", 0.5) as run:
        assert run.says("waits")
        run.signal(signal.SIGTERM)
        assert run.says("no\n")
        run.signal(signal.SIGTERM)
        code, output = run.end()
    assert code == 128 + 9 and output.count("no\n") == 2


def test_what_is_ignored_stays_ignored(tmp_path):
    (tmp_path / "train.py").write_text(supervising.PRELUDE + COUNTS)
    line = [sys.executable, "-m", "keras_ratchet", "run", sys.executable, "train.py"]
    with subprocess.Popen(
        ["nohup", *line], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output = ""
        while "waits" not in output:
            output += process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        output += process.communicate(timeout=30)[0]
    assert "ignores SIGHUP" in output and "got SIGTERM\n" in output


WHO = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
say("waits")
sender = signal.sigwaitinfo({signal.SIGINT}).si_pid
time.sleep(0.5)  # a second one would come by now
say("got it from", "ratchet run" if sender == os.getppid() else sender, *signal.sigpending())
sys.exit(7)
"""


def test_ctrl_c_on_a_terminal_arrives_once(tmp_path):
    """Not from the terminal, too: two that come at almost the same time can be one."""
    (tmp_path / "train.py").write_text(supervising.PRELUDE + WHO)
    ours, theirs = os.openpty()
    line = [sys.executable, "-m", "keras_ratchet", "run", sys.executable, "train.py"]
    with subprocess.Popen(
        line,
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
    ) as process:
        os.close(theirs)
        output = b""
        while b"waits" not in output:
            output += os.read(ours, 1 << 12)
        os.write(ours, b"\x03")
        assert process.wait(timeout=30) == 7
        while b"got" not in output:
            output += os.read(ours, 1 << 12)
    os.close(ours)
    assert b"got it from ratchet run\r\n" in output


def test_a_signal_between_two_starts_ends_the_supervisor(tmp_path):
    with supervising.start(tmp_path, "sys.exit(5)\n", "--backoff", 60) as run:
        assert run.says("ended with exit code 5")
        run.signal(signal.SIGTERM)
        code, output = run.end()
    assert code == 5 and output.count("the script is") == 1
    assert "SIGTERM came between two starts" in output


def test_a_terminal_that_is_closed_ends_no_script(tmp_path):
    def closed(line):
        raise OSError(errno.EIO, "Input/output error")

    Events(str(tmp_path), closed).note("signal", reason="SIGHUP passed on")
    assert [event["reason"] for event in journal.read(str(tmp_path))] == ["SIGHUP passed on"]


FAMILY = """
worker = subprocess.Popen(["sleep", "60"], start_new_session=True)
say("worker", worker.pid)
say("waits")
time.sleep(60)
"""


def test_if_the_supervisor_is_killed_the_script_and_its_workers_end(tmp_path):
    with supervising.start(tmp_path, FAMILY) as run:
        assert run.says("waits")
        script, [worker] = run.script(), map(int, run.lines("worker "))
        assert not is_gone(script, 0.1) and not is_gone(worker, 0.1)
        run.signal(signal.SIGKILL)
        assert run.end()[0] == -9
        assert is_gone(script) and is_gone(worker)


def test_if_the_keeper_is_killed_the_script_and_its_workers_end_and_it_is_started_again(tmp_path):
    script = FAMILY + "\n"
    script = script.replace(
        "time.sleep(60)\n\n", "time.sleep(60 if start == 1 else 0)\nworker.kill()\n"
    )
    with supervising.start(tmp_path, script) as run:
        assert run.says("waits")
        pid, [worker] = run.script(), map(int, run.lines("worker "))
        supervising.kill(supervising.parent(pid))
        code, output = run.end()
        assert code == 0 and "start 2 of 4, after signal 9" in output
        assert is_gone(pid, 0.1) and is_gone(worker, 0.1)
