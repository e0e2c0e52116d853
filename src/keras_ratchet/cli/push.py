"""`ratchet push`: the checkpoints of the local disk, on a store."""

from __future__ import annotations

import click

from keras_ratchet._storage.objects.copying import Push
from keras_ratchet.cli import _copies, _output


@click.command()
@click.argument(
    "directory", metavar="DIR", type=_output.Place("local", exists=True, file_okay=False)
)
@click.argument("url", metavar="URL", type=_output.Place("url"))
@_copies.force_option
@_output.json_option
@click.pass_context
def push(ctx: click.Context, directory: str, url: str, *, force: bool, as_json: bool) -> None:
    """Put the checkpoints of a local directory on an object store.

    Every checkpoint with a manifest that the store lacks is verified and put, and the journal
    with them; what is there already is not put again. Another checkpoint of the same name is
    left alone without --force, and damaged ones are named: the exit code is then 1, and the
    others are there. A run that saves here or there is not disturbed: it is an error.
    """
    _copies.carry_out(ctx, Push(directory, url), "push", force, as_json)
