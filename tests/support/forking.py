"""Forked children: Keras is imported once (4-12 s), then each experiment costs a fork.

The parent must not have started a backend's threads: it imports Keras and nothing more (`warm`),
and each child builds its own model. With a model built before the fork, JAX hangs in the child.
A child is never left to itself: it ends at its own time limit, with a traceback of what it did.
"""

import dataclasses
import faulthandler
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from support import background_saves

TESTS = Path(__file__).resolve().parent.parent
# Huge pages where glibc can: a third less system time for children that copy 40 MB some ten times.
SETTINGS = {"OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def warm():
    """Import what a save imports on first use (3 s for tensorflow), and start no runtime."""
    import keras

    import keras_ratchet

    assert keras_ratchet.ModelCheckpoint is not None  # a lazy name: this imports it
    background_saves.apply()
    keras.saving.serialize_keras_object(keras.layers.Dense(1))
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    gc.freeze()  # else a collection in a child copies every page that holds an object


class Child:
    """A forked process that runs `work(say)`; `say(text)` sends one line to the parent.

    Args:
        work: What it does. When it returns the process ends with code 0, if it raises with 1.
        limit_s: Time after which it ends itself, with a traceback on stderr.
    """

    def __init__(self, work, limit_s=60):
        sys.stdout.flush()
        sys.stderr.flush()
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reader)
            _run(work, writer, limit_s)
        os.close(writer)
        self._reader = reader
        self._text = b""
        self._deadline = time.monotonic() + limit_s + 30
        self.code = None

    def line(self):
        """Return the next line, or None once the child has ended."""
        while b"\n" not in self._text:
            left = self._deadline - time.monotonic()
            if left <= 0 or not select.select([self._reader], [], [], left)[0]:
                self.kill()
                raise TimeoutError(f"child {self.pid} neither spoke nor ended")
            data = os.read(self._reader, 65536)
            if not data:
                return None
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def kill(self):
        """Send SIGKILL; the process is a child that nobody has waited for, so the pid is its."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)

    def end(self):
        """Return the lines that are left and wait; `code` is then the exit code or -signal."""
        lines = list(iter(self.line, None))
        os.close(self._reader)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return lines


def _run(work, writer, limit_s):
    code = 1
    try:
        faulthandler.enable()
        faulthandler.dump_traceback_later(limit_s, exit=True)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        work(lambda text: os.write(writer, f"{text}\n".encode()))
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)  # no clean-up of what belongs to the parent


def ask(work, limit_s=60):
    """Return what `work()` returns in a forked child; it has to be JSON-able.

    Raises:
        ChildProcessError: If the child failed or died; the text says how.
    """
    child = Child(lambda say: say(json.dumps(work())), limit_s)
    lines = child.end()
    if child.code != 0:
        raise ChildProcessError(f"child ended with {child.code}")
    return json.loads(lines[-1])


def run_module(module, settings, directory, limit_s, env=None):
    """Run `python -m module` in a process of its own; return the records that it wrote.

    Args:
        module: A module under tests whose `__main__` reads `settings` (JSON) from argv[1] and
            adds `Records`.
        settings: What it shall do.
        directory: Where it may write; also its working and temporary directory.
        limit_s: Time after which it is stopped (SIGABRT: faulthandler prints where it was).
        env: More variables for it; a PYTHONPATH comes after the tests.

    Raises:
        AssertionError: If it failed or took too long, with the end of its output.
    """
    directory = Path(directory)
    env = os.environ | SETTINGS | (env or {})
    path = os.pathsep.join(filter(None, [str(TESTS), env.get("PYTHONPATH")]))
    env |= {"PYTHONPATH": path, "TMPDIR": str(directory)}
    command = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-m", module]
    process = subprocess.Popen(
        [*command, json.dumps(settings)],
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,  # not a file: a child may have a limit on the size of files
        stderr=subprocess.STDOUT,
    )
    output, code = _end(process, limit_s)
    tail = output.decode(errors="replace")[-4000:]
    assert code == 0, f"{module} ended with {code}:\n{tail}"
    return [json.loads(line) for line in (directory / "records.jsonl").read_text().splitlines()]


def _end(process, limit_s):
    try:
        return process.communicate(timeout=limit_s)[0], process.returncode
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
    try:
        return process.communicate(timeout=10)[0], f"a timeout after {limit_s} s"
    finally:
        process.kill()


class Records:
    """Where a module that `run_module` runs puts its results."""

    def add(self, record):
        """Add a dataclass instance."""
        with Path("records.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(record)) + "\n")
