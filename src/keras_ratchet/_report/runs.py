"""What is known about the runs of a directory."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_ratchet._numbers import count, number
from keras_ratchet._report.words import Event, clean, duration
from keras_ratchet.plots._runs import RunHistory, all_runs
from keras_ratchet.types import CheckpointInfo

_AT_ANY_TIME = ("drop", "soup", "check_load", "upload", "upload_error", "branch")  # after it, too


@dataclass(frozen=True, slots=True)
class Place:
    """What was read of one directory.

    Attributes:
        directory: The directory or URL, as it was given.
        label: What it is called on the page.
        events: The events of its journal, and of the directories that belong to it.
        checkpoints: Its checkpoints, oldest first.
        marks: Of each checkpoint, by path: "best", "last", "pinned", "earlier run".
        verified: The status of each checkpoint that was verified, by path.
        state: What its newest run does: "training", "ended", "interrupted", "killed", "waiting",
            "unknown".
        why: Why it is in that state; "" if that is not known.
        holders: The processes that hold its locks, or held them when they were killed.
        torn_lines: How many lines of its journal cannot be read.
    """

    directory: str
    label: str
    events: Sequence[Event] = ()
    checkpoints: Sequence[CheckpointInfo] = ()
    marks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    verified: Mapping[str, str] = field(default_factory=dict)
    state: str = "unknown"
    why: str = ""
    holders: Sequence[str] = ()
    torn_lines: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        name: What it is called on the page.
        place: Where it saved.
        history: Its epochs.
        events: What happened in it, oldest first.
        is_newest: Whether no run saved there later.
        has_journal: Whether a journal tells of its epochs; if not, checkpoints do.
    """

    name: str
    place: Place
    history: RunHistory
    events: tuple[Event, ...] = ()
    is_newest: bool = True
    has_journal: bool = True

    @property
    def metric(self) -> str | None:
        """The metric that says which epoch is best, or None."""
        names = {name for values in self.history.metrics.values() for name in values}
        wanted = [*(name for name, _ in self.history.ranking), "val_loss", "loss"]
        return next((name for name in wanted if name in names), None)

    @property
    def best(self) -> tuple[int, float] | None:
        """The best epoch and its value of the metric."""
        epoch = self.history.best(self.metric) if self.metric else None
        if epoch is None or self.metric is None:
            return None
        value = self.history.curve(self.metric)[epoch]
        return (epoch, value) if math.isfinite(value) else None


def runs_of(place: Place) -> list[Run]:
    """Return the runs of a directory, oldest first; at least one."""
    found = all_runs(place.events)
    if not found:
        history = _of_checkpoints(place.checkpoints)
        begun = any(event["event"] == "begin" for event in place.events)
        return [Run(clean(place.label), place, history, tuple(place.events), has_journal=begun)]
    names = _names(place.label, found)
    events = _shared_out(place.events, found)
    newest = len(found) - 1
    return [
        Run(names[n], place, history, events[n], n == newest) for n, history in enumerate(found)
    ]


def _of_checkpoints(checkpoints: Iterable[CheckpointInfo]) -> RunHistory:
    """Return the metrics after whole epochs that manifests tell of."""
    whole = (c for c in checkpoints if c.has_manifest and not c.position.batch)
    known = sorted(whole, key=lambda c: c.saved_at)
    metrics = {c.position.epoch: dict(c.metrics) for c in known if c.metrics}
    ranking = tuple(dict.fromkeys(pair for c in reversed(known) for pair in c.ranking))
    return RunHistory(dict(sorted(metrics.items())), ranking)


def _names(label: str, found: Sequence[RunHistory]) -> list[str]:
    """Return names for the runs of one directory: by the files that they save, or by number."""
    label = clean(label)
    if len(found) == 1:
        return [label]
    written = [{str(e.get("series") or "") for e in history.events} - {""} for history in found]
    series = [min(names, default="") for names in written]
    if len(set(series)) == len(series) and all(series):
        return [f"{label} \u00b7 {clean(name)}" for name in series]
    return [f"{label} \u00b7 run {n}" for n in range(1, len(found) + 1)]


def _shared_out(events: Iterable[Event], found: Sequence[RunHistory]) -> list[tuple[Event, ...]]:
    """Return the events of each run; those of no run go to the one that began before them."""
    owner = {id(event): n for n, history in enumerate(found) for event in history.events}
    starts = [time_of(history.events[0]) for history in found]
    shares: list[list[Event]] = [[] for _ in found]
    for event in events:
        begun = [n for n, start in enumerate(starts) if start <= time_of(event)]
        shares[owner.get(id(event), max(begun, default=0))].append(event)
    return [tuple(sorted(share, key=time_of)) for share in shares]


def time_of(event: Event) -> float:
    """Return when an event happened, in seconds since 1970; 0.0 if that is unknown."""
    at = event.get("time")
    return float(at) if isinstance(at, int | float) and math.isfinite(at) else 0.0


def save_events(run: Run) -> list[Event]:
    """Return the saves of a run, oldest first."""
    return [event for event in run.events if event["event"] == "save"]


def seconds(event: Event, key: str) -> float | None:
    """Return a length of time that an event has, or None."""
    value = event.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < math.inf else None


