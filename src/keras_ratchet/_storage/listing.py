"""The checkpoints of a directory, as records."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from keras_ratchet._storage import disk
from keras_ratchet._storage.manifest import Manifest, matches, read_manifest
from keras_ratchet._storage.paths import local_path
from keras_ratchet._storage.single_file import SIDE, named_manifests, pin_path, remove_pin
from keras_ratchet._storage.snapshot_directory import snapshot_manifest, snapshots
from keras_ratchet.errors import LoadError
from keras_ratchet.types import CheckpointInfo

_SUFFIXES = (".keras", ".h5")


def checkpoints(directory: str | os.PathLike[str]) -> list[CheckpointInfo]:
    """Return what is saved in a directory, oldest first. Nothing is verified.

    Args:
        directory: A directory that holds single-file checkpoints, snapshots or both. Plain
            Keras files without a manifest are listed too, with `manifest` False.

    Raises:
        LoadError: If there is no such directory.
    """
    directory = os.path.abspath(local_path(directory, "directory"))
    if not os.path.isdir(directory):
        raise LoadError(f"there is no directory {directory!r}.")
    found = [*_files(directory), *_snapshots(directory)]
    return sorted(found, key=lambda info: (info.saved_at, info.position.epoch, info.name))


def record(path: str | os.PathLike[str]) -> CheckpointInfo:
    """Return the record of one checkpoint, a file or a snapshot directory.

    Raises:
        LoadError: If there is none at this path.
    """
    path = os.path.abspath(local_path(path, "path"))
    name = os.path.basename(path)
    for info in checkpoints(os.path.dirname(path)):
        if info.name == name:
            return info
    raise LoadError(f"there is no checkpoint {path!r}.")


def _files(directory: str) -> Iterator[CheckpointInfo]:
    by_name = named_manifests(directory)
    for entry in os.scandir(directory):
        if entry.name.startswith(".") or not entry.is_file():
            continue
        with contextlib.suppress(FileNotFoundError):  # deleted by a run that goes on meanwhile
            if entry.name in by_name:
                yield file_record(entry.path, by_name[entry.name])
            elif entry.name.endswith(_SUFFIXES):
                yield _bare(entry.path)


def file_record(path: str, manifest_paths: list[str]) -> CheckpointInfo:
    """Return a file's record; where several manifests are candidates, by the one that matches."""
    name = os.path.basename(path)
    manifests = []
    for manifest_path in manifest_paths:
        try:
            manifest = read_manifest(manifest_path)
        except LoadError:
            continue
        if name in manifest.files:
            manifests.append(manifest)
    if len(manifests) > 1:
        manifests = [m for m in manifests if matches(path, m.files[name])] or manifests[:1]
    if not manifests:
        return _bare(path)
    return info_of(path, manifests[0])


def _snapshots(directory: str) -> Iterator[CheckpointInfo]:
    for _, path in snapshots(directory):
        try:
            yield info_of(path, snapshot_manifest(path))
        except LoadError:
            yield _bare(path)


def _bare(path: str) -> CheckpointInfo:
    """Return the record of a checkpoint of which nothing is known."""
    info = os.stat(path)
    size = info.st_size if os.path.isfile(path) else 0
    return CheckpointInfo(os.path.basename(path), path, bytes=size, saved_at=info.st_mtime)


def info_of(path: str, manifest: Manifest) -> CheckpointInfo:
    """Return the record that a manifest gives."""
    return CheckpointInfo(
        name=os.path.basename(path),
        path=path,
        manifest=True,
        directory=os.path.isdir(path),
        position=manifest.position,
        metrics=dict(manifest.metrics),
        ranking=manifest.ranking,
        reason=manifest.reason,
        series=manifest.series,
        run=manifest.run,
        saved_at=manifest.saved_at,
        bytes=sum(record.bytes for record in manifest.files.values()),
        versions=dict(manifest.versions),
        fingerprint=manifest.fingerprint,
        pinned=os.path.exists(pin_path(path)),
    )


def pin(path: str) -> None:
    """Protect a checkpoint from retention and prune."""
    disk.make_directories(os.path.join(os.path.dirname(os.path.abspath(path)), SIDE))
    with disk.FileDraft(pin_path(path)) as draft:
        draft.write(lambda file: None)
        draft.commit()


def unpin(path: str) -> None:
    """Take the protection away again, if there is one."""
    remove_pin(path)
