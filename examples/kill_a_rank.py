"""Two processes, one training: one of them is killed, both are started again, nothing has changed.

Runs `ddp.py` under torchrun, then `jax_processes.py`: without interruption; with rank 1 killed by
SIGKILL in the middle of an epoch, which ends the other one, too; and once more, which resumes.

    python examples/kill_a_rank.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from interrupt import resumes_in
from tables import print_table

EXAMPLES = Path(__file__).parent
RUN = Path("runs/kill_a_rank")
LIMIT_S = 300


def free_port():
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start_torch(*arguments):
    """Start `ddp.py` in two processes, as `torchrun` does; return what has to end."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "--master-port", free_port(), str(EXAMPLES / "ddp.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return [subprocess.Popen(command, env=environment, **PIPES)]


def start_jax(*arguments):
    """Start `jax_processes.py` in two processes; return them."""
    environment = os.environ | {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{free_port()}",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    command = [sys.executable, str(EXAMPLES / "jax_processes.py"), *arguments]
    return [
        subprocess.Popen(
            command, env=environment | {"KERAS_DISTRIBUTION_PROCESS_ID": str(rank)}, **PIPES
        )
        for rank in (0, 1)
    ]


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}


def end(processes):
    """Wait for processes; return their exit codes and what they have written."""
    limit_s = time.monotonic() + LIMIT_S
    try:
        outputs = [
            process.communicate(timeout=max(1.0, limit_s - time.monotonic()))[0]
            for process in processes
        ]
        return [process.returncode for process in processes], "".join(outputs)
    finally:
        for process in processes:
            process.kill()


def results(output):
    """Return the lines in which the ranks tell what they end with."""
    return sorted(line for line in output.splitlines() if line.startswith(("Rank", "val_loss")))


def show(name, start):
    """Train without interruption, and with one; fail if the two end differently."""
    straight, killed = RUN / name / "straight", RUN / name / "killed"
    codes, output = end(start("--directory", str(straight)))
    if any(codes):
        raise SystemExit(f"The training failed:\n{output}")
    expected = results(output)

    codes, output = end(start("--directory", str(killed), "--kill", "1"))
    if not all(codes) or "Killed by SIGKILL" not in output:
        raise SystemExit(f"Both ranks should have ended, with {codes}:\n{output}")
    [death] = [line for line in output.splitlines() if "Killed by SIGKILL" in line]
    place = resumes_in(killed / "backup")

    codes, output = end(start("--directory", str(killed)))
    found = results(output)
    if any(codes) or found != expected:
        raise SystemExit(f"Run again it ended with {codes} and {found}, not {expected}:\n{output}")
    rows = [("uninterrupted, and killed and resumed", "")]
    rows += [tuple(line.partition(": " if line[0] == "R" else " ")[::2]) for line in expected]
    print_table(f"Two processes on {name}", rows)
    print(f"Rank 1: {death}")
    print(f"Run again, both ranks resumed in {place}, and ended with the same bits.")


def main():
    shutil.rmtree(RUN, ignore_errors=True)
    show("torch", start_torch)
    show("jax", start_jax)


if __name__ == "__main__":
    main()
