"""What a start of the script has noted: marks, one line of JSON each, and what they say together.

A mark keeps its line and reads it again when it is asked for: the values of every step of a long
run would not fit into memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

NAME = "marks.jsonl"
Place = tuple[int, int, int]  # of a step: indices of the fit, the epoch and the batch


@dataclass(frozen=True, slots=True)
class Mark:
    """One line.

    Attributes:
        kind: What happened: "step", "save_begin", ...
        t: When, in seconds of the system's monotonic clock.
        pid: In which process.
        place: Indices of the fit, the epoch and the batch, each -1 if the mark has none.
        line: The whole of it.
    """

    kind: str
    t: float
    pid: int = 0
    place: Place = (-1, -1, -1)
    line: bytes = b"{}"

    @property
    def data(self) -> dict[str, Any]:
        """Return all that it says."""
        data: dict[str, Any] = json.loads(self.line)
        return data


def mark_of(line: bytes) -> Mark | None:
    """Return the mark in a line; None if a kill has torn it, or it is something else.

    Example:
        >>> mark_of(b'{"t": 1.5, "pid": 7, "mark": "epoch_begin", "fit": 0, "epoch": 2}').place
        (0, 2, -1)
        >>> mark_of(b'{"t": 1.5, "pi') is None
        True
    """
    try:
        data = json.loads(line)
        place = tuple(int(data.get(name, -1)) for name in ("fit", "epoch", "batch"))
        fit, epoch, batch = place
        mark = Mark(data["mark"], float(data["t"]), int(data["pid"]), (fit, epoch, batch), line)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return mark if isinstance(mark.kind, str) else None


class MarkFile:
    """Reads the marks of a start while they are written.

    Args:
        directory: Where the start writes them.
    """

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, NAME)
        self._position = 0
        self._rest = b""

    def new(self) -> list[Mark]:
        """Return the marks that were added since the last call."""
        try:
            with open(self._path, "rb", buffering=0) as file:
                file.seek(self._position)
                data = file.readall() or b""
        except FileNotFoundError:
            return []
        self._position += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [mark for mark in map(mark_of, lines) if mark is not None]


def read(directory: str) -> list[Mark]:
    """Return all marks of a start."""
    return MarkFile(directory).new()


@dataclass(frozen=True, slots=True)
class Start:
    """One start of the script.

    Attributes:
        directory: Where its marks, arrays and output are.
        began_at: When it was started, in seconds of the monotonic clock.
        ended_at: When it had ended.
        code: Its exit code, negative for the signal that ended it.
        marks: What it has noted.
        killed_at: When it was killed on purpose; None if it ended by itself.
        has_hung: Whether it was killed because it ran too long.
    """

    directory: str
    began_at: float
    ended_at: float
    code: int
    marks: tuple[Mark, ...] = ()
    killed_at: float | None = None
    has_hung: bool = False

    @property
    def seconds(self) -> float:
        """Return how long it ran."""
        return self.ended_at - self.began_at

    def of(self, kind: str) -> list[Mark]:
        """Return its marks of one kind."""
        return [mark for mark in self.marks if mark.kind == kind]

    def first(self, kind: str) -> Mark | None:
        """Return its first mark of a kind."""
        return next((mark for mark in self.marks if mark.kind == kind), None)


@dataclass(frozen=True, slots=True)
class FitEnd:
    """What one `fit` ended with.

    Attributes:
        data: What its mark says.
        arrays: Path of the file with the values.
    """

    data: Mapping[str, Any]
    arrays: str | None = None

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """Return the values, by part and name."""
        parts = self.data.get("parts")
        return {k: v for k, v in parts.items() if isinstance(v, dict)} if parts else {}


@dataclass(frozen=True, slots=True)
class Training:
    """The starts of the script in one scratch directory, until it ended.

    Attributes:
        name: What people call it: "whole run 1", "kill 2".
        work: Its current directory.
        outside: Where the callbacks' absolute paths and URLs lead to.
        starts: Its starts.
        copied: Size and time of the files that were there before, by relative path.
        in_place: Whether `work` is the user's directory, which holds more than this training.
    """

    name: str
    work: str
    outside: str
    starts: tuple[Start, ...] = ()
    copied: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    in_place: bool = False

    @property
    def marks(self) -> Iterable[Mark]:
        """Return the marks of all starts."""
        return (mark for start in self.starts for mark in start.marks)

    def steps(self) -> dict[Place, Mark]:
        """Return the steps that count, by place and in order: of two the one made later."""
        steps = {mark.place: mark for mark in self.marks if mark.kind == "step"}
        return dict(sorted(steps.items()))

    def begins(self) -> dict[int, Mark]:
        """Return how each fit began, by its number: the values before its first step."""
        return {mark.place[0]: mark for mark in self.marks if mark.kind == "fit_begin"}

    def ends(self) -> dict[int, FitEnd]:
        """Return what each fit ended with, by its number.

        A process that finds a fit finished ends it without a step; then what the earlier one has
        ended with counts.
        """
        ends: dict[int, FitEnd] = {}
        for start in self.starts:
            trained = {mark.place[0] for mark in start.of("step")}
            for mark in start.of("fit_end"):
                number = mark.place[0]
                if number in trained or number not in ends:
                    ends[number] = _end_of(mark, start.directory)
        return ends

    def said(self) -> list[str]:
        """Return what was warned of, each once."""
        texts = (str(mark.data.get("text")) for mark in self.marks if mark.kind == "say")
        return list(dict.fromkeys(texts))


def _end_of(mark: Mark, directory: str) -> FitEnd:
    data = mark.data
    name = data.get("arrays")
    return FitEnd(data, os.path.join(directory, os.path.basename(name)) if name else None)
