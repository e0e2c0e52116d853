"""Branches: runs that go on from a snapshot of another run, or from an older one of their own.

The snapshot is copied into the directory of the branch, as a save would write it: after a crash it
is there whole, or not at all. From then on all snapshots of the branch have its name as `run` in
their manifests. The name is made of what was chosen and of the digest of its bytes, so a script
that is started again finds that its branch was begun, without a note that could be lost; and the
snapshots of a directory that are of other branches are told apart, and left alone.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import replace

import xxhash

from keras_ratchet._storage import anywhere, links, space
from keras_ratchet._storage.manifest import FileEntry, Manifest
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.snapshot_directory import MANIFEST, SnapshotDraft
from keras_ratchet._storage.verify import verify
from keras_ratchet.errors import CorruptError, LoadError
from keras_ratchet.types import CheckpointInfo, Position


def branch_name(key: str, files: Mapping[str, FileEntry]) -> str:
    """Return the name of the branch that goes on from a snapshot.

    Args:
        key: Name of the snapshot, or the word by which it was chosen.
        files: Its files.
    """
    facts = sorted((name, entry.size_bytes, entry.digest) for name, entry in files.items())
    return f"{key}@{xxhash.xxh3_128(json.dumps(facts).encode()).hexdigest()[:16]}"


def key_of(branch: str) -> str:
    """Return the name of the snapshot that a branch went on from; "" of what is no branch.

    Example:
        >>> key_of("epoch-00003-batch-0000000@0123456789abcdef"), key_of("")
        ('epoch-00003-batch-0000000', '')
    """
    return branch.rpartition("@")[0]


def snapshot_name(position: Position, finished: bool) -> str:
    """Return the name of a snapshot, if it is the first one of this position."""
    name = f"epoch-{position.epoch:05d}-batch-{position.batch:07d}"
    return f"{name}-finished" if finished else name


def is_finished(name: str) -> bool:
    """Return whether a snapshot of this name is of the end of a run."""
    return "-finished" in name


def snapshot_at(path: str, options: anywhere.Options = None) -> CheckpointInfo:
    """Return the snapshot at a path or a URL.

    Raises:
        LoadError: If there is none, or a file.
        CorruptError: If its manifest cannot be read.
    """
    if anywhere.is_directory(path, options):
        raise LoadError(
            f"{path!r} is a directory of snapshots, or has none: name one of them (see `ratchet "
            f"ls {path}`).",
            see="resume-from",
        )
    info = anywhere.checkpoint_at(path, options)
    if info.is_directory:
        return info
    if not is_url(path) and os.path.isfile(os.path.join(path, MANIFEST)):
        raise CorruptError(f"{path!r} is damaged: its manifest cannot be read.")
    raise LoadError(
        f"{path!r} is a model file, which has the weights but not the state of a run. Use "
        "keras_ratchet.load_model, and `fit(initial_epoch=...)`, to go on from it.",
        see="resume-from",
    )


def copy_snapshot(source: str, directory: str, name: str, manifest: Manifest) -> None:
    """Copy a snapshot into another directory, and commit it there.

    Args:
        source: The local path of the snapshot.
        directory: The directory, whose lock the caller holds.
        name: The copy's name.
        manifest: The copy's manifest; its `files` are those of the source.

    Raises:
        CorruptError: If the source is not what was saved; then there is no copy.
        LoadError: If the source is deleted meanwhile.
        OSError: If the disk refuses.
    """
    outcome = verify(source)
    if not outcome:
        raise CorruptError(f"{source!r} is damaged: {outcome.problem}.")
    space.require(directory, sum(entry.size_bytes for entry in manifest.files.values()))
    with SnapshotDraft(directory, name) as draft:
        for file, entry in manifest.files.items():
            original = os.path.join(source, file)
            if not os.path.exists(original):
                raise LoadError(f"{source!r} was deleted while it was copied.")
            draft.write(file, functools.partial(links.copy_into, original))
            if draft.entry(file) != entry:
                raise CorruptError(f"{source!r} is damaged: {file} has changed since it was read.")
        draft.commit(replace(manifest, files={}))
