"""The tables of the page: checkpoints, saves, events, environment."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from html import escape

from keras_ratchet._numbers import count, number
from keras_ratchet._report import runs as _runs
from keras_ratchet._report.runs import Place, Run
from keras_ratchet._report.words import BAD, Event, clean, clock, duration, label, said
from keras_ratchet._report.words import place as place_of
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.space import readable
from keras_ratchet.types import CheckpointInfo

_MOST_ROWS = 1000
_MOST_METRICS = 6
_KINDS = dict.fromkeys(("name", "file", "saved (UTC)", "time (UTC)", "run"), "whole")
_KINDS |= dict.fromkeys(("reason", "why", "outcome", "metadata"), "text")
_GOOD = ("best", "pinned", "ok")


class Cell(str):
    """The text of a cell that is HTML already."""


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Iterable[str] = (),
    note: str = "",
    name: str = "",
) -> str:
    """Return a table that can be scrolled sideways; columns without any text are left out.

    Args:
        headers: Names of the columns.
        rows: The cells.
        right: Names of the columns that are aligned to the right.
        note: A sentence above it.
        name: What it is a table of.
    """
    shown = [n for n in range(len(headers)) if any(row[n] for row in rows)]
    to_right, is_named = set(right), name == "runs"  # whose rows are paragraphs on a phone

    def cell(tag: str, number: int, text: str, more: str = "") -> str:
        header = headers[number]
        kind = "num" if header in to_right else _KINDS.get(header, "")
        style = f' class="{kind}"' if kind else ""
        inner = text if isinstance(text, Cell) else escape(clean(text))
        named = f' data-name="{escape(header)}"' if is_named and tag == "td" else ""
        return f"<{tag}{more}{style}{named}>{inner}</{tag}>"

    head = "".join(cell("th", n, headers[n], ' scope="col"') for n in shown)
    body = "\n".join(
        "<tr>" + "".join(cell("td", n, row[n]) for n in shown) + "</tr>" for row in rows
    )
    said_too = f'<p class="faint">{escape(note)}</p>' if note else ""
    return (
        f'{said_too}<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
        f'<table class="{escape(name)}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return labels and values."""
    inner = "".join(
        f"<div><dt>{escape(clean(name))}</dt><dd>{escape(clean(value))}</dd></div>"
        for name, value in pairs
    )
    return f'<dl class="facts">{inner}</dl>'


def badge(text: str, color: str = "") -> Cell:
    """Return a short word in a frame."""
    return Cell(f'<span class="badge {color}">{escape(clean(text))}</span>')


def checkpoints(place: Place) -> str:
    """Return the table of a directory's checkpoints, newest first."""
    known = list(reversed(place.checkpoints))
    shown = known[:_MOST_ROWS]
    metrics = _metrics(known)
    numbers = ["epoch", "step", *metrics, "size"]
    headers = ["name", "marks", *numbers, "saved (UTC)", "reason", "branch", "verified", "metadata"]
    rows = [_row(info, place, metrics) for info in shown]
    hidden = len(known) - len(shown)
    note = f"The newest {_MOST_ROWS:,}; {hidden:,} older ones are left out." if hidden else ""
    return table(headers, rows, numbers, note, "checkpoints")


def _metrics(known: Sequence[CheckpointInfo]) -> list[str]:
    ranked = [name for info in known for name, _ in info.ranking]
    names = dict.fromkeys(name for info in known for name in info.metrics)
    first = [name for name in dict.fromkeys(ranked) if name in names]
    return list(dict.fromkeys([*first, *names]))[:_MOST_METRICS]


def _row(info: CheckpointInfo, place: Place, metrics: Sequence[str]) -> list[str]:
    marks = [badge(m, "green" if m in _GOOD else "") for m in place.marks.get(info.path, ())]
    name = info.name if is_url(info.path) else os.path.relpath(info.path, place.directory)
    status = place.verified.get(info.path, "not checked" if info.has_manifest else "no manifest")
    color = {"ok": "green", "corrupt": "red"}.get(status, "")
    metadata = json.dumps(dict(info.metadata), default=str) if info.metadata else ""
    branch = info.run.partition("@")[0] if info.is_directory else ""
    return [
        name + ("/" if info.is_directory else ""),
        Cell(" ".join(marks)),
        _position(info),
        "" if info.position.step is None else f"{info.position.step:,}",
        *(number(info.metrics[name]) if name in info.metrics else "" for name in metrics),
        readable(info.size_bytes),
        clock(info.saved_at),
        info.reason,
        branch,
        badge(status, color),
        metadata,
    ]


