"""One run read from the events of a journal: what happened in which epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keras_ratchet.errors import LoadError

Event = Mapping[str, Any]
Turns = Mapping[str, tuple[float, ...]]
TURNS = ("rollback", "reduce_lr")
BELOW = "below"  # a key of events from another directory than that of the run: which one
_MOST_EPOCHS = 10**9
_AT_ONCE = 8  # so many runs at one time are told apart in one directory


@dataclass(frozen=True, slots=True)
class Save:
    """One save.

    Attributes:
        at: Epochs done; between two whole numbers for a save within an epoch.
        stays: Whether the file has been neither replaced nor deleted since.
    """

    at: float
    stays: bool


@dataclass(frozen=True, slots=True)
class Average:
    """An average of weights that was better than the best epoch.

    Attributes:
        metric: By which it was measured.
        value: Of the metric.
        members: How many epochs it is the mean of.
    """

    metric: str
    value: float
    members: int


@dataclass(frozen=True, slots=True)
class RunHistory:
    """What a journal tells of one run.

    Attributes:
        metrics: The metrics after each epoch, counted from 1.
        ranking: Names of the metrics that rank the saves, and their modes.
        saves: What was saved, oldest first.
        stop: Epoch and kind ("patience") of an early stop, or None.
        resumed: The epochs before which the run was resumed.
        turns: By kind of event ("rollback", "reduce_lr"): the epochs done by then, in order;
            between two whole numbers within an epoch.
        average: The average of weights that the run ended with, or None.
        events: What its callbacks wrote down, oldest first.
    """

    metrics: Mapping[int, Mapping[str, float]]
    ranking: tuple[tuple[str, str], ...] = ()
    saves: tuple[Save, ...] = ()
    stop: tuple[int, str] | None = None
    resumed: tuple[int, ...] = ()
    turns: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    average: Average | None = None
    events: tuple[Event, ...] = ()

    def curve(self, metric: str) -> dict[int, float]:
        """Return the values of a metric by epoch, NaN left in."""
        return {e: values[metric] for e, values in self.metrics.items() if metric in values}

    def best(self, metric: str) -> int | None:
        """Return the epoch of a metric's best value, or None if its direction is not known."""
        curve = {e: value for e, value in self.curve(metric).items() if not math.isnan(value)}
        is_loss = metric == "loss" or metric.endswith("_loss")
        mode = dict(self.ranking).get(metric, "min" if is_loss else None)
        if mode is None or not curve:
            return None
        return (min if mode == "min" else max)(curve, key=lambda epoch: curve[epoch])


@dataclass(slots=True)
class _Part:
    """What one callback wrote down of one run."""

    series: str
    events: list[Event] = field(default_factory=list)
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    start: float = 0.0
    end: float = 0.0

    def add(self, event: Event) -> None:
        """Add an event."""
        self.end = _time(event) or self.end
        self.start = self.start or self.end
        self.events.append(event)
        epoch = _epoch(event)
        if event["event"] == "epoch" and epoch is not None:
            self.metrics[epoch] = _numbers(event.get("metrics"))

    @property
    def choices(self) -> int:
        """How often it skipped or deleted; a callback that never does saves every time."""
        return sum(event["event"] in ("skip", "drop") for event in self.events)

    @property
    def is_loose(self) -> bool:
        """Whether it is of no series and tells of no epoch, as what snapshots write down."""
        return not self.series and not self.metrics

    def is_left_by(self, event: Event) -> bool:
        """Return whether an event of the same callback is the first one of another run."""
        return event["event"] == "begin" or (self.is_loose and _is_start(event))


def last_run(events: Iterable[Event]) -> RunHistory:
    """Return the last run of a journal.

    A journal may hold several: each "begin" event starts one. Callbacks that saved in the same
    run tell of the same epochs, and are merged; a run that started after its first epoch is
    joined to the one before.

    Raises:
        LoadError: If the journal has no epoch.
    """
    runs, standing = _begun(events)
    if not runs:
        raise LoadError("there is nothing to draw: the journal has no epochs.", see="no-history")
    return _pop_last(runs, standing)


