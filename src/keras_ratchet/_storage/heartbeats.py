"""Heartbeats: the files in which the processes of a run note that it moves on.

One file for each process, in a directory of the process that watches them. A beat replaces the
file whole, without a sync: nothing is restored from it. Where it cannot be written, since the disk
is full, it still gets a new time of change, which is a sign of life too.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from keras_ratchet._storage import disk

VARIABLE = "RATCHET_RUN"  # in the environment of a script that is watched: the directory
_PREFIX, _SUFFIX = "beat-", ".json"
STATES = ("begun", "training", "ended")


@dataclass(frozen=True, slots=True)
class Beat:
    """What a process has noted last.

    Attributes:
        pid: The process.
        state: "begun" before the first batch of a `fit`, then "training"; "ended" after it.
        fit: The number of this `fit` in the process, from 1.
        epoch: Completed epochs.
        batch: Completed batches of the epoch after those.
        resumed: Epochs and batches of the snapshot that the `fit` has resumed from; None without.
        snapshots: Whether it saves any.
        directories: Where it saves: there are the journals.
        stacks: The signal at which it prints the stacks of its threads; None if there is none.
        changed_ns: When it was written, as the file system says.
    """

    pid: int
    state: str = "begun"
    fit: int = 1
    epoch: int = 0
    batch: int = 0
    resumed: tuple[int, int] | None = None
    snapshots: bool = False
    directories: tuple[str, ...] = ()
    stacks: int | None = None
    changed_ns: int = field(default=0, compare=False)


def write(directory: str, beat: Beat) -> None:
    """Note a beat; never raises, since training matters more."""
    path = os.path.join(directory, f"{_PREFIX}{beat.pid}{_SUFFIX}")
    draft = f"{path}.draft"
    try:
        fd = disk.current.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            disk.current.write(fd, memoryview(json.dumps(asdict(beat)).encode()))
        finally:
            os.close(fd)
        disk.current.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.utime(path)


def read_all(directory: str) -> list[Beat]:
    """Return the last beat of each process, the one that was written last at the end."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                found.append(_read(entry.path))
    return sorted(filter(None, found), key=lambda beat: beat.changed_ns)


def _read(path: str) -> Beat | None:
    """Return what is in a file; None if it is gone, or not ours."""
    try:
        with open(path, "rb") as file:
            changed_ns = os.fstat(file.fileno()).st_mtime_ns
            return _from(json.load(file), changed_ns)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _from(data: dict[str, Any], changed_ns: int) -> Beat:
    stacks, resumed = data["stacks"], data["resumed"]
    if data["state"] not in STATES:
        raise ValueError(f"no state: {data['state']!r}")
    return Beat(
        pid=int(data["pid"]),
        state=data["state"],
        fit=int(data["fit"]),
        epoch=int(data["epoch"]),
        batch=int(data["batch"]),
        resumed=None if resumed is None else (int(resumed[0]), int(resumed[1])),
        snapshots=bool(data["snapshots"]),
        directories=tuple(map(str, data["directories"])),
        stacks=None if stacks is None else int(stacks),
        changed_ns=changed_ns,
    )
