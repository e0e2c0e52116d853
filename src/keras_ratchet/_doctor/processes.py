"""The script as a process: in a group of its own, killed with all that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

from keras_ratchet._doctor.kills import Instant
from keras_ratchet._doctor.marks import MarkFile, Start

VARIABLE = "RATCHET_DOCTOR"
OUTPUT = "output.txt"
_NEAR_S = 0.0005
_FAR_S = 0.02


def start(
    command: Sequence[str],
    work: str,
    environment: Mapping[str, str],
    directory: str,
    *,
    instant: Instant | None = None,
    limit_s: float | None = None,
) -> Start:
    """Run the script until it ends, is killed at an instant, or has run too long.

    Args:
        command: Program and arguments.
        work: Its current directory.
        environment: Its environment, but `RATCHET_DOCTOR`.
        directory: Where its marks and its output go.
        instant: When to kill it; None for never.
        limit_s: How long it may run.
    """
    environment = {**environment, VARIABLE: directory}
    began_at = time.monotonic()
    with open(os.path.join(directory, OUTPUT), "wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = float("inf") if limit_s is None else began_at + limit_s
    killed_at = None
    try:
        if instant is not None and _wait_for(instant, process, directory, began_at, deadline):
            killed_at = time.monotonic()
            kill_group(process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            left = deadline - time.monotonic()
            process.wait(None if limit_s is None else max(left, 0.1))
        has_hung = process.poll() is None
    finally:
        kill_group(process.pid)
        code = process.wait()
        for pid in _left_behind(directory):
            _kill(pid)
    if code != -signal.SIGKILL:
        killed_at = None
    ended_at = time.monotonic()
    marks = tuple(MarkFile(directory).new())
    return Start(directory, began_at, ended_at, code, marks, killed_at, has_hung)


def _wait_for(
    instant: Instant,
    process: subprocess.Popen[bytes],
    directory: str,
    began_at: float,
    deadline: float,
) -> bool:
    """Wait until an instant; return whether the process still runs then."""
    file = MarkFile(directory)
    seen = 0
    while process.poll() is None and time.monotonic() < deadline:
        for mark in file.new():
            seen += mark.kind == instant.mark
            if seen == instant.number and mark.kind == instant.mark:
                return _still_runs_at(mark.t + instant.after_s, process)
        is_next = seen == instant.number - 1
        is_soon = time.monotonic() - began_at > 0.5 * (instant.at_s - instant.after_s)
        time.sleep(_NEAR_S if is_next and is_soon else _FAR_S)
    return False


def _still_runs_at(moment: float, process: subprocess.Popen[bytes]) -> bool:
    left = moment - time.monotonic()
    if left > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(left)
    return process.poll() is None


def kill_group(pid: int) -> None:
    """Kill a process and its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _left_behind(directory: str) -> Iterator[int]:
    """Yield processes with this start in their environment: workers that left the group."""
    wanted = f"{VARIABLE}={directory}".encode()
    try:
        names = os.listdir("/proc")
    except OSError:  # not on Linux
        return
    for name in filter(str.isdecimal, names):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                yield int(name)


def last_lines(directory: str, most: int = 15) -> str:
    """Return the end of what a start has printed."""
    try:
        with open(os.path.join(directory, OUTPUT), "rb") as file:
            file.seek(max(os.path.getsize(file.name) - 8192, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-most:])
