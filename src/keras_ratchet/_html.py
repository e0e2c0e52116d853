"""Tables for notebooks: what `_repr_html_` returns, escaped, in the colors of the page."""

from __future__ import annotations

import html
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_ratchet._numbers import count, number

_METRIC_COLUMNS = 3
_ROWS = 100  # a notebook stores what it shows
_LEFT = ' style="text-align: left"'  # notebooks align cells to the right
_WHOLE = ' style="white-space: nowrap"'  # numbers, and times


def facts(title: str, rows: Mapping[str, object]) -> str:
    """Return a table of two columns; facts that are None or "" are left out.

    Example:
        >>> facts("Stop", {"why": "val_loss < 1", "epoch": None}).splitlines()[1:3]
        ['<caption style="text-align: left"><b>Stop</b></caption>', '<tbody>']
    """
    shown = {name: str(value) for name, value in rows.items() if value not in (None, "")}
    lines = [f"<tr>{_cell(name, 'th')}{_cell(text)}</tr>" for name, text in shown.items()]
    return _table(title, "", lines)


def stop_reason(reason: Any) -> str:
    """Return a table for a `StopReason`, whose module needs this one."""
    values = ", ".join(f"{name} {number(value)}" for name, value in reason.values.items())
    return facts(
        "Training stopped",
        {
            "why": reason.sentence,
            "kind": " + ".join(reason.kinds),
            "values": values,
            "epoch": f"{reason.epoch + 1} (index {reason.epoch})",
        },
    )


def average_record(record: Any) -> str:
    """Return a table for an `AverageRecord`: the outcome, and what was tried."""
    columns = ["members", record.metric, "accepted", "why"]
    rows = [
        [", ".join(trial.members), number(trial.value), _yes(trial.accepted), trial.reason]
        for trial in record.trials
    ]
    return _grid(f"{record.kind}: {record.reason}", columns, rows, {record.metric})


def checkpoint(info: Any) -> str:
    """Return a table for a `CheckpointInfo`."""
    metrics = ", ".join(f"{name} {number(value)}" for name, value in info.metrics.items())
    known = {
        "epochs done": info.position.epoch,
        "batches of the next": info.position.batch or None,
        "step": info.position.step,
        "metrics": metrics,
        "why saved": info.reason,
    }
    return facts(
        f"{'Snapshot' if info.is_directory else 'Checkpoint'} {info.name}",
        {
            "path": _place(info.path),
            **(known if info.has_manifest else {"manifest": "none: what it holds is unknown"}),
            "size": _size(info.size_bytes),
            "saved": _clock(info.saved_at),
            "pinned": "yes" if info.pinned else None,
        },
    )


def checkpoints(infos: Sequence[Any]) -> str:
    """Return a table for several `CheckpointInfo`s; of very many, of the last ones."""
    last = infos[-_ROWS:]
    names = _metric_names(last)
    rows = [[*_row_start(info), *_metrics(info, names), *_row_end(info)] for info in last]
    columns = ["name", "epochs", "step", *names, "size", "saved", "why", ""]
    title = count(len(infos), "checkpoint")
    if len(infos) > len(last):
        title += f", the last {len(last)} of which are these"
    return _grid(title, columns, rows, {"epochs", "step", "size", "saved", *names})


def _row_start(info: Any) -> list[str]:
    if not info.has_manifest:
        return [info.name, "", ""]
    step, batch = info.position.step, info.position.batch
    done = f"batch {batch}" if step is None and batch else step
    return [info.name, str(info.position.epoch), "" if done is None else str(done)]


def _row_end(info: Any) -> list[str]:
    notes = ["" if info.has_manifest else "no manifest", "pinned" if info.pinned else ""]
    size, saved = _size(info.size_bytes), _clock(info.saved_at)
    return [size, saved, info.reason, ", ".join(filter(None, notes))]


def _metrics(info: Any, names: Iterable[str]) -> list[str]:
    return [number(info.metrics[name]) if name in info.metrics else "" for name in names]


def _metric_names(infos: Sequence[Any]) -> list[str]:
    """Return the metrics that get a column, those that rank checkpoints first."""
    ranking = dict.fromkeys(name for info in reversed(infos) for name, _ in info.ranking)
    known = dict.fromkeys(name for info in reversed(infos) for name in info.metrics)
    return [name for name in ranking | known if name in known][:_METRIC_COLUMNS]


def _grid(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: set[str]
) -> str:
    head = "".join(_cell(name, "th", name in right) for name in columns)
    lines = []
    for row in rows:
        cells = zip(columns, row, strict=True)
        lines.append(
            f"<tr>{''.join(_cell(text, 'td', name in right) for name, text in cells)}</tr>"
        )
    return _table(title, f"<thead>\n<tr>{head}</tr>\n</thead>\n", lines)


def _table(title: str, head: str, lines: Sequence[str]) -> str:
    caption = f"<caption{_LEFT}><b>{html.escape(title)}</b></caption>"
    body = "\n".join(lines)
    return f"<table>\n{caption}\n{head}<tbody>\n{body}\n</tbody>\n</table>"


def _cell(text: str, tag: str = "td", right: bool = False) -> str:
    return f"<{tag}{_WHOLE if right else _LEFT}>{html.escape(text)}</{tag}>"


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.3f} MB"  # one unit, so that rows compare


def _clock(at_s: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
    except (OverflowError, ValueError, OSError):
        return ""


def _place(path: str) -> str:
    """Return a URL, or a path as it is seen from the working directory if it is below."""
    try:
        return path.removeprefix(os.getcwd() + os.sep)
    except OSError:  # it was deleted
        return path
