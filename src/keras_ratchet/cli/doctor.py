"""`ratchet doctor`: prove on the user's own script that a killed run ends as a whole one does."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from types import FrameType
from typing import IO, Any, cast

import click

from keras_ratchet._storage.objects.location import is_url
from keras_ratchet.cli import PROBLEM, _output

_COUNT = click.IntRange(min=1)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--kills", type=click.IntRange(min=0), help="Number of kills.  [default: 4]")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Begin no kill that would probably end later.",
)
@click.option("--epochs", type=_COUNT, help="End each fit after this many epochs.")
@click.option("--steps", type=_COUNT, help="End each fit after this many steps.")
@click.option("--seed", type=int, help="Choose the same instants again.")
@_output.json_option
@click.option(
    "--report",
    type=click.Path(dir_okay=False),
    help="Also write a page of HTML.",
    metavar="FILE.html",
)
@click.option("--in-place", is_flag=True, help="Run here, not in copies of this directory.")
@click.option(
    "--keep", type=click.Path(file_okay=False), help="Keep all runs in DIR.", metavar="DIR"
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def doctor(command: tuple[str, ...], report: str | None, as_json: bool, **options: Any) -> None:
    """Prove on your own script that a killed run ends as a whole one does.

    \b
      ratchet doctor [OPTIONS] -- python train.py ARGS
      ratchet doctor DIR

    The script is run whole, twice: is it reproducible? Then it is killed (SIGKILL) at random
    instants and run again, and what it ends with is compared bit by bit with the whole run. Each
    training has a copy of the present directory; where callbacks save to absolute paths or URLs,
    they save into a scratch directory instead. The script needs no change but our callbacks.

    With a directory, or a URL, in the place of the script: is what lies there in order?

    The exit code is 0 only if everything is equal, and a kill happened.
    """  # noqa: D301  click wants the character \b itself
    if len(command) == 1 and (is_url(command[0]) or os.path.isdir(command[0])):
        is_fine = _directory(command[0], as_json)
    else:
        is_fine = _script(command, report, as_json, options)
    if not is_fine:
        click.get_current_context().exit(PROBLEM)


def _directory(place: str, as_json: bool) -> bool:
    """Say what state a directory is in; return whether it is in order."""
    from keras_ratchet._doctor import health

    found = health.examine(place)
    if as_json:
        _output.emit(found.to_dict())
    else:
        for line in health.lines(found):
            _output.say(line)
    return found.is_healthy


def _script(
    command: tuple[str, ...], report: str | None, as_json: bool, options: dict[str, Any]
) -> bool:
    """Examine a script; return whether it is fine."""
    from keras_ratchet._doctor import examination
    from keras_ratchet._doctor.page import page

    if report and not report.endswith(".html"):  # any other file may be one that is needed
        raise click.UsageError(f"--report writes FILE.html. Got: {report!r}.")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # nohup
            signal.signal(number, _leave)
    try:
        found = examination.examine(examination.Options(command, **options), _tell)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if report:
        with _output.new_file(report, force=True) as draft:
            draft.write(lambda file: _write(cast(IO[bytes], file), page(found)))
    if as_json:
        _output.emit(_data(found))
    else:
        _show(found)
    return bool(found.is_fine)


def _write(file: IO[bytes], text: str) -> None:
    file.write(text.encode())


def _leave(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does: the script that runs is killed, and the copies are removed."""
    raise SystemExit(128 + number)


def _tell(text: str) -> None:
    for line in text.splitlines():
        _output.say(line, err=True)


def _show(found: Any) -> None:
    from keras_ratchet._doctor import text

    _output.say(text.heading(found), bold=True)
    click.echo()
    rows = text.part_rows(found)
    _output.table(
        text.PART_HEADERS, [r for r, _ in rows], right=("values",), colors=[c for _, c in rows]
    )
    if found.kills:
        click.echo()
        rows = text.kill_rows(found)
        _output.table(
            text.KILL_HEADERS, [r for r, _ in rows], right=("kill",), colors=[c for _, c in rows]
        )
    click.echo()
    for line, color in text.finding_lines(found):
        _output.say(line, fg=color)
    for kill in found.kills:
        _tell(kill.output)
    click.echo()
    line, color = text.verdict(found)
    _output.say(line, fg=color, bold=True)


def _data(found: Any) -> dict[str, Any]:
    from keras_ratchet._doctor import text

    more = {"fine": found.is_fine, "verdict": text.verdict(found)[0]}
    return more | asdict(found) | {"causes": [asdict(cause) for cause in found.causes]}
