"""`ratchet history`: what happened in a directory, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from keras_ratchet._numbers import number
from keras_ratchet._storage import anywhere, journal
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import _output
from keras_ratchet.errors import LoadError

_MOST_BYTES = 1 << 63
_COLORS = {
    "begin": "bright_white",
    "epoch": "white",
    "save": "green",
    "skip": "bright_black",
    "check_load": "cyan",
    "save_error": "red",
    "upload": "green",
    "upload_error": "red",
    "drop": "blue",
    "aside": "blue",
    "resume": "cyan",
    "branch": "cyan",
    "preempted": "yellow",
    "rollback": "magenta",
    "reduce_lr": "magenta",
    "average": "cyan",
    "soup": "cyan",
    "stop": "yellow",
    "gone_bad": "red",
    "end": "bright_white",
    "start": "bright_white",
    "exit": "yellow",
    "signal": "yellow",
    "unwatched": "yellow",
    "hang": "red",
    "requeue": "cyan",
    "give_up": "red",
}
_OF_NO_FILE = ("average", "reduce_lr", "rollback", "stop")  # every journal of a run has these
_SENTENCES = {
    "begin": "training started",
    "upload": "on the store, too",
    "resume": "training resumed from this snapshot",
}


@click.command()
@_output.directory_argument
@click.option(
    "--most", type=click.IntRange(min=1), default=50, help="Number of newest events to show."
)
@click.option("--epochs", is_flag=True, help="Show the metrics of every epoch too.")
@_output.json_option
def history(directory: str, most: int, epochs: bool, as_json: bool) -> None:
    """Show what was saved, skipped and deleted, and why.

    The journal of all runs that saved here, newest last: saves, skips, deletions, errors,
    resumes, rollbacks, cuts of the learning rate, averages and stops. It is a log only: no file
    is loaded or deleted because of it.
    """
    events = [e for e in events_of(directory) if epochs or e["event"] != "epoch"]
    shown = events[-most:]
    if as_json:
        _output.emit(shown)
        return
    if len(events) > most:
        _output.say(f"({len(events) - most} earlier; --most {len(events)} shows all)")
    headers = ["time", "event", "epoch", "file", "what"]
    rows = [[_time(e), e["event"], _epoch(e), _file(e), sentence(e)] for e in shown]
    _output.table(headers, rows, {"epoch"}, [_COLORS.get(e["event"]) for e in shown])


def events_of(directory: str) -> list[dict[str, Any]]:
    """Return the events of a directory's journal, oldest first.

    Raises:
        LoadError: If it has none.
    """
    events = anywhere.events(directory)
    if not events:
        name = "journal" if is_url(directory) else journal.NAME
        where = anywhere.joined(anywhere.joined(directory, METADATA), name)
        raise LoadError(
            f"no run has saved in {directory!r}: there is no {where!r}.", see="no-history"
        )
    return events


def _time(event: Mapping[str, Any]) -> str:
    at = event.get("time")
    return _output.clock(at) if isinstance(at, float | int) else "-"


def _epoch(event: Mapping[str, Any]) -> str:
    batch = event.get("batch")
    return f"{event.get('epoch', '')}" + (f"+{batch}" if batch else "")


def _file(event: Mapping[str, Any]) -> str:
    series = "" if event["event"] in _OF_NO_FILE else event.get("series")
    return str(event.get("name") or series or "")


def sentence(event: Mapping[str, Any]) -> str:
    """Return the reason of an event, and its other details."""
    parts = [str(event[key]) for key in ("reason", "problem") if event.get(key)]
    if not parts and event["event"] in _SENTENCES:
        parts.append(_SENTENCES[event["event"]])
    if event["event"] == "epoch" and isinstance(event.get("metrics"), dict):
        parts.append("  ".join(f"{name} {_value(v)}" for name, v in event["metrics"].items()))
    size = event.get("bytes")
    if isinstance(size, int) and 0 <= size < _MOST_BYTES:
        parts.append(f"({readable(size)}, blocked {event.get('blocked_s', '?')} s)")
    return " ".join(parts)


def _value(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
