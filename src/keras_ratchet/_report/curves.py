"""What the page draws, as data: curves with few enough points, and marks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_ratchet._report.runs import Run, save_events, seconds
from keras_ratchet._report.words import MARKS, at_epoch, clean, said

MOST_POINTS = 3000
_MOST_MARKS = 2000
_LOG_FROM = 20.0
_TOO_LARGE = 1e300
_COSTS = (("waited", "training waited", "blocked_s"), ("written", "until on disk", "written_s"))
_COSTS_NOTE = "training waited (solid), until on disk (dashed)"
Points = Sequence[tuple[float, float]]


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Return at most so many points of a curve.

    Of each stretch the smallest and the largest value stay, so that spikes do, and one value that
    is not finite.

    Example:
        >>> thinned([(1, 5.0), (2, 9.0), (3, 0.0), (4, 5.0), (5, 5.0), (6, 5.0)], most=3)
        [(2, 9.0), (3, 0.0)]
    """
    if len(points) <= most:
        return list(points)
    stretches = max(most // 3, 1)
    found: list[tuple[float, float]] = []
    for number in range(stretches):
        start, end = (len(points) * n // stretches for n in (number, number + 1))
        found += _extremes(points[start:end])
    return found


def _extremes(points: Points) -> list[tuple[float, float]]:
    finite = [point for point in points if math.isfinite(point[1])]
    kept = {point for point in points if not math.isfinite(point[1])}
    kept = set(sorted(kept)[:1])
    if finite:
        kept |= {min(finite, key=_value), max(finite, key=_value)}
    return sorted(kept, key=lambda point: point[0])


def _value(point: tuple[float, float]) -> float:
    return point[1]


def data(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what the script of the page needs; all of it can be strict JSON."""
    charts = [*_metric_charts(runs), *_cost_charts(runs)]
    epochs = [x for chart in charts for one in chart["series"] for x in one["x"]]
    return {
        "runs": [{"name": run.name, "marks": _marks(run)} for run in runs],
        "charts": charts,
        "epochs": [min(epochs, default=0), max(epochs, default=1)],
        "on": list(range(max(len(runs) - 8, 0), len(runs))),
    }


def _metric_charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a chart for each metric; training and validation share one."""
    names = dict.fromkeys(
        n for run in runs for values in run.history.metrics.values() for n in values
    )
    ranked = [name for run in runs for name, _ in run.history.ranking]
    order = [name for name in dict.fromkeys([*ranked, "loss"]) if name in names]
    bases = dict.fromkeys(name.removeprefix("val_") for name in [*order, *names])
    return [chart for base in bases if (chart := _metric_chart(base, runs))["series"]]


def _metric_chart(base: str, runs: Sequence[Run]) -> dict[str, Any]:
    series: list[dict[str, Any]] = []
    values: list[float] = []
    for number, run in enumerate(runs):
        for name in (base, f"val_{base}"):
            curve = run.history.curve(name)
            if curve:
                role = "validation" if name != base else "training"
                series.append(_series(number, role, name, list(curve.items()), run))
                values += curve.values()
    if not any(one["role"] == "validation" for one in series):
        for one in series:
            one["role"] = "only"
    return {"name": clean(base), "unit": "", "log": _wants_log(values), "series": series}


def _wants_log(values: Iterable[float]) -> bool:
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > _LOG_FROM * min(finite)


def _series(
    number: int, role: str, name: str, points: Points, run: Run | None = None
) -> dict[str, Any]:
    shown = thinned(points)
    found: dict[str, Any] = {
        "run": number,
        "role": role,
        "name": clean(name),
        "of": len(points),
        "x": [x for x, _ in shown],
        "y": [_short(y) if _can_be_drawn(y) else None for _, y in shown],
        "bad": {str(x): f"{y:.4g}" for x, y in shown if not _can_be_drawn(y)},
    }
    return found if run is None else found | _points(name, run)


def _points(name: str, run: Run) -> dict[str, Any]:
    """Return the best epoch, the saves and the average, if they belong on this curve."""
    history, found = run.history, dict[str, Any]()
    curve = history.curve(name)
    if name == run.metric:
        saves = [(s.at, _height(curve, s.at), int(s.stays)) for s in history.saves]
        known = [save for save in saves if save[1] is not None]
        staying = [save for save in known if save[2]]
        gone = [save for save in known if not save[2]]
        found["saves"] = [*gone[:: len(gone) // _MOST_MARKS + 1], *staying[-_MOST_MARKS:]]
        if run.best is not None:
            found["best"] = run.best
    if history.average is not None and history.average.metric == name:
        words = f"mean of {history.average.members} epochs: {history.average.value:.6g}"
        found["average"] = [max(history.metrics), history.average.value, words]
    return found


def _height(curve: Mapping[int, float], at: float) -> float | None:
    ends = [
        curve[e] for e in (math.floor(at), math.ceil(at)) if math.isfinite(curve.get(e, math.nan))
    ]
    return sum(ends) / len(ends) if ends else None


def _can_be_drawn(value: float) -> bool:
    """Return whether axes can reach a value: their lengths are finite numbers too."""
    return abs(value) < _TOO_LARGE  # false for NaN


def _short(value: float) -> float:
    """Return a value with as many digits as can be seen."""
    return float(f"{value:.7g}")


def _cost_charts(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the chart of what saves have cost, if the journals tell; at one moment the longest."""
    series = []
    for number, run in enumerate(runs):
        for role, name, key in _COSTS:
            if longest := _longest(run, key):
                series.append(_series(number, role, name, sorted(longest.items())))
    values = [y for one in series for y in one["y"] if y is not None]
    chart = {"name": "seconds per save", "unit": "s", "log": _wants_log(values), "series": series}
    return [chart | {"note": _COSTS_NOTE}] if series else []


def _longest(run: Run, key: str) -> dict[float, float]:
    """Return the longest time that a save took, by the epochs done."""
    found: dict[float, float] = {}
    for event in save_events(run):
        at, took_s = at_epoch(event), seconds(event, key)
        if at is not None and took_s is not None:
            found[at] = max(took_s, found.get(at, 0.0))
    return found


def _marks(run: Run) -> list[dict[str, Any]]:
    """Return what happened at a moment, oldest first; of thousands the newest."""
    found = [
        {"at": at_epoch(event), "kind": event["event"], "text": said(event)}
        for event in run.events
        if event["event"] in MARKS and at_epoch(event) is not None and not _is_no_mean(event)
    ]
    for epoch in run.history.resumed:
        text = f"resumed before epoch {epoch}"
        found.append({"at": epoch - 0.5, "kind": "resume", "text": text})
    once = {tuple(mark.values()): mark for mark in found}.values()
    return sorted(once, key=lambda mark: float(str(mark["at"])))[-_MOST_MARKS:]


def _is_no_mean(event: Mapping[str, Any]) -> bool:
    """Return whether an event says that no average was better than the best epoch alone."""
    members = event.get("members")
    return event["event"] == "average" and (not isinstance(members, list) or len(members) < 2)
