"""What saves cost in a run, and what a kill has lost."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator

from keras_ratchet._doctor import kills
from keras_ratchet._doctor.marks import Start, Training
from keras_ratchet._doctor.outcome import SaveCost
from keras_ratchet._storage import journal
from keras_ratchet._storage.single_file import METADATA


def cost_of_saves(training: Training) -> SaveCost:
    """Return what saves cost in a whole run.

    Journals know how long training waited; but the one of a run's snapshots is deleted with them
    when the run has ended. Then the marks count, from begin to commit.
    """
    start = training.starts[-1]
    blocked = list(_blocked(training))
    marked = [s.length_s for s in kills.spans_of(start.marks, start.began_at)["in a save"]]
    times = blocked if len(blocked) >= len(marked) else marked
    if not times:
        return SaveCost()
    in_fit = sum(_in_fit(start))
    share = sum(times) / in_fit if in_fit > 0 else 0.0
    return SaveCost(len(times), statistics.median(times), max(times), share, times is blocked)


def _blocked(training: Training) -> Iterator[float]:
    """Yield how long training waited for each save, as the journals say."""
    roots = [training.outside] if training.in_place else [training.work, training.outside]
    found = [place for root in roots for place, inside, _ in os.walk(root) if METADATA in inside]
    for event in (event for place in found for event in journal.read(place)):
        if event["event"] == "save" and isinstance(event.get("blocked_s"), float | int):
            yield float(event["blocked_s"])


def _in_fit(start: Start) -> Iterator[float]:
    """Yield how long each fit took, from its first epoch to its end."""
    began = {mark.place[0]: mark.t for mark in start.of("fit_begin")}
    for mark in start.of("fit_end"):
        if mark.place[0] in began:
            yield mark.t - began[mark.place[0]]


def lost_by_kill(training: Training) -> tuple[int, float]:
    """Return how many steps were trained again after a kill, and how long these had taken."""
    first, *rest = training.starts
    again = {mark.place for start in rest for mark in start.of("step")}
    since: float | None = None
    before = first.began_at
    steps = 0
    for mark in first.marks:
        if mark.kind == "step" and mark.place in again:
            steps += 1
            since = before if since is None else since
        if mark.kind in ("fit_begin", "epoch_begin", "step"):
            before = mark.t
    return steps, 0.0 if since is None else max((first.killed_at or since) - since, 0.0)
