"""`ratchet watch`: a run while it trains."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from keras_ratchet._json import plain
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet.cli import _output, _watch_text
from keras_ratchet.cli._view import Event, View, Watcher

_MISSING = (
    "rich is not installed, so this view is plain: pip install 'keras-ratchet[watch]' for the live "
    "one. (--plain says that you know.)"
)


@click.command()
@click.argument("directory", type=_output.Place(file_okay=False))
@click.option("--once", is_flag=True, help="Show the run as it is now, and exit.")
@click.option("--plain", "is_plain", is_flag=True, help="Print lines, as without a terminal.")
@click.option("--until-end", is_flag=True, help="Exit when the run has ended.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.05),
    metavar="S",
    help="Seconds between two looks; 1, for a URL 15.",
)
@_output.json_option
def watch(
    directory: str,
    *,
    once: bool,
    is_plain: bool,
    until_end: bool,
    every: float | None,
    as_json: bool,
) -> None:
    """Show a run while it trains.

    The metrics as curves, the best and the newest checkpoint, what is being written, which process
    holds the locks, when the last epoch will end at the present pace, and the last decisions with
    their reasons. DIR need not exist yet. Nothing is written, and the run does not notice.

    Without a terminal, or on a dumb one, each event is printed as a line when it happens. --json
    prints one line of JSON for each change.
    """
    watcher = Watcher(directory)
    every = every or (15.0 if is_url(directory) else 1.0)
    rich = not as_json and not is_plain and _is_terminal() and _rich_is_there()
    if once:
        watcher.new_events()
        _print_once(watcher.view(), as_json, rich)
    elif rich:
        _live(watcher, every, until_end)
    else:
        with contextlib.suppress(KeyboardInterrupt):
            _lines(watcher, every, until_end, as_json)


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb")


def _rich_is_there() -> bool:
    try:
        import rich  # noqa: F401
    except ImportError:
        _output.say(_MISSING, err=True)
        return False
    return True


def _print_once(view: View, as_json: bool, rich: bool) -> None:
    if as_json:
        _output.emit(as_data(view))
    elif rich:
        from rich.console import Console

        from keras_ratchet.cli._watch_rich import frame

        console = Console()
        console.print(frame(view, console.width, console.height - 1))
    else:
        width = max(shutil.get_terminal_size().columns - 40, 20)
        _say(_watch_text.plain(view, width))


def _live(watcher: Watcher, every: float, until_end: bool) -> None:
    """Draw the view again and again, until Ctrl-C or the end of the run."""
    from rich.console import Console
    from rich.live import Live

    from keras_ratchet.cli._watch_rich import frame

    console = Console()
    live = Live(console=console, screen=True, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), live:
        for _, view in _looks(watcher, every, until_end):
            live.update(frame(view, console.width, console.height), refresh=True)
    console.print(frame(watcher.view(), console.width, console.height - 1))


def _lines(watcher: Watcher, every: float, until_end: bool, as_json: bool) -> None:
    """Print what is known, then a line for each event."""
    is_first, before = True, ""
    for events, view in _looks(watcher, every, until_end):
        state = f"{view.state} {[draft.name for draft in view.drafts]}"
        if as_json and (is_first or events or state != before):
            click.echo(json.dumps(plain(as_data(view)), allow_nan=False))
        elif is_first:
            _say(_watch_text.plain(view))
        elif not as_json:
            _say(_line(event) for event in events)
            if state != before and not events:
                _say(f"{label.ljust(9)}  {text}" for label, text in _changing(view))
        is_first, before = False, state


def _changing(view: View) -> list[tuple[str, str]]:
    return [fact for fact in _watch_text.facts(view) if fact[0] in ("state", "writing")]


def _line(event: Event) -> str:
    at, kind, text = _watch_text.decision(event)
    return f"{at}  {kind.ljust(9)}  {text}"


def _say(lines: Any) -> None:
    for line in lines:
        click.echo(line)
    sys.stdout.flush()


def _looks(
    watcher: Watcher, every: float, until_end: bool
) -> Iterator[tuple[Sequence[Event], View]]:
    """Yield what is new, and the run, until its end if asked to."""
    while True:
        events = watcher.new_events()
        view = watcher.view()
        yield events, view
        if until_end and view.state == "ended":
            return
        time.sleep(every)


def as_data(view: View) -> dict[str, Any]:
    """Return a view as data for JSON."""
    return {
        "directory": view.directory,
        "time": view.at_s,
        "state": view.state,
        "why": view.why,
        "holders": [asdict(lock) for lock in view.holders],
        "epoch": view.epoch,
        "epochs": view.epochs,
        "epoch_s": view.epoch_s,
        "eta_s": view.eta_s,
        "metric": view.metric,
        "metrics": dict(view.history.metrics.get(view.epoch, {})),
        "best": None if view.best is None else _output.as_data(view.best),
        "since_best": view.since_best,
        "last": None if view.last is None else _output.as_data(view.last),
        "writing": [asdict(draft) for draft in view.drafts],
        "event": dict(view.decisions[-1]) if view.decisions else None,
    }
