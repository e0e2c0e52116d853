"""Directories of checkpoints without a training: real manifests around made-up bytes."""

import json
import os
import subprocess
import sys

from keras_ratchet._storage import journal, single_file, snapshot_directory
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.types import Position

SERIES = "epoch-{epoch:02d}.keras"
START = 1_700_000_000.0


def facts(epoch, series=SERIES, ranking=(("val_loss", "min"),), **metrics):
    """Return a manifest without files, of a checkpoint after `epoch` epochs."""
    return Manifest(
        files={},
        position=Position(epoch, 0, epoch * 10),
        metrics=metrics,
        ranking=ranking,
        reason=f"epoch {epoch} ended",
        series=series,
        saved_at=START + epoch,
        versions={"keras": "3.15.1", "backend": "torch"},
        fingerprint="f" * 32,
    )


def save(directory, name, manifest, content=None):
    """Save a file with its manifest; return its path."""
    path = os.path.join(directory, name)
    data = f"bytes of {name}".encode() * 100 if content is None else content
    single_file.save_file(path, lambda draft: draft.write(lambda file: file.write(data)), manifest)
    return path


def series(directory, *val_losses):
    """Save one file per value, `epoch-01.keras` first; return their paths."""
    return [
        save(directory, f"epoch-{epoch:02d}.keras", facts(epoch, val_loss=value, loss=value + 1))
        for epoch, value in enumerate(val_losses, 1)
    ]


def snapshot(directory, epoch):
    """Save a snapshot directory as BackupAndRestore does; return its path."""
    name = f"epoch-{epoch:05d}-batch-0000000"
    with snapshot_directory.SnapshotDraft(directory, name) as draft:
        draft.write("state.json", lambda file: file.write(b"{}"))
        draft.commit(facts(epoch, series="", ranking=()))
    return os.path.join(directory, name)


def flip_bit(path, at=10):
    """Change one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def note(directory, *events):
    """Write a journal; each event is a dict with its name under `event`."""
    for event in events:
        journal.append(str(directory), **event)


def strict_json(text):
    """Parse JSON that has no NaN and no infinities."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Holder:
    """Another process that holds the lock of a series, as a training does."""

    _CODE = (
        "import sys; from keras_ratchet._storage.lock import FileLock; "
        "from keras_ratchet._storage.single_file import series_lock_path; "
        "lock = FileLock(series_lock_path(sys.argv[1], sys.argv[2]), 'x'); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )

    def __init__(self, directory, series_name=SERIES):
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._CODE, str(directory), series_name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        assert self._process.stdout.readline() == "held\n"
        return self._process.pid

    def __exit__(self, *_):
        self._process.communicate(timeout=60)
