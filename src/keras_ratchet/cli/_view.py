"""What `ratchet watch` shows of a run, as data: read from the directory, never guessed."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from keras_ratchet._storage import anywhere
from keras_ratchet._storage.atomic import DRAFT_PREFIX, LEFTOVER
from keras_ratchet._storage.journal_tail import Tail
from keras_ratchet._storage.lock_state import LockState, lock_states
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet.cli import _select
from keras_ratchet.errors import LoadError
from keras_ratchet.following import RunState
from keras_ratchet.plots._runs import RunHistory, last_run
from keras_ratchet.policy.retention import ranking_of
from keras_ratchet.types import CheckpointInfo

Event = Mapping[str, Any]
_MOST_EVENTS = 100_000
_MOST_PLANNED = 10**9
_PACE_EPOCHS = 10  # so many of the last ones say how long an epoch takes


@dataclass(frozen=True, slots=True)
class Draft:
    """What is being written.

    Attributes:
        name: Of the checkpoint that it becomes.
        size_bytes: How much of it is there.
        written_at: When something was last added to it, in seconds since 1970.
    """

    name: str
    size_bytes: int
    written_at: float


@dataclass(frozen=True, slots=True)
class View:
    """A run at one moment.

    Attributes:
        directory: Where it saves.
        at_s: When that was, in seconds since 1970.
        state: "training", "ended", "interrupted" (a restart goes on), "killed" (its locks name a
            process that is gone), "waiting" (nothing has begun), or "unknown" where locks do not
            tell whether it is still alive.
        why: Why it has ended or was interrupted; "" if that is not known.
        holders: The locks that a process holds, or held when it was killed.
        epoch: How many epochs are done.
        epochs: How many were asked for; None if that is not known.
        epoch_s: Median of the last epochs' lengths in seconds; None before the second one.
        eta_s: Seconds until the last epoch ends at that pace; None if that is not known. A rule
            that stops earlier is not foreseen: the journal has no state of it.
        history: The metrics of all epochs.
        metric: Name of the metric that ranks the checkpoints; "" if none does.
        best: The best checkpoint.
        since_best: How many epochs ago the metric was best.
        last: The newest checkpoint.
        last_event: Its `save` in the journal.
        drafts: What is being written.
        decisions: The last events other than epochs, oldest first.
    """

    directory: str
    at_s: float
    state: str = "waiting"
    why: str = ""
    holders: tuple[LockState, ...] = ()
    epoch: int = 0
    epochs: int | None = None
    epoch_s: float | None = None
    eta_s: float | None = None
    history: RunHistory = field(default_factory=lambda: RunHistory({}))
    metric: str = ""
    best: CheckpointInfo | None = None
    since_best: int | None = None
    last: CheckpointInfo | None = None
    last_event: Event = field(default_factory=dict)
    drafts: tuple[Draft, ...] = ()
    decisions: tuple[Event, ...] = ()


class Watcher:
    """Looks at a directory again and again.

    Args:
        directory: The directory, which need not exist yet; or a URL.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._is_url = is_url(directory)
        self._tail = None if self._is_url else Tail(directory, from_start=True)
        self._events: list[Event] = []

    def new_events(self) -> list[Event]:
        """Return the events since the last call, oldest first."""
        if self._tail is not None:
            new: Sequence[Event] = self._tail.new()
        else:
            new = anywhere.events(self.directory)[len(self._events) :]
        self._events = [*self._events, *new][-_MOST_EVENTS:]
        return list(new)

    def view(self) -> View:
        """Return the run as it is now, with the events that `new_events` has returned."""
        now, events, found = time.time(), self._events, self._listed()
        holders = () if self._is_url else tuple(lock_states(self.directory))
        state, why = state_of(events, holders, has_any=bool(found))
        history = _history(events)
        epoch = max(history.metrics, default=0)
        epochs, pace = _planned(events), _pace(events)
        best, metric = _best(found)
        last = max(found, key=lambda info: info.saved_at, default=None)
        return View(
            directory=self.directory,
            at_s=now,
            state=state,
            why=why,
            holders=tuple(h for h in holders if h.held or h.is_of_a_killed_process),
            epoch=epoch,
            epochs=epochs,
            epoch_s=pace,
            eta_s=_eta(events, epoch, epochs, pace, now) if state == "training" else None,
            history=history,
            metric=metric,
            best=best,
            since_best=_since_best(history, metric),
            last=last,
            last_event=_save_of(events, last),
            drafts=() if self._is_url else tuple(_drafts(self.directory)),
            decisions=tuple(event for event in events if event["event"] != "epoch"),
        )

    def _listed(self) -> list[CheckpointInfo]:
        if not self._is_url and not os.path.isdir(self.directory):
            return []
        found = anywhere.checkpoints(self.directory)
        return [info for info in found if info.has_manifest]


