"""`ratchet verify`: are the bytes those that were saved?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.space import readable
from keras_ratchet._storage.verify import Verification
from keras_ratchet.cli import PROBLEM, _output, _select

_COLORS = {"corrupt": "red", "unverified": "yellow", "ok": None}


@click.command()
@_output.paths_argument
@click.option("--read", is_flag=True, help="Read every byte of checkpoints on a store, too.")
@_output.json_option
@click.pass_context
def verify(ctx: click.Context, paths: tuple[str, ...], read: bool, as_json: bool) -> None:
    """Check that the bytes of checkpoints are those that were saved.

    PATH is a checkpoint or a directory of them. Every byte is read and compared with the digest
    in the manifest, so a single flipped bit is detected. A store (PATH is a URL) is only asked
    for the lengths and checksums of the objects, which are compared with what it said when they
    were put; --read reads every byte. A file without a manifest is "unverified": it may be
    intact, but there is no evidence. The exit code is 1 if one is corrupt.
    """
    outcomes = list(_select.verify_all(_select.several(paths), read).values())
    corrupt = sum(outcome.status == "corrupt" for outcome in outcomes)
    if as_json:
        _output.emit([_output.with_stored_names(asdict(outcome)) for outcome in outcomes])
    else:
        for outcome in outcomes:
            problem = f": {outcome.problem}" if outcome.problem else ""
            line = f"{outcome.status.ljust(10)}  {outcome.path}{problem}"
            _output.say(line, fg=_COLORS[outcome.status])
        known = sum(outcome.status == "ok" for outcome in outcomes)
        _output.say(
            f"{_output.count(len(outcomes), 'checkpoint')}: {known} ok, {corrupt} corrupt, "
            f"{len(outcomes) - known - corrupt} without a manifest ({_how(outcomes, read)})"
        )
    if corrupt:
        ctx.exit(PROBLEM)


def _how(outcomes: Sequence[Verification], read: bool) -> str:
    """Return what was compared."""
    asked = 0 if read else sum(is_url(outcome.path) for outcome in outcomes)
    total = readable(sum(outcome.size_bytes for outcome in outcomes))
    if not asked:
        return f"{total} read"
    how = "by what the store says of them; --read reads every byte"
    return how if asked == len(outcomes) else f"{total} read; {asked} {how}"
