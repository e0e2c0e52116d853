"""`ratchet pull`: checkpoints from a store, on the local disk."""

from __future__ import annotations

import click

from keras_ratchet._storage.objects.copying import Pull
from keras_ratchet.cli import _copies, _output


@click.command()
@click.argument("url", metavar="URL", type=_output.Place("url"))
@click.argument("directory", metavar="DIR", type=_output.Place("local", file_okay=False))
@_copies.force_option
@_output.json_option
@click.pass_context
def pull(ctx: click.Context, url: str, directory: str, *, force: bool, as_json: bool) -> None:
    """Bring checkpoints from an object store to a local directory.

    URL is a directory on a store, or one checkpoint in it. The files have the form that a run
    writes to a local disk, with manifests, and are verified on arrival; the journal comes with
    them. What is in DIR already is not read again. Another checkpoint of the same name is left
    alone without --force, and damaged ones are named: the exit code is then 1, and the others
    are there.
    """
    _copies.carry_out(ctx, Pull(url, directory), "pull", force, as_json)