def _position(info: CheckpointInfo) -> str:
    if not info.has_manifest:
        return ""
    return str(info.position.epoch) + (f"+{info.position.batch}" if info.position.batch else "")


def saves(run: Run) -> str:
    """Return the table of a run's saves, newest first."""
    found = _runs.save_events(run)[::-1]
    headers = ["epoch", "file", "size", "shared", "training waited", "on disk after", "reason"]
    rows = [
        [
            place_of(event),
            str(event.get("name", "")),
            _size(event.get("bytes")),
            _size(event.get("reused_bytes")) if event.get("reused_bytes") else "",
            duration(_runs.seconds(event, "blocked_s")),
            duration(_runs.seconds(event, "written_s")),
            str(event.get("reason", "")),
        ]
        for event in found[:_MOST_ROWS]
    ]
    hidden = len(found) - len(rows)
    note = f"The newest {_MOST_ROWS:,}; {hidden:,} older ones are left out." if hidden else ""
    return table(headers, rows, headers[:1] + headers[2:6], note, "saves")


def _size(value: object) -> str:
    return readable(value) if isinstance(value, int) and 0 <= value < 1 << 63 else "-"


def events(run: Run) -> str:
    """Return the table of what happened in a run, newest first, without epochs and saves."""
    told = [e for e in run.events if e["event"] not in ("epoch", "save")]
    found = _without_repeats(told)[::-1]
    rows = [
        [
            clock(_runs.time_of(event)),
            badge(label(event["event"]), _color(event)),
            place_of(event),
            str(event.get("name") or ""),
            said(event) + (f" (and {times - 1} more before it)" if times > 1 else ""),
        ]
        for event, times in found[:_MOST_ROWS]
    ]
    hidden = len(found) - len(rows)
    note = f"The newest {_MOST_ROWS:,}; {hidden:,} older ones are left out." if hidden else ""
    return table(["time (UTC)", "what", "epoch", "file", "why"], rows, ["epoch"], note, "events")


def _without_repeats(found: Iterable[Event]) -> list[tuple[Event, int]]:
    """Return the last of each row of skips, and how many there were."""
    shown: list[tuple[Event, int]] = []
    for event in found:
        before = shown[-1][0] if shown else {}
        is_same = before.get("event") == event["event"] == "skip"
        if is_same and before.get("series") == event.get("series"):
            shown[-1] = (event, shown[-1][1] + 1)
        else:
            shown.append((event, 1))
    return shown


def _color(event: Event) -> str:
    kind = event["event"]
    if kind in BAD:
        return "red"
    if kind in ("stop", "reduce_lr"):
        return "yellow"
    return "faint" if kind in ("skip", "drop", "begin", "end") else ""


def incidents(run: Run) -> list[str]:
    """Return what went wrong, in sentences."""
    said_bad = [
        f"{label(event['event'])}{f' (epoch {place_of(event)})' if place_of(event) else ''}: "
        f"{' '.join(filter(None, [str(event.get('name') or ''), said(event)]))}"
        for event in run.events
        if event["event"] in BAD or event.get("status") in ("failed", "corrupt")
    ]
    said_bad += _not_finite(run)
    if not run.is_newest:
        return said_bad
    for path, status in run.place.verified.items():
        if status == "corrupt":
            said_bad.append(f"{path} is corrupt: it is not what was saved")
    if run.place.torn_lines:
        said_bad.append(f"{count(run.place.torn_lines, 'line')} of the journal cannot be read")
    return said_bad


def _not_finite(run: Run) -> list[str]:
    """Return which metrics were NaN or infinite, and when."""
    bad: dict[str, list[int]] = {}
    for epoch, values in run.history.metrics.items():
        for name, value in values.items():
            if not math.isfinite(value):
                bad.setdefault(name, []).append(epoch)
    alike: dict[str, list[str]] = {}
    for name, epochs in bad.items():
        when = f"{count(len(epochs), 'epoch')}, first in epoch {epochs[0]}"
        alike.setdefault(when, []).append(name)
    return [f"not finite in {when}: {', '.join(names)}" for when, names in alike.items()]


def environment(place: Place) -> list[tuple[str, str]]:
    """Return versions, backend, model and processes, as labels and values."""
    found: dict[str, dict[str, None]] = {}
    for info in sorted(place.checkpoints, key=lambda info: info.saved_at):
        for name, version in info.versions.items():
            found.setdefault(name, {})[version] = None
        if info.fingerprint:
            found.setdefault("architecture", {})[info.fingerprint[:12]] = None
    pairs = [(name, ", then ".join(values)) for name, values in found.items()]
    pairs += [("process", holder) for holder in place.holders]
    return [("directory", place.directory), *pairs]