def state_of(events: Sequence[Event], locks: Sequence[LockState], has_any: bool) -> tuple[str, str]:
    """Return in which state a run is, and why."""
    run = RunState()
    for event in events:
        run.add(event)
    if any(lock.held for lock in locks):
        return "training", ""
    if run.ended:
        return "ended", _last(events, ("stop", "end")).get("reason", "")
    if run.interrupted:
        return "interrupted", run.interrupted
    if any(lock.is_of_a_killed_process for lock in locks):
        return "killed", "its process is gone and had no time to say why"
    if not events and not has_any:
        return "waiting", ""
    return ("unknown", "") if not locks or any(k.held is None for k in locks) else ("ended", "")


def _history(events: Sequence[Event]) -> RunHistory:
    try:
        return last_run(events)
    except LoadError:  # there is no epoch yet
        return RunHistory({})


def _last(events: Sequence[Event], kinds: Sequence[str]) -> Event:
    return next((event for event in reversed(events) if event["event"] in kinds), {})


def _planned(events: Sequence[Event]) -> int | None:
    """Return how many epochs the newest run was asked for."""
    epochs = _last(events, ("begin",)).get("epochs")
    return epochs if isinstance(epochs, int) and 0 < epochs < _MOST_PLANNED else None


def _pace(events: Sequence[Event]) -> float | None:
    """Return the median length of the last epochs since training last began, in seconds."""
    ends: dict[Any, float] = {}
    for event in reversed(events):
        if event["event"] == "begin" or len(ends) > _PACE_EPOCHS:
            break
        at = event.get("time")
        if event["event"] == "epoch" and isinstance(at, int | float):
            ends[event.get("epoch")] = float(at)  # of several callbacks the first to tell
    times = sorted(ends.values())
    steps = [after - before for before, after in pairwise(times)]
    return statistics.median(steps) if steps else None


def _eta(
    events: Sequence[Event], epoch: int, epochs: int | None, pace: float | None, now: float
) -> float | None:
    """Return in how many seconds the last epoch ends, at this pace."""
    at = _last(events, ("epoch",)).get("time")
    if epochs is None or pace is None or not isinstance(at, int | float):
        return None
    left = (epochs - epoch) * pace - (now - at)
    return max(left, 0.0) if math.isfinite(left) else None


def _best(found: Sequence[CheckpointInfo]) -> tuple[CheckpointInfo | None, str]:
    ranking = ranking_of(found)
    if not ranking.metrics:
        return None, ""
    best = _select.best_first(found, ranking)
    return (best[0] if best else None), ranking.metrics[0][0]


def _since_best(history: RunHistory, metric: str) -> int | None:
    best = history.best(metric) if metric else None
    return None if best is None else max(history.metrics) - best


def _save_of(events: Sequence[Event], info: CheckpointInfo | None) -> Event:
    if info is None:
        return {}
    saves = (e for e in reversed(events) if e["event"] == "save" and e.get("name") == info.name)
    return next(saves, {})


def _drafts(directory: str) -> list[Draft]:
    """Return the drafts in a directory, by name."""
    entries: list[os.DirEntry[str]] = []
    with contextlib.suppress(OSError):
        entries = [e for e in os.scandir(directory) if e.name.startswith(DRAFT_PREFIX)]
    found = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        match = LEFTOVER.fullmatch(entry.name)
        if match:
            with contextlib.suppress(OSError):  # committed or removed meanwhile
                found.append(_draft(match["name"], entry))
    return found


def _draft(name: str, entry: os.DirEntry[str]) -> Draft:
    inside = list(os.scandir(entry.path)) if entry.is_dir(follow_symlinks=False) else [entry]
    states = [each.stat(follow_symlinks=False) for each in inside]
    newest = max((state.st_mtime for state in states), default=entry.stat().st_mtime)
    return Draft(name, sum(state.st_size for state in states), newest)
