"""`ratchet run` as a real process over small scripts, bounded in time.

    with supervising.start(tmp_path, SCRIPT, "--hang-after", "1") as run:
        assert run.says("batch 5")
        run.signal(signal.SIGTERM)
        code, output = run.end()

A script begins with `PRELUDE`: it has `beat(...)` and `saved(...)`, which note what our callbacks
note, and `start`, the number of this start, from 1. Nothing that was started here outlives the
block.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from support import processes

LIMIT_S = 60.0
PRELUDE = """
import os, signal, subprocess, sys, time
from keras_ratchet._storage import heartbeats, journal

def say(*words):
    print(*words, flush=True)

def beat(state="training", **fields):
    watched = os.environ["RATCHET_RUN"]
    saves = ("here",) if fields.get("snapshots") else ()
    heartbeats.write(watched, heartbeats.Beat(os.getpid(), state, directories=saves, **fields))

def saved(epoch, batch=0):
    journal.append("here", "save", name="step", epoch=epoch, batch=batch)

with open("starts", "a+") as file:
    file.write(".")
    start = file.tell()
say("the script is", os.getpid())
"""


class Run:
    """`ratchet run`, started; made by `start`."""

    def __init__(self, started):
        self._started = started

    @property
    def pid(self):
        return self._started.pid(0)

    @property
    def output(self):
        return self._started.output(0)

    def says(self, text):
        """Wait until a text was written; return whether it was before the end."""
        return self._started.wait_for(0, text)

    def signal(self, number):
        self._started.signal(0, number)

    def end(self):
        """Wait for the end; return the exit code, -N for a signal, and all that was written."""
        ended = self._started.end_of(0)
        return ended.code, ended.output

    def script(self, number=1):
        """Return the process of a start of the script."""
        return int(self.lines("the script is ")[number - 1])

    def lines(self, beginning):
        """Return the rest of the lines that begin so."""
        lines = self.output.splitlines()
        return [line[len(beginning) :] for line in lines if line.startswith(beginning)]


@contextlib.contextmanager
def start(tmp_path, script, *options, env=None, limit_s=LIMIT_S, command=None, prelude=PRELUDE):
    """Start `ratchet run` over a script, in a directory.

    Args:
        tmp_path: Where it runs.
        script: What comes after the prelude.
        *options: Of `ratchet run`.
        env: More variables.
        limit_s: When everything is killed.
        command: What runs the script; None for this Python.
        prelude: What comes before it.
    """
    path = Path(tmp_path) / "train.py"
    path.write_text(prelude + script)
    run = [sys.executable, "-m", "keras_ratchet", "run", "--backoff", "0.05"]
    python = command or [sys.executable]
    with tempfile.TemporaryDirectory(prefix="supervised-") as directory:
        started = processes.Processes(Path(directory), limit_s, 0)
        try:
            line = [*run, *map(str, options), "--", *python, str(path)]
            base = processes.base_environment("torch") | {"TMPDIR": directory}
            base["KERAS_BACKEND"] = os.environ["KERAS_BACKEND"]
            base.pop("PYTHONFAULTHANDLER")
            started.add(0, ["env", "-C", str(tmp_path), *line], base | (env or {}))
            yield Run(started)
        finally:
            started.close()


def is_gone(pid, within_s=10.0):
    """Return whether a process has ended, or ends soon."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def parent(pid):
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill(pid):
    """Send SIGKILL to a process."""
    os.kill(pid, signal.SIGKILL)
