"""The same script in several processes, as ranks of one training; bounded in time.

    ended = processes.run("jax", SCRIPT, [str(tmp_path)])
    assert [rank.code for rank in ended] == [0, 0], processes.report(ended)

or, to do something to them meanwhile:

    with processes.start("torch", SCRIPT, limit_s=90) as ranks:
        ranks.wait_for(1, "batch 5")
        ranks.kill(1)
        ended = ranks.end()

Every process has RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun sets them,
and `support.rank.join()` makes it a rank of its engine. When the limit is reached each process
prints the stacks of its threads (SIGABRT, PYTHONFAULTHANDLER), and all are killed. Nothing that
was started here outlives the block: not what torchrun started, either.
"""

import contextlib
import dataclasses
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras_ratchet

TESTS = Path(__file__).resolve().parent.parent
SOURCE = Path(keras_ratchet.__file__).resolve().parent.parent
LIMIT_S = 180.0
MARK = "RATCHET_TEST_PROCESSES"  # in the environment of all that one `start` has started
ENGINES = ("torch", "torch-fit", "jax")  # torch-fit: with the Keras whose `fit` knows of ranks


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        rank: Its index.
        code: Its exit code, or -signal.
        output: What it wrote to stdout and stderr.
        seconds: How long it ran.
        ended_s: When it ended, by `time.monotonic`.
    """

    rank: int
    code: int
    output: str
    seconds: float
    ended_s: float


def run(engine, script, arguments=(), **options):
    """Run a script as ranks until they end; return an `Ended` for each. For options see `start`."""
    with start(engine, script, arguments, **options) as ranks:
        return ranks.end()


@contextlib.contextmanager
def start(
    engine, script, arguments=(), *, world_size=2, env=None, limit_s=LIMIT_S, ranks=None, port=None
):
    """Start a script as ranks; on exit what still runs is killed.

    Args:
        engine: One of `ENGINES`.
        script: Path of the script, or its source.
        arguments: Of the script.
        world_size: How many ranks there are.
        env: Variables for all ranks, or a function that returns those of a rank.
        limit_s: When all stacks are printed and everything is killed.
        ranks: Which ranks to start; None for all. (The others come later, or never.)
        port: Of rank 0; None for a free one.
    """
    port = port or free_port()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ranks-")))
        python = [sys.executable, "-X", "faulthandler"]
        command = python + _script(script, arguments, directory)
        started = Processes(directory, limit_s, port)
        stack.callback(started.close)
        for rank in range(world_size) if ranks is None else ranks:
            given = env(rank) if callable(env) else env or {}
            started.add(rank, command, _environment(engine, rank, world_size, port) | given)
        yield started


def torchrun(engine, script, arguments=(), **options):
    """Run a script under torchrun; return an `Ended` whose output is that of all ranks.

    For options see `start_torchrun`.
    """
    with start_torchrun(engine, script, arguments, **options) as agent:
        return agent.end()[0]


@contextlib.contextmanager
def start_torchrun(
    engine, script, arguments=(), *, world_size=2, options=(), env=None, limit_s=LIMIT_S
):
    """Start a script under torchrun, which is process 0; on exit all that still runs is killed.

    Args:
        engine: "torch" or "torch-fit".
        script: Path of the script, or its source.
        arguments: Of the script.
        world_size: How many ranks there are.
        options: More options of torchrun, such as `["--max-restarts", "2"]`.
        env: Variables for all.
        limit_s: When all stacks are printed and everything is killed.
    """
    port = free_port()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ranks-")))
        where = ["--nproc-per-node", str(world_size), "--master-port", str(port), *options]
        command = [sys.executable, "-m", "torch.distributed.run", *where]
        started = Processes(directory, limit_s, port)
        stack.callback(started.close)
        started.add(
            0,
            command + _script(script, arguments, directory),
            base_environment(engine) | (env or {}),
        )
        yield started


class Processes:
    """Processes that run; made by `start`.

    Args:
        directory: Where their output goes.
        limit_s: When they are killed.
        port: Of rank 0.

    Attributes:
        port: Of rank 0.
    """

    def __init__(self, directory, limit_s, port):
        self.port = port
        self._directory = directory
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        self._mark = secrets.token_hex(8)
        self._running = {}
        self._began = {}
        self._ended = {}

    def add(self, rank, command, env):
        """Start one process."""
        with self._path(rank).open("wb") as file:
            process = subprocess.Popen(
                command,
                env=env | {MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
        self._running[rank] = process
        self._began[rank] = time.monotonic()

    def pid(self, rank):
        """Return the id of a process."""
        return self._running[rank].pid

    def output(self, rank):
        """Return what a process has written so far."""
        return self._path(rank).read_text(errors="replace")

    def signal(self, rank, number):
        """Send a signal to one process, if it still runs: nobody has waited for it yet."""
        self._running[rank].send_signal(number)

    def kill(self, rank):
        """Send SIGKILL to one process."""
        self.signal(rank, signal.SIGKILL)

    def wait_for(self, rank, text):
        """Wait until a process has written a text; return whether it did before it ended."""
        while text not in self.output(rank):
            if self._poll(rank) is not None:
                return text in self.output(rank)
            self._check_time()
            time.sleep(0.01)
        return True

    def end_of(self, rank):
        """Wait until one process has ended; return its `Ended`."""
        while self._poll(rank) is None:
            self._check_time()
            time.sleep(0.02)
        return self._ended[rank]

    def has_ended_within(self, rank, seconds):
        """Return whether a process ends in the next seconds."""
        end_s = time.monotonic() + seconds
        while self._poll(rank) is None and time.monotonic() < end_s:
            time.sleep(0.02)
        return self._poll(rank) is not None

    def end(self):
        """Wait until all have ended; return an `Ended` for each, by rank.

        Raises:
            AssertionError: If they have not at the limit, with the stacks of those that ran.
        """
        while not all([self._poll(rank) for rank in self._running]):
            self._check_time()
            time.sleep(0.02)
        return [self._ended[rank] for rank in sorted(self._ended)]

    def close(self):
        """Kill all that still runs."""
        for process in self._running.values():
            if process.returncode is None:
                process.kill()
                process.wait()
        for pid in _marked(self._mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _path(self, rank):
        return self._directory / f"rank-{rank}.log"

    def _poll(self, rank):
        if rank not in self._ended and self._running[rank].poll() is not None:
            now = time.monotonic()
            code, seconds = self._running[rank].returncode, now - self._began[rank]
            self._ended[rank] = Ended(rank, code, self.output(rank), seconds, now)
        return self._ended.get(rank)

    def _check_time(self):
        if time.monotonic() < self._deadline:
            return
        hung = [rank for rank in self._running if self._poll(rank) is None]
        for pid in _marked(self._mark):  # torchrun's workers, too
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)
        time.sleep(3)
        self.close()
        outputs = "\n".join(
            f"--- rank {rank}{' (hung)' if rank in hung else ''}\n{self.output(rank)[-6000:]}"
            for rank in self._running
        )
        raise AssertionError(f"ranks {hung} still ran after {self._limit_s:g} s:\n{outputs}")


def report(ended):
    """Return how processes ended, for the message of an assertion."""
    return "\n".join(
        f"--- rank {one.rank}: code {one.code} after {one.seconds:.1f} s\n{one.output[-4000:]}"
        for one in ended
    )


def free_port():
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def keras_next():
    """Return the directory of a Keras whose `fit` on torch knows of ranks (3.16).

    Raises:
        RuntimeError: If there is none: `make test-ranks` installs it.
    """
    path = os.environ.get("RATCHET_KERAS_NEXT", "")
    if not os.path.isdir(os.path.join(path, "keras")):
        raise RuntimeError(
            "RATCHET_KERAS_NEXT must be a directory with Keras 3.16 or later, which `make "
            f"test-ranks` installs. Got: {path!r}."
        )
    return path


def _script(script, arguments, directory):
    if "\n" in str(script):
        (directory / "script.py").write_text(script)
        script = directory / "script.py"
    return [str(script), *map(str, arguments)]


def _environment(engine, rank, world_size, port):
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    own = {name: str(value) for name, value in own.items()}
    return base_environment(engine) | own | {"MASTER_ADDR": "127.0.0.1"}


def base_environment(engine):
    """Return the environment of any process of an engine, rank or not."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {ENGINES}. Got: {engine!r}.")
    first = [keras_next()] if engine == "torch-fit" else []
    path = [*first, str(SOURCE), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "KERAS_BACKEND": engine.partition("-")[0],
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONUNBUFFERED": "1",
    }


def _marked(mark):
    """Return the ids of the processes that have a mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