def all_runs(events: Iterable[Event]) -> list[RunHistory]:
    """Return the runs of a journal that have epochs, oldest first; resumed ones are joined."""
    runs, standing = _begun(events)
    found = []
    while runs:
        found.append(_pop_last(runs, standing))
    return found[::-1]


def _begun(events: Iterable[Event]) -> tuple[list[list[_Part]], set[int]]:
    """Return the parts of each start of a run that has epochs, and the ids of standing saves."""
    events = list(events)
    parts = _parts(events)
    named = _runs(part for part in parts if not part.is_loose)
    runs = [together for together in named if any(part.metrics for part in together)]
    for part in parts if runs else ():
        if part.is_loose:
            _nearest(part, runs).append(part)
    return runs, _standing(events)


def _nearest(part: _Part, runs: Sequence[list[_Part]]) -> list[_Part]:
    """Return the run that started at the time nearest to that at which a part starts."""

    def gap_s(run: list[_Part]) -> float:
        return min(abs(part.start - other.start) for other in run if not other.is_loose)

    return min(runs, key=gap_s)


def _pop_last(runs: list[list[_Part]], standing: set[int]) -> RunHistory:
    """Remove the last run, and those that it has resumed, from a list; return it."""
    last = runs.pop()
    run = _merged(last, standing)
    others = []
    while runs and min(run.metrics) > 1:
        earlier = runs.pop()
        if _series(earlier) & _series(last):
            run = _continued(_merged(earlier, standing), run)
        else:
            others.append(earlier)
    runs.extend(reversed(others))
    return run


def _series(parts: Iterable[_Part]) -> set[str]:
    return {part.series for part in parts if not part.is_loose}


def _runs(parts: Iterable[_Part]) -> list[list[_Part]]:
    """Return the runs, each as what its callbacks wrote down, in the order of their starts."""
    runs: list[list[_Part]] = []
    for part in parts:
        same = [t for t in runs[-_AT_ONCE:] if all(_same_run(part, p) for p in t)]
        if same:
            same[-1].append(part)
        else:
            runs.append([part])
    return runs


def _parts(events: Iterable[Event]) -> list[_Part]:
    """Return what each callback wrote down of each run, in the order of their starts."""
    parts: list[_Part] = []
    current: dict[tuple[str, str], _Part] = {}
    for event in events:
        series = str(event.get("series", ""))
        key = series, str(event.get(BELOW, ""))
        if key not in current or current[key].is_left_by(event):
            current[key] = _Part(series)
            parts.append(current[key])
        current[key].add(event)
    return parts


def _is_start(event: Event) -> bool:
    """Return whether an event of no series is among the first ones of a run, or of a resume."""
    if event["event"] == "save":  # a snapshot of the state before the first batch
        return event.get("epoch") == 0 and not event.get("batch")
    return event["event"] in ("resume", "start")


def _same_run(part: _Part, other: _Part) -> bool:
    """Return whether two callbacks saw one run: at the same time, with equal values."""
    if part.series == other.series or part.start > other.end or other.start > part.end:
        return False
    ours, theirs = part.metrics, other.metrics
    return all(
        repr(ours[epoch][name]) == repr(theirs[epoch][name])
        for epoch in ours.keys() & theirs.keys()
        for name in ours[epoch].keys() & theirs[epoch].keys()
    )


def _merged(parts: Sequence[_Part], standing: set[int]) -> RunHistory:
    """Return one run; the metric of the callback that is the most selective comes first."""
    parts = sorted(parts, key=lambda part: part.choices, reverse=True)
    events = sorted((e for part in parts for e in part.events), key=_time)
    metrics: dict[int, dict[str, float]] = {}
    for epoch, values in (item for part in parts for item in part.metrics.items()):
        metrics.setdefault(epoch, {}).update(values)
    stops = [e for e in events if e["event"] == "stop" and _epoch(e) is not None]
    ranked = [pair for part in parts for e in part.events[::-1] for pair in _ranking(e)]
    return RunHistory(
        metrics=dict(sorted(metrics.items())),
        ranking=tuple(dict.fromkeys(ranked)),
        saves=_saves(events, standing, parts[0].series),
        stop=(stops[-1]["epoch"], str(stops[-1].get("kind", ""))) if stops else None,
        turns={kind: _places(events, kind) for kind in TURNS},
        average=next(filter(None, map(_average, events[::-1])), None),
        events=tuple(events),
    )


