"""Which directories below a path are runs, and which belong to one."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import Any

from keras_ratchet._storage import anywhere
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet.errors import LoadError
from keras_ratchet.types import CheckpointInfo

_DEEPEST = 3


@dataclass(frozen=True, slots=True)
class Found:
    """A directory of a run, and those that belong to it.

    Attributes:
        directory: Where it saves its files; or a URL.
        parts: Directories of its snapshots, or of what has started it.
    """

    directory: str
    parts: tuple[str, ...] = ()


class Reader:
    """Reads directories, each of them once."""

    def __init__(self) -> None:
        self._events: dict[str, list[dict[str, Any]]] = {}
        self._checkpoints: dict[str, list[CheckpointInfo]] = {}

    def events(self, directory: str) -> list[dict[str, Any]]:
        """Return the events of a directory's journal, oldest first."""
        if directory not in self._events:
            self._events[directory] = anywhere.events(directory)
        return self._events[directory]

    def checkpoints(self, directory: str) -> list[CheckpointInfo]:
        """Return the checkpoints of a directory, oldest first; none if it cannot be listed."""
        if directory not in self._checkpoints:
            self._checkpoints[directory] = []
            with contextlib.suppress(LoadError):
                self._checkpoints[directory] = anywhere.checkpoints(directory)
        return self._checkpoints[directory]

    def is_known(self, directory: str) -> bool:
        """Return whether a directory holds checkpoints, or ever did."""
        return bool(self.checkpoints(directory) or self.events(directory))

    def is_run(self, directory: str) -> bool:
        """Return whether a training began here or there are files of models, not only snapshots."""
        if any(event["event"] in ("begin", "epoch") for event in self.events(directory)):
            return True
        return any(not info.is_directory for info in self.checkpoints(directory))


def runs_in(directory: str, reader: Reader) -> list[Found]:
    """Return the runs in a directory and below it, by path.

    A directory in which no training began and that has no files of models, such as that of
    `BackupAndRestore`, belongs to the run above it, or else to the only run beside it.

    Raises:
        LoadError: If there is none.
    """
    if is_url(directory):
        known = [directory] if reader.is_known(directory) else []
    else:
        known = _known(os.path.normpath(directory), reader, _DEEPEST)
    if not known:
        raise LoadError(
            f"there is nothing to report: no run has saved in {directory!r}, nor in a directory "
            "below it.",
            see="no-history",
        )
    runs = [each for each in known if reader.is_run(each)]
    parts: dict[str, list[str]] = {each: [] for each in runs}
    for each in known:
        if each in runs:
            continue
        owner = _owner(each, runs)
        if owner is None:
            parts[each] = []
        else:
            parts[owner].append(each)
    return [Found(each, tuple(parts[each])) for each in known if each in parts]


def _known(directory: str, reader: Reader, deepest: int) -> list[str]:
    """Return the directory and those below it that hold checkpoints or a journal."""
    found = [directory] if reader.is_known(directory) else []
    below: list[str] = []
    with contextlib.suppress(OSError):
        entries = [e for e in os.scandir(directory) if e.is_dir(follow_symlinks=False)]
        shown = (entry.path for entry in entries if not entry.name.startswith("."))
        below = sorted(shown, key=_by_number)
    for path in below if deepest else ():
        if anywhere.is_directory(path):  # not a snapshot
            found += _known(path, reader, deepest - 1)
    return found


def _by_number(path: str) -> list[tuple[int, str]]:
    """Return a key that puts fold-2 before fold-10."""
    pieces = re.split(r"([0-9]+)", path)
    return [(int(piece) if piece.isdecimal() else -1, piece) for piece in pieces]


def _owner(part: str, runs: list[str]) -> str | None:
    """Return the run that a directory which is none itself belongs to, or None."""
    parent = os.path.dirname(part)
    above = [run for run in runs if part.startswith(os.path.join(run, ""))]
    beside = [run for run in runs if os.path.dirname(run) == parent]
    if above:
        return max(above, key=len)
    return beside[0] if len(beside) == 1 else None


def labels(directories: list[str]) -> list[str]:
    """Return the shortest ends of paths that tell them apart, at least their last names.

    Example:
        >>> labels(["runs/a/fold", "runs/b/fold", "runs/c"])
        ['a/fold', 'b/fold', 'c']
    """
    ways = [_way(path) for path in directories]
    lengths = [1] * len(ways)
    while True:
        ends = ["/".join(way[-length:]) for way, length in zip(ways, lengths, strict=True)]
        same = [
            n for n, end in enumerate(ends) if ends.count(end) > 1 and lengths[n] < len(ways[n])
        ]
        if not same:
            return ends
        for number in same:
            lengths[number] += 1


def _way(path: str) -> list[str]:
    whole = path if is_url(path) else os.path.abspath(path)
    return [part for part in whole.replace(os.sep, "/").split("/") if part] or [whole]
