"""What we say: warnings that name the line of the user's program, and who of several speaks."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable
from types import FrameType

Said = tuple[str, int, str]  # "log", "warn" or "print"; the level; the text
_log = logging.getLogger("keras_ratchet")

# What stands between a `fit` and our code: a line of theirs tells nobody where to look.
_BETWEEN = {"keras", "keras_ratchet", "contextlib", "functools", "tensorflow", "torch", "jax"}


def warn(message: str) -> None:
    """Give a UserWarning that names the first line outside Keras, its backends and this package.

    Args:
        message: What happened, to what, and the cure.
    """
    if not speech.is_heard("warn", logging.WARNING, message):
        return
    frame = _of_the_user(sys._getframe(1))
    warnings.warn_explicit(
        message,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__", "<unknown>"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _of_the_user(frame: FrameType) -> FrameType:
    while _is_between(frame) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_between(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _BETWEEN


class _Speech(logging.Filter):
    """What a process of several says in a run: rank 0 at once; the others through rank 0.

    All ranks run the same script, so what rank 0 has said by the time at which the ranks next agree
    on something is not said again. The rest rank 0 then says with the rank's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rank: int | None = None
        self._said: set[str] = set()
        self._unsaid: list[Said] = []

    def start(self, rank: int) -> None:
        """Start a run, in a process of several."""
        if self._rank is None:
            self._rank = rank
            self._said, self._unsaid = set(), []
            _log.addFilter(self)

    def end(self) -> None:
        """End it: from now on this process speaks for itself."""
        rank, self._rank = self._rank, None
        _log.removeFilter(self)
        for said in self.unsaid():
            _say(f"rank {rank}", said)

    def speak_in_child(self) -> None:
        """Let a child made by `fork`, which is no rank, speak for itself."""
        self._unsaid = []  # the rank itself says it
        self.end()

    def is_heard(self, kind: str, level: int, text: str) -> bool:
        """Return whether to say something here and now; else it is kept for rank 0."""
        if self._rank is None:
            return True
        if self._rank == 0:
            self._said.add(text)
            return True
        self._unsaid.append((kind, level, text))
        return False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a line of the log."""
        if record.levelno >= logging.CRITICAL:  # of this process, which may be about to end
            return True
        return self.is_heard("log", record.levelno, record.getMessage())

    def unsaid(self) -> list[Said]:
        """Return, once, what this rank has kept to itself."""
        unsaid, self._unsaid = self._unsaid, []
        return unsaid

    def keep(self, unsaid: list[Said]) -> None:
        """Take back what `unsaid` has returned: it did not come to rank 0."""
        self._unsaid = [*unsaid, *self._unsaid]

    def relay(self, everywhere: Iterable[list[Said]]) -> None:
        """Say, on rank 0, what other ranks have kept and rank 0 has not said."""
        told: dict[Said, list[int]] = {}
        for rank, unsaid in enumerate(everywhere):
            for said in dict.fromkeys(unsaid):
                if said[2] not in self._said:
                    told.setdefault(said, []).append(rank)
        for said, ranks in told.items():
            names = ", ".join(map(str, ranks))
            _say(f"rank {names}" if len(ranks) == 1 else f"ranks {names}", said)


def _say(who: str, said: Said) -> None:
    kind, level, text = said
    if kind == "log":
        _log.log(level, "%s: %s", who, text)
    elif kind == "print":
        sys.stdout.write(f"{who}: {text.lstrip()}\n")
    else:
        warn(f"{who}: {text}")


speech = _Speech()  # the process's, as is its logger
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=speech.speak_in_child)
