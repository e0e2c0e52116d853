"""The page: it needs no network, and says everything without a script too."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

import keras_ratchet
from keras_ratchet._json import plain
from keras_ratchet._numbers import number
from keras_ratchet._report import curves, drawing, tables
from keras_ratchet._report.runs import Place, Run, figures, outcome, runs_of, save_costs, training_s
from keras_ratchet._report.words import clean, clock, duration
from keras_ratchet._storage.space import readable

GENERATOR = "keras-ratchet report"
_STATES = {"training": "yellow", "interrupted": "yellow", "killed": "red", "ended": "green"}


def page(places: Sequence[Place], title: str | None = None) -> str:
    """Return the whole page.

    Args:
        places: The directories; several are compared.
        title: Its heading; default: the names of the runs.
    """
    runs = [run for place in places for run in runs_of(place)]
    heading = clean(title or _title(runs))
    data = curves.data(runs)
    body = [
        _header(heading, runs),
        _summary(runs),
        _charts(data),
        *(_section(place, [r for r in runs if r.place is place], len(places)) for place in places),
        _footer(),
    ]
    return _whole(heading, "\n".join(body), data)


def _whole(heading: str, body: str, data: object) -> str:
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta name="generator" content="{GENERATOR} {keras_ratchet.__version__}">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(heading)}</title>",
            f"<style>{style}</style></head>",
            f"<body>\n{body}",
            f'<script type="application/json" id="data">{as_json(data)}</script>',
            f"<script>{script}</script>",
            "</body></html>\n",
        ]
    )


def as_json(data: object) -> str:
    """Return strict JSON that can stand in a script element: nothing in it ends the element."""
    text = json.dumps(plain(data), allow_nan=False, separators=(",", ":"))  # ASCII only
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _asset(name: str) -> str:
    return resources.files("keras_ratchet._report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _title(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(run.place.label for run in runs))
    if len(names) <= 3:
        return ", ".join(names)
    return f"{', '.join(names[:2])} and {len(names) - 2} more"


def _header(heading: str, runs: Sequence[Run]) -> str:
    kind = "Run" if len(runs) == 1 else f"{len(runs)} runs"
    return (
        '<header class="top"><div><p class="kind faint">'
        f"{kind} \u00b7 ratchet report</p><h1>{escape(heading)}</h1></div>"
        '<button type="button" id="theme" hidden>Theme: auto</button></header>'
    )


def _summary(runs: Sequence[Run]) -> str:
    """Return the outcome and the key figures of one run, or the table that compares several."""
    if len(runs) == 1:
        said, color = outcome(runs[0])
        tiles = "".join(
            f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}'
            f"<small>{escape(remark)}</small></dd></div>"
            for name, value, remark in _figures(runs[0])
        )
        return f'<p class="verdict {color}">{escape(said)}</p><dl class="tiles">{tiles}</dl>'
    headers = ["run", "metric", "best", "in epoch", "epochs", "trained for", "outcome"]
    rows = []
    for run in runs:
        best = run.best
        rows.append(
            [
                run.name,
                (run.metric or "") if best else "",
                _best(run, runs),
                str(best[0]) if best else "",
                f"{max(run.history.metrics, default=0):,}",
                duration(training_s(run) or None),
                outcome(run)[0],
            ]
        )
    return "<h2>Compared</h2>" + tables.table(headers, rows, headers[2:6], name="runs")


def _figures(run: Run) -> list[tuple[str, str, str]]:
    size = sum(info.size_bytes for info in run.place.checkpoints)
    kept = len(run.place.checkpoints)
    return [*figures(run), ("checkpoints", f"{kept:,}", f"{readable(size)} there now")]


def _best(run: Run, runs: Sequence[Run]) -> str:
    """Return the best value of a run, marked if no run with this metric has a better one."""
    if run.best is None or run.metric is None:
        return ""
    value = number(run.best[1])
    rivals = [r.best[1] for r in runs if r.metric == run.metric and r.best is not None]
    modes = dict(pair for r in runs for pair in r.history.ranking)
    best = (max if modes.get(run.metric) == "max" else min)(rivals)
    if len(rivals) < 2 or run.best[1] != best:
        return value
    return tables.Cell(f"{tables.badge('best', 'green')} {escape(value)}")


def _charts(data: dict[str, object]) -> str:
    charts = data["charts"]
    assert isinstance(charts, list)
    if not charts:
        return '<p class="faint">There are no epochs to draw.</p>'
    boxes = "".join(
        f'<figure class="chart" data-chart="{number}"><figcaption>'
        f"<h3>{escape(clean(chart['name']))}{_note(chart)}</h3></figcaption>"
        f'<div class="plot">{drawing.picture(chart)}</div></figure>'
        for number, chart in enumerate(charts)
    )
    return (
        '<h2>Curves</h2><p class="faint" id="still">Without JavaScript the curves cannot be '
        'zoomed; the numbers are in the tables.</p><div id="controls" hidden></div>'
        f'<div id="charts">{boxes}</div>{_thinned(charts)}'
    )


def _note(chart: dict[str, Any]) -> str:
    note = chart.get("note")
    return f" <small>{escape(note)}</small>" if note else ""


def _thinned(charts: Sequence[dict[str, Any]]) -> str:
    """Return what there is to say about points that are left out."""
    if all(one["of"] == len(one["x"]) for chart in charts for one in chart["series"]):
        return ""
    return (
        '<p class="faint">Long curves are drawn from fewer points: of each stretch of epochs the '
        "smallest and the largest value, so that spikes stay.</p>"
    )


def _section(place: Place, runs: Sequence[Run], places: int) -> str:
    """Return what there is to say about one directory."""
    lines = [
        f'<section class="place"><h2>{escape(clean(place.label))}</h2>'
        if places > 1
        else "<section>"
    ]
    lines.append(_state(place))
    lines += [_incidents(run, len(runs) > 1) for run in runs]
    size = readable(sum(info.size_bytes for info in place.checkpoints))
    if place.checkpoints:
        said = f"Checkpoints ({len(place.checkpoints):,}, {size})"
        lines.append(_details(said, tables.checkpoints(place), places == 1))
    else:
        was = any(event["event"] == "save" for event in place.events)
        said = "No checkpoint is there any more." if was else "There is no checkpoint."
        lines.append(f'<p class="faint">{said}</p>')
    for run in runs:
        lines.append(_of_run(run, len(runs) > 1, is_open=places == 1 and run.is_newest))
    lines.append(_details("Environment", tables.facts(tables.environment(place)), places == 1))
    return "\n".join([*lines, "</section>"])


def _state(place: Place) -> str:
    why = f" \u00b7 {escape(clean(place.why))}" if place.why and place.state != "ended" else ""
    where = f"<code>{escape(clean(place.directory))}</code>"
    return f"<p>{tables.badge(place.state, _STATES.get(place.state, ''))} {where}{why}</p>"


def _incidents(run: Run, is_one_of_several: bool) -> str:
    name = f"{run.name}: " if is_one_of_several else ""
    bad = tables.incidents(run)
    items = "".join(f"<li>{escape(clean(line))}</li>" for line in bad[-100:])
    return _details(f"{name}Incidents ({len(bad)})", f"<ul>{items}</ul>", True) if bad else ""


def _of_run(run: Run, is_one_of_several: bool, is_open: bool) -> str:
    name = f"{run.name}: " if is_one_of_several else ""
    lines = []
    told = sum(event["event"] not in ("epoch", "save") for event in run.events)
    if told:
        lines.append(_details(f"{name}Decisions and events", tables.events(run), is_open))
    costs = save_costs(run)
    if any(event["event"] == "save" for event in run.events):
        inner = tables.facts(costs) + tables.saves(run)
        lines.append(_details(f"{name}Saves and what they cost", inner, is_open=False))
    return "\n".join(lines)


def _details(heading: str, inner: str, is_open: bool) -> str:
    state = " open" if is_open else ""
    return f"<details{state}><summary>{escape(clean(heading))}</summary>{inner}</details>"


def _footer() -> str:
    return (
        f'<footer class="faint">Written on {clock(time.time(), "%Y-%m-%d at %H:%M UTC")} by '
        f"keras-ratchet {keras_ratchet.__version__}. Nothing on this page is loaded from "
        "elsewhere.</footer>"
    )
