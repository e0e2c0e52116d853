"""The processes below one: found and ended, in whatever session they are.

torchrun starts its workers in sessions of their own, so a signal to a process group does not reach
them. On Linux orphans go to the nearest ancestor that asks for them (`prctl`), so that all
processes that a script has started stay below its keeper. Elsewhere only the process group of the
script is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_POLL_S = 0.02
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def adopt_orphans() -> None:
    """Become the parent of what processes below this one leave behind (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(parent: int) -> None:
    """Have this process killed when its parent dies (Linux); called between fork and exec.

    Args:
        parent: The parent, which may have died already.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def below(root: int) -> list[int]:
    """Return the processes below one that have not ended, parents first (Linux)."""
    children: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for name in os.listdir("/proc") if _libc is not None else ():
        found = _stat(int(name)) if name.isdigit() else None
        if found is not None:
            states[int(name)] = found[0]
            children.setdefault(found[1], []).append(int(name))
    order, queue = [], list(children.get(root, ()))
    while queue:
        pid = queue.pop(0)
        order.append(pid)
        queue += children.get(pid, ())
    return [pid for pid in order if states[pid] not in "ZX"]


def _stat(pid: int) -> tuple[str, int] | None:
    """Return the state of a process and its parent; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def is_there(pid: int) -> bool:
    """Return whether a process has not ended."""
    if _libc is not None:
        found = _stat(pid)
        return found is not None and found[0] not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped, by SIGSTOP or a debugger (Linux)."""
    found = _stat(pid) if _libc is not None else None
    return found is not None and found[0] in "Tt"


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to processes that may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def send_below(root: int, group: int, number: int) -> None:
    """Send a signal to all processes below one; where they cannot be found, to a group.

    Args:
        root: The process above them.
        group: The process group of the script.
        number: The signal.
    """
    if _libc is not None:
        send(below(root), number)
        return
    if not group:  # it was never started, and 0 would be our own
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def reap() -> dict[int, int]:
    """Return the exit codes of children that have ended, by process."""
    codes = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            codes[pid] = os.waitstatus_to_exitcode(status)
    return codes


def end_below(
    root: int, group: int, grace_s: float, strangers: frozenset[int] = frozenset()
) -> bool:
    """End all processes below this one: SIGTERM first, SIGKILL after some seconds.

    Args:
        root: This process.
        group: The process group of the script.
        grace_s: How many; 0 for SIGKILL at once.
        strangers: Processes below this one that are left alone.

    Returns:
        Whether there were any.
    """
    reap()
    if _libc is None:
        send_below(root, group, signal.SIGKILL)
        return False
    found = left = [pid for pid in below(root) if pid not in strangers]
    if grace_s:
        send(left, signal.SIGTERM)
    until = time.monotonic() + grace_s
    while left:
        if time.monotonic() >= until:  # again and again: a process may be forking
            send(left, signal.SIGKILL)
        reap()
        time.sleep(_POLL_S)
        left = [pid for pid in below(root) if pid not in strangers]
    return bool(found)
