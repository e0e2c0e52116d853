"""The words and lines of `ratchet watch`, for rich and for plain terminals alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras_ratchet._numbers import count, number
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import _output, clean
from keras_ratchet.cli._view import View
from keras_ratchet.cli.history import sentence
from keras_ratchet.types import CheckpointInfo

BARS = "▁▂▃▄▅▆▇█"
MISSING = "x"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return a curve in one line; values that are not finite are an x.

    More values than there is room for are thinned out: the newest of each group is shown.

    Example:
        >>> sparkline([1.0, 2.0, float("nan"), 8.0], 10)
        '▁▂x█'
    """
    count = len(values)
    if count > width > 0:
        values = [values[(number + 1) * count // width - 1] for number in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return MISSING * len(values)
    low, high = min(finite), max(finite)
    span = high - low
    return "".join(_bar(value, low, span) if math.isfinite(value) else MISSING for value in values)


def _bar(value: float, low: float, span: float) -> str:
    share = (value - low) / span if 0 < span < math.inf else 0.0
    return BARS[min(int(share * len(BARS)), len(BARS) - 1)]


def duration(seconds: float) -> str:
    """Return a length of time.

    Example:
        >>> duration(0.0123), duration(7), duration(75), duration(7260)
        ('12 ms', '7 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def facts(view: View) -> list[tuple[str, str]]:
    """Return what is known about a run, as labels and sentences; cleaned."""
    lines = [
        ("state", _state(view)),
        ("progress", _progress(view)),
        ("best", _best(view)),
        ("last save", _last(view)),
        *(("writing", _draft(draft, view.at_s)) for draft in view.drafts),
    ]
    return [(label, clean(text)) for label, text in lines if text]


def _state(view: View) -> str:
    why = f": {view.why}" if view.why else ""
    holders = list(dict.fromkeys(lock.who for lock in view.holders))
    who = f", {' and '.join(holders)}" if holders else ""
    return f"{view.state}{who}{why}"


def _progress(view: View) -> str:
    if not view.epoch and view.epochs is None:
        return ""
    planned = f" of {view.epochs}" if view.epochs is not None else ""
    pace = f", {duration(view.epoch_s)} each" if view.epoch_s is not None else ""
    eta = f", the last one ends in {duration(view.eta_s)}" if view.eta_s is not None else ""
    return f"epoch {view.epoch}{planned} done{pace}{eta}"


def _best(view: View) -> str:
    if view.best is None:
        return ""
    value = number(view.best.metrics.get(view.metric))
    since = f"; best {count(view.since_best, 'epoch')} ago" if view.since_best else ""
    epoch = view.best.position.epoch
    return f"{view.metric} {value} after epoch {epoch}, {view.best.name}{since}"


def _last(view: View) -> str:
    info = view.last
    if info is None:
        return ""
    age = duration(max(view.at_s - info.saved_at, 0.0))
    return f"{info.name}, {age} ago, {readable(info.size_bytes)}{_cost(view, info)}"


def _cost(view: View, info: CheckpointInfo) -> str:
    written, blocked = view.last_event.get("written_s"), view.last_event.get("blocked_s")
    if not isinstance(written, int | float) or not isinstance(blocked, int | float):
        return ""
    return f", took {duration(written)} (training waited {duration(blocked)})"


def _draft(draft: Any, now_s: float) -> str:
    idle = now_s - draft.written_at
    still = f", nothing added for {duration(idle)}" if idle > 10 else ""
    return f"{draft.name}, {readable(draft.size_bytes)} so far{still}"


def curves(view: View) -> list[tuple[str, list[float]]]:
    """Return names and values of the metrics, the one that ranks first."""
    names = list(dict.fromkeys(name for values in view.history.metrics.values() for name in values))
    names.sort(key=lambda name: name != view.metric)
    return [(clean(name), list(view.history.curve(name).values())) for name in names]


def decision(event: Any) -> tuple[str, str, str]:
    """Return time, kind and words of an event; cleaned."""
    at = event.get("time")
    clock = _output.clock(at) if isinstance(at, int | float) else "-"
    where = f"epoch {event['epoch']}" if isinstance(event.get("epoch"), int) else ""
    text = "  ".join(filter(None, [where, str(event.get("name") or ""), sentence(event)]))
    return clock, clean(event["event"]), clean(text)


def plain(view: View, width: int = 60, most: int = 8) -> list[str]:
    """Return a frame without control characters and without rich."""
    lines = [clean(view.directory)]
    lines += [f"  {label.ljust(11)}{text}" for label, text in facts(view)]
    named = curves(view)
    longest = max((len(name) for name, _ in named), default=0)
    for name, values in named:
        lines.append(f"  {name.ljust(longest)}  {sparkline(values, width)}  {_newest(values)}")
    for at, kind, text in map(decision, view.decisions[-most:]):
        lines.append(f"  {at}  {kind.ljust(9)}  {text}")
    return lines


def _newest(values: Sequence[float]) -> str:
    return number(values[-1]) if values else "-"
