"""`ratchet branch`: a new run's directory, which goes on from a snapshot."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import click

from keras_ratchet._storage import anywhere, disk, journal, single_file
from keras_ratchet._storage.branching import (
    branch_name,
    copy_snapshot,
    is_finished,
    snapshot_at,
    snapshot_name,
)
from keras_ratchet._storage.lock import FileLock
from keras_ratchet._storage.snapshot_directory import snapshot_manifest
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import _output
from keras_ratchet.types import CheckpointInfo


@click.command()
@click.argument("snapshot", type=_output.Place())
@click.argument("directory", metavar="NEWDIR", type=_output.Place("local", file_okay=False))
@_output.json_option
def branch(snapshot: str, directory: str, as_json: bool) -> None:
    """Start a new run's directory from a snapshot.

    SNAPSHOT is a snapshot of any run. It is copied into NEWDIR, which must not exist or be
    empty; a script with `BackupAndRestore(NEWDIR)` then goes on from it. The copy is verified.
    The run that has saved the snapshot is not changed.
    """
    info = snapshot_at(snapshot)
    directory = os.path.abspath(directory)
    if os.path.isdir(directory) and os.listdir(directory):
        raise click.UsageError(
            f"{directory!r} is not empty. Name a new directory; to go on in the directory of a "
            "run use BackupAndRestore(resume_from=...)."
        )
    source = anywhere.local_copy(snapshot)
    path = _copy(source, info, directory)
    copied = anywhere.checkpoint_at(path)
    if as_json:
        _output.emit(_output.as_data(copied) | {"from": info.path})
        return
    _output.say(f"{path}  {readable(copied.size_bytes)}  branched from {info.path}")
    _output.say(f"Train with BackupAndRestore({directory!r}) to go on from it.")


def _copy(source: str, info: CheckpointInfo, directory: str) -> str:
    """Copy a snapshot into the directory of a new run; return the copy's path."""
    manifest = snapshot_manifest(source)
    name = snapshot_name(manifest.position, is_finished(info.name))
    reason = f"branched from {info.path}"
    run = branch_name(info.name, manifest.files)
    copy = replace(manifest, run=run, reason=reason, saved_at=time.time())
    disk.make_directories(os.path.join(directory, single_file.METADATA))
    with FileLock(single_file.series_lock_path(directory, ""), f"backup directory {directory!r}"):
        copy_snapshot(source, directory, name, copy)
        where = {"epoch": copy.position.epoch, "batch": copy.position.batch}
        journal.append(
            directory, "branch", name=name, **{"from": info.path}, **where, reason=reason
        )
    return os.path.join(directory, name)
