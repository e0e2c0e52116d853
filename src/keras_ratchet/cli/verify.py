"""`ratchet verify`: are the bytes on the disk those that were saved?"""

from __future__ import annotations

from dataclasses import asdict

import click

from keras_ratchet._storage.space import readable
from keras_ratchet.cli import PROBLEM, _output, _select

_COLORS = {"corrupt": "red", "unverified": "yellow", "ok": None}


@click.command()
@_output.paths_argument
@_output.json_option
@click.pass_context
def verify(ctx: click.Context, paths: tuple[str, ...], as_json: bool) -> None:
    """Check that the bytes of checkpoints are those that were saved.

    PATH is a checkpoint or a directory of them. Every byte is read and compared with the digest
    in the manifest, so a single flipped bit is detected. A file without a manifest is
    "unverified": it may be intact, but there is no evidence. The exit code is 1 if one is corrupt.
    """
    outcomes = list(_select.verify_all(_select.several(paths)).values())
    corrupt = sum(outcome.status == "corrupt" for outcome in outcomes)
    if as_json:
        _output.emit([_output.with_stored_names(asdict(outcome)) for outcome in outcomes])
    else:
        for outcome in outcomes:
            problem = f": {outcome.problem}" if outcome.problem else ""
            line = f"{outcome.status.ljust(10)}  {outcome.path}{problem}"
            _output.say(line, fg=_COLORS[outcome.status])
        total = readable(sum(outcome.size_bytes for outcome in outcomes))
        known = sum(outcome.status == "ok" for outcome in outcomes)
        _output.say(
            f"{_output.count(len(outcomes), 'checkpoint')}: {known} ok, {corrupt} corrupt, "
            f"{len(outcomes) - known - corrupt} without a manifest ({total} read)"
        )
    if corrupt:
        ctx.exit(PROBLEM)
