"""`ratchet pin` and `ratchet unpin`: protect a checkpoint from retention and prune."""

from __future__ import annotations

import click

from keras_ratchet._storage import anywhere
from keras_ratchet.cli import _output, _select


@click.command()
@_output.paths_argument
@_output.json_option
def pin(paths: tuple[str, ...], as_json: bool) -> None:
    """Protect checkpoints from deletion.

    Neither retention during training (`keep_best` and the like) nor `ratchet prune` deletes a
    pinned checkpoint. `ratchet unpin` removes the protection.
    """
    _apply(paths, True, "pinned", as_json)


@click.command()
@_output.paths_argument
@_output.json_option
def unpin(paths: tuple[str, ...], as_json: bool) -> None:
    """Remove the protection of `pin`.

    Retention and `ratchet prune` may then delete the checkpoint.
    """
    _apply(paths, False, "unpinned", as_json)


def _apply(paths: tuple[str, ...], pinned: bool, done: str, as_json: bool) -> None:
    snapshots = [_select.one(path) for path in paths]  # all of them exist, or nothing is changed
    for snapshot in snapshots:
        anywhere.set_pin(snapshot.path, pinned)
    if as_json:
        _output.emit([_output.as_data(anywhere.checkpoint_at(s.path)) for s in snapshots])
        return
    for snapshot in snapshots:
        _output.say(f"{done}  {snapshot.path}")