def training_s(run: Run) -> float:
    """Return how long a run has trained, without the time between an end and its resume."""
    total, before = 0.0, 0.0
    for event in run.events:
        now = time_of(event)
        if event["event"] in _AT_ANY_TIME or not now:
            continue
        if before and now > before and not _is_start(event):
            total += now - before
        before = now
    return total


def _is_start(event: Event) -> bool:
    """Return whether nothing was trained just before an event."""
    if event["event"] == "save":  # a snapshot of the state before the first batch
        return event.get("epoch") == 0 and not event.get("batch")
    return event["event"] in ("begin", "resume", "start")


def outcome(run: Run) -> tuple[str, str]:
    """Return what became of a run, in a sentence, and a color for it."""
    done = _done(run)
    epochs = f"epoch {done}{_planned(run)}"
    stops = [event for event in run.events if event["event"] == "stop"]
    state, why = (run.place.state, run.place.why) if run.is_newest else ("", "")
    if state == "training":
        what = f"{epochs} was done" if done else "no epoch was done yet"
        return f"Still training: {what} when this page was written.", "yellow"
    if not run.has_journal:
        return f"No journal tells of its epochs; {_files(run)}.", "yellow"
    if not done:
        epochs = "the start, before an epoch was done"
    if state == "interrupted":
        return _ended(f"Interrupted after {epochs}", why) + " A restart goes on.", "yellow"
    if state == "killed":
        return f"Killed after {epochs}: its process had no time to say why.", "red"
    if stops and run.history.stop is not None:
        return _ended(f"Stopped after {epochs}", stops[-1].get("reason")), "green"
    ends = any(event["event"] == "end" for event in run.events)
    if ends and done == _asked(run):
        were = "1 epoch was" if done == 1 else f"all {count(done, 'epoch')} were"
        return f"Done: {were} trained.", "green"
    if ends:
        return f"Ended after {epochs}.", "green"
    return f"The journal ends after {epochs}; it does not say why.", "yellow"


def _ended(sentence: str, why: Any) -> str:
    return f"{sentence}: {clean(why).rstrip('.')}." if why else f"{sentence}."


def _done(run: Run) -> int:
    """Return how many epochs are done, without a journal those of the newest checkpoint."""
    found = [info.position.epoch for info in run.place.checkpoints if info.has_manifest]
    return max(run.history.metrics, default=0 if run.has_journal else max(found, default=0))


def _files(run: Run) -> str:
    known = [info for info in run.place.checkpoints if info.has_manifest]
    every = count(len(run.place.checkpoints), "checkpoint")
    if not known:
        return f"{every}, none with a manifest"
    newest = max(known, key=lambda info: info.saved_at)
    return f"{every}, the newest after epoch {newest.position.epoch} ({clean(newest.reason)})"


def _asked(run: Run) -> int | None:
    asked = [event.get("epochs") for event in run.events if event["event"] == "begin"]
    last = asked[-1] if asked else None
    return last if isinstance(last, int) and last > 0 else None


def _planned(run: Run) -> str:
    asked = _asked(run)
    return "" if asked is None else f" of {asked}"


def figures(run: Run) -> list[tuple[str, str, str]]:
    """Return the key figures of a run: label, value, and a remark."""
    found = []
    if run.best is not None:
        epoch, value = run.best
        found.append((f"best {clean(run.metric)}", number(value), f"epoch {epoch}"))
    done, asked = _done(run), _asked(run)
    found.append(("epochs", f"{done:,}", f"of {asked:,} asked for" if asked else ""))
    if trained := training_s(run):
        found.append(("trained for", duration(trained), _turns(run)))
    saves = save_events(run)
    waits = [s for event in saves if (s := seconds(event, "blocked_s")) is not None]
    if saves:
        remark = f"training waited {duration(sum(waits))} in all" if waits else ""
        found.append(("saves", f"{len(saves):,}", remark))
    return found


def _turns(run: Run) -> str:
    """Return how often a run was resumed, rolled back, and had its learning rate cut."""
    turns = run.history.turns
    cuts = [("rollback", len(turns.get("rollback", ())))]
    cuts += [("rate cut", len(turns.get("reduce_lr", ()))), ("resume", len(run.history.resumed))]
    return ", ".join(count(size, noun) for noun, size in cuts if size)


def save_costs(run: Run) -> list[tuple[str, str]]:
    """Return what the saves of a run have cost, as labels and values."""
    saves = save_events(run)
    waits = sorted(s for e in saves if (s := seconds(e, "blocked_s")) is not None)
    written = sorted(s for e in saves if (s := seconds(e, "written_s")) is not None)
    found = []
    if waits:
        longest = f"median {duration(statistics.median(waits))}, longest {duration(waits[-1])}"
        found.append(("Training waited for a save", longest))
        trained = training_s(run)
        percent = 100 * sum(waits) / trained if trained else math.inf
        share = f" ({percent:.2g} % of the training)" if percent < 99.5 else ""
        found.append(("Training waited in all", f"{duration(sum(waits))}{share}"))
    if written:
        longest = f"median {duration(statistics.median(written))}, longest {duration(written[-1])}"
        found.append(("A save was on disk after", longest))
    return found
