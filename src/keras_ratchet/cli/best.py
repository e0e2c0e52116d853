"""`ratchet best`: the path of the best checkpoint."""

from __future__ import annotations

import os

import click

from keras_ratchet._storage import anywhere
from keras_ratchet.cli import PROBLEM, _output, _select
from keras_ratchet.errors import CorruptError


@click.command()
@_output.directory_argument
@click.option("--metric", help="Rank by this metric instead of the one they were saved by.")
@click.option(
    "--mode",
    type=click.Choice(["min", "max"]),
    help="Whether smaller (min) or larger (max) is better.",
)
@click.option("--no-verify", is_flag=True, help="Do not compare the bytes with their digest.")
@_output.json_option
@click.pass_context
def best(
    ctx: click.Context,
    directory: str,
    *,
    metric: str | None,
    mode: str | None,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Print the path of the best checkpoint.

    For the shell: `python evaluate.py "$(ratchet best runs/digits)"`. The best checkpoint
    that verifies is printed; corrupt ones are skipped and named on stderr. NaN is never best. On
    a store, verifying asks the store for lengths and checksums.
    """
    snapshots = _select.checkpoints_in(directory)
    ranking = _select.ranking_by(metric, mode, snapshots)
    name = ranking.metrics[0][0] if ranking.metrics else None
    corrupt = 0
    for snapshot in _select.best_first(snapshots, ranking):
        outcome = None if no_verify else anywhere.verify(snapshot.path, read=False)
        if outcome is not None and not outcome:
            _output.say(f"Skipped {snapshot.name}: {outcome.problem}.", err=True)
            corrupt += outcome.status == "corrupt"
            continue
        path = anywhere.joined(directory, snapshot.name)
        data = _output.as_data(snapshot) | {"path": path, "ranked_by": ranking.metrics}
        _output.emit(data) if as_json else click.echo(os.fsencode(path))
        return
    if as_json:
        _output.emit(None)
    if corrupt:
        raise CorruptError(
            f"there is no best checkpoint in {directory!r}: all that have a usable {name} are "
            "corrupt."
        )
    why = f"has a usable {name}" if name else "says by which metric it was saved (see --metric)"
    _output.say(f"No best checkpoint in {directory!r}: none {why}.", err=True)
    ctx.exit(PROBLEM)
