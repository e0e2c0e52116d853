"""`ratchet report`: runs as one page of HTML."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Iterable
from pathlib import Path
from typing import IO, cast

import click

from keras_ratchet._report import find, page
from keras_ratchet._report.runs import Place, time_of
from keras_ratchet._storage import journal
from keras_ratchet._storage.lock_state import lock_states
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import _output, _select
from keras_ratchet.cli._view import state_of
from keras_ratchet.plots._runs import BELOW
from keras_ratchet.types import CheckpointInfo

_HEAD_BYTES = 400  # the generator stands there


@click.command()
@click.argument(
    "directories",
    metavar="DIR...",
    nargs=-1,
    required=True,
    type=_output.Place(exists=True, file_okay=False),
)
@click.option("-o", "--output", metavar="FILE", default="report.html", type=_output.Place())
@click.option("--title", help="The heading of the page.")
@click.option("--verify", is_flag=True, help="Compare each checkpoint with its digest.")
@click.option("--open", "open_it", is_flag=True, help="Open the page in the browser.")
@click.option("--force", "-f", is_flag=True, help="Overwrite FILE even if it is no report.")
@_output.json_option
def report(
    directories: tuple[str, ...],
    *,
    output: str,
    title: str | None,
    verify: bool,
    open_it: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a page about runs: curves, decisions, saves, checkpoints.

    The page is one file of HTML (default: report.html) that needs no network. All runs in the
    directories, and in those below them, are on it, and compared if there are several. A report
    that is there already is overwritten; any other file only with --force. Without --verify no
    checkpoint is read.
    """
    reader = find.Reader()
    found = _found(directories, reader)
    names = find.labels([each.directory for each in found])
    places = [_place(one, name, reader, verify) for one, name in zip(found, names, strict=True)]
    text = page.page(places, title).encode("utf-8", "replace")
    with _output.new_file(output, force or _is_report(output)) as draft:
        draft.write(lambda file: _write(cast(IO[bytes], file), text))
    if open_it and not is_url(output):
        webbrowser.open(Path(output).resolve().as_uri())
    if as_json:
        shown = [place.directory for place in places]
        _output.emit({"path": output, "bytes": len(text), "directories": shown})
        return
    many = "1 directory" if len(places) == 1 else f"{len(places)} directories"
    _output.say(f"written to {output} ({readable(len(text))}, of {many})")


def _found(directories: Iterable[str], reader: find.Reader) -> list[find.Found]:
    """Return the runs in directories, each once."""
    found: dict[str, find.Found] = {}
    for directory in directories:
        for each in find.runs_in(directory, reader):
            key = each.directory if is_url(each.directory) else os.path.realpath(each.directory)
            found.setdefault(key, each)
    return list(found.values())


def _place(found: find.Found, label: str, reader: find.Reader, verify: bool) -> Place:
    """Read what there is to know about a directory."""
    directories = [found.directory, *found.parts]
    listed: list[CheckpointInfo] = []
    marks: dict[str, list[str]] = {}
    for directory in directories:
        inside = reader.checkpoints(directory)
        named = _select.marks(inside)
        marks |= {info.path: named[info.name] for info in inside}
        listed += inside
    listed.sort(key=lambda info: info.saved_at)
    events = list(reader.events(found.directory))
    events += [{**event, BELOW: part} for part in found.parts for event in reader.events(part)]
    local = [] if is_url(found.directory) else directories
    locks = [lock for directory in local for lock in lock_states(directory)]
    state, why = state_of(reader.events(found.directory), locks, has_any=bool(listed))
    outcomes = _select.verify_all(listed) if verify else {}
    return Place(
        directory=found.directory,
        label=label,
        events=sorted(events, key=time_of),
        checkpoints=listed,
        marks=marks,
        verified={path: outcome.status for path, outcome in outcomes.items()},
        state=state,
        why=why,
        holders=list(dict.fromkeys(lock.who for lock in locks if lock.pid)),
        torn_lines=sum(_lines(each) - len(reader.events(each)) for each in local),
    )


def _lines(directory: str) -> int:
    """Return how many lines a journal has."""
    try:
        with open(os.path.join(directory, METADATA, journal.NAME), "rb") as file:
            return sum(bool(line.strip()) for line in file)
    except OSError:
        return 0


def _is_report(path: str) -> bool:
    """Return whether a file is a page that this command wrote."""
    if is_url(path) or not os.path.isfile(path):  # a pipe would have to be waited for
        return False
    try:
        with open(path, "rb") as file:
            return f'content="{page.GENERATOR}'.encode() in file.read(_HEAD_BYTES)
    except OSError:
        return False


def _write(file: IO[bytes], text: bytes) -> None:
    file.write(text)
