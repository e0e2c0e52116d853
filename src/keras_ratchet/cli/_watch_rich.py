"""A frame of `ratchet watch` drawn with rich; only this module imports it."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from keras_ratchet._numbers import number
from keras_ratchet.cli import clean
from keras_ratchet.cli._view import View
from keras_ratchet.cli._watch_text import curves, decision, facts, sparkline

_STATES = {
    "training": "bold green",
    "ended": "bold cyan",
    "interrupted": "bold yellow",
    "killed": "bold red",
}
_KINDS = {
    "save": "green",
    "upload": "green",
    "skip": "bright_black",
    "drop": "blue",
    "aside": "blue",
    "resume": "cyan",
    "begin": "cyan",
    "end": "cyan",
    "check_load": "cyan",
    "preempted": "yellow",
    "stop": "yellow",
    "rollback": "magenta",
    "reduce_lr": "magenta",
}
_NARROWEST = 20


def frame(view: View, width: int, height: int) -> Panel:
    """Return the whole view.

    Args:
        view: The run.
        width: Columns of the terminal.
        height: Its lines; the last decisions fill what is left of them.
    """
    known = _facts(view)
    drawn = _curves(view, width)
    left = height - known.row_count - drawn.row_count - 4
    parts: list[Any] = [known, Text(""), drawn, Text(""), _decisions(view, max(left, 3))]
    return Panel(Group(*parts), title=Text(clean(view.directory)), border_style="bright_black")


def _grid(*columns: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2), expand=False)
    for column in columns:
        grid.add_column(**column)
    return grid


def _facts(view: View) -> Table:
    grid = _grid({"style": "bright_black"}, {"overflow": "fold"})
    for label, text in facts(view):
        style = _STATES.get(view.state, "") if label == "state" else ""
        grid.add_row(label, Text(text, style="yellow" if label == "writing" else style))
    return grid


def _curves(view: View, width: int) -> Table:
    grid = _grid({}, {"no_wrap": True}, {"justify": "right"}, {"style": "bright_black"})
    named = curves(view)
    longest = max((len(name) for name, _ in named), default=0)
    room = max(width - longest - 40, _NARROWEST)
    for name, values in named:
        numbers = [number(value) for value in values]
        style = "bold green" if name == view.metric else ""
        finite = [value for value in values if math.isfinite(value)]
        span = f"{number(min(finite))} … {number(max(finite))}" if finite else ""
        line = Text(sparkline(values, room), style=style or "cyan")
        grid.add_row(Text(name, style=style), line, numbers[-1] if numbers else "-", span)
    return grid


def _decisions(view: View, most: int) -> Table:
    time = {"style": "bright_black", "no_wrap": True, "min_width": 8}
    kind_column = {"no_wrap": True, "min_width": 9}
    grid = _grid(time, kind_column, {"no_wrap": True, "overflow": "ellipsis"})
    for at, kind, text in map(decision, view.decisions[-most:]):
        grid.add_row(at[-8:], Text(kind, style=_KINDS.get(kind, "red")), Text(text))
    return grid