def _continued(before: RunHistory, run: RunHistory) -> RunHistory:
    """Return a run with the epochs of the one that it resumed."""
    first = min(run.metrics)
    metrics = {epoch: values for epoch, values in before.metrics.items() if epoch < first}
    if not metrics:
        return run
    saves = [save for save in before.saves if save.at < first]
    return replace(
        run,
        metrics={**metrics, **run.metrics},
        ranking=tuple(dict.fromkeys((*run.ranking, *before.ranking))),
        saves=(*saves, *run.saves),
        turns={kind: _joined(before.turns, run.turns, kind, first) for kind in TURNS},
        resumed=(first, *run.resumed),
        events=(*before.events, *run.events),
    )


def _standing(events: Sequence[Event]) -> set[int]:
    """Return the ids of the saves whose file has been neither replaced nor deleted since."""
    standing: set[int] = set()
    gone: set[tuple[str, str]] = set()
    for event in sorted(events, key=_time)[::-1]:
        name = str(event.get(BELOW, "")), str(event.get("name", ""))
        if event["event"] == "save" and name not in gone:
            standing.add(id(event))
        if event["event"] in ("save", "drop"):
            gone.add(name)
    return standing


def _saves(events: Sequence[Event], standing: set[int], main: str) -> tuple[Save, ...]:
    """Return the saves of the main series, and those of others whose files are still there."""
    saves = []
    for event in events:
        stays = id(event) in standing
        counts = stays or str(event.get("series", "")) == main
        at = _at(event)
        if event["event"] == "save" and counts and at is not None:
            saves.append(Save(at, stays))
    return tuple(saves)


def _places(events: Iterable[Event], kind: str) -> tuple[float, ...]:
    """Return where events of one kind stand among the epochs, each place once."""
    places = (_at(event) for event in events if event["event"] == kind)
    return tuple(sorted({at for at in places if at is not None}))


def _joined(before: Turns, after: Turns, kind: str, first: int) -> tuple[float, ...]:
    """Return the places of both parts of a run whose second part starts with epoch `first`."""
    earlier = {at for at in before.get(kind, ()) if at < first}
    return tuple(sorted(earlier.union(after.get(kind, ()))))


def _average(event: Event) -> Average | None:
    """Return the average that an event reports, if it was accepted."""
    members, value = event.get("members"), _number(event.get("value"))
    if event["event"] != "average" or not isinstance(members, list) or len(members) < 2:
        return None
    if value is None or not math.isfinite(value):
        return None
    return Average(str(event.get("metric", "")), value, len(members))


def _ranking(event: Event) -> tuple[tuple[str, str], ...]:
    pairs = event.get("ranking")
    if event["event"] != "save" or not isinstance(pairs, list):
        return ()
    return tuple((str(p[0]), str(p[1])) for p in pairs if isinstance(p, list) and len(p) == 2)


def _numbers(values: Any) -> dict[str, float]:
    pairs = values.items() if isinstance(values, dict) else ()
    numbers = {str(name): _number(value) for name, value in pairs}
    return {name: number for name, number in numbers.items() if number is not None}


def _time(event: Event) -> float:
    number = _number(event.get("time"))
    return number if number is not None and math.isfinite(number) else 0.0


def _number(value: Any) -> float | None:
    """Return a number as a float; the journal writes NaN and infinities as strings."""
    if not isinstance(value, int | float) and value not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _at(event: Event) -> float | None:
    """Return how many epochs were done, a half more for a moment within the next one."""
    epoch = _epoch(event)
    return None if epoch is None else epoch + (0.5 if event.get("batch") else 0.0)


def _epoch(event: Event) -> int | None:
    """Return the number of epochs done, None if the event has none that can be."""
    epoch = event.get("epoch")
    return epoch if isinstance(epoch, int) and 0 <= epoch < _MOST_EPOCHS else None
