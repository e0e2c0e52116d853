"""Snapshots: directories of several files that become visible in one rename, or never existed.

1. `.draft-<token>-<name>/` is made and its files are written;
2. `manifest.json` with their sizes and digests is written;
3. the files, the manifest and the draft directory are synced at the same time, in any order;
4. it is renamed to `<name>`: the commit point;
5. the parent directory is synced.

A crash before 4 leaves a draft that nobody lists and `sweep_snapshots` removes; after 4 the
snapshot is whole. Deleting goes the other way round: the directory is renamed to
`.trash-<token>-<name>`, the parent is synced, the files are removed (the manifest last, after a
sync), then the directory. Sweeping starts with a sync of the parent and touches only directories
with one of the two prefixes and a token; of trash it removes only files that the manifest names.
If there are others, the directory gets its old name back.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from keras_ratchet._storage import disk, links
from keras_ratchet._storage.atomic import LEFTOVER, TRASH_PREFIX, HashingFile, draft_path
from keras_ratchet._storage.manifest import (
    FileEntry,
    Manifest,
    check_name,
    entry_of,
    read_manifest,
)
from keras_ratchet._storage.single_file import remove_pin, stale_pins
from keras_ratchet.errors import LoadError

MANIFEST = "manifest.json"


class SnapshotDraft:
    """A snapshot that is not committed yet.

    Args:
        root: The directory that holds the snapshots; it exists.
        name: The snapshot's name.
    """

    def __init__(self, root: str, name: str) -> None:
        self.target = os.path.join(os.path.abspath(root), check_name(name))
        self.path = draft_path(self.target)
        self._files: dict[str, FileEntry] = {}
        self._open: dict[str, HashingFile] = {}  # until they are synced
        self._committed = False
        disk.current.mkdir(self.path)

    def __enter__(self) -> SnapshotDraft:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._committed:
            self.discard()

    def discard(self) -> None:
        """Remove it; what another process still writes there is left to the next sweep."""
        self._close()
        _remove_tree(self.path)

    def _close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open = {}

    @property
    def name(self) -> str:
        """The snapshot's name."""
        return os.path.basename(self.target)

    def write(self, name: str, write: Callable[[HashingFile], None]) -> None:
        """Add a file: call `write` to fill it; `commit` syncs it."""
        path = os.path.join(self.path, check_name(name))
        file = self._open[name] = HashingFile(path)
        write(file)
        file.flush()
        self._files[name] = file.entry() or entry_of(path)

    def add(self, name: str, entry: FileEntry | None = None) -> None:
        """Add a file that another process has written and synced.

        Args:
            name: Its name.
            entry: What that process knows of it; None to read it.
        """
        self._files[check_name(name)] = entry or entry_of(os.path.join(self.path, name))

    def link(self, name: str, source: str, entry: FileEntry, opened: io.FileIO) -> None:
        """Add a file that an older snapshot has: a second name of it, or a copy.

        Args:
            name: Its name.
            source: Where it is, if nobody has deleted it; its bytes are durable.
            entry: What the older snapshot's manifest tells of it.
            opened: The file, open for reading.

        Raises:
            OSError: If the disk refuses, or a copy is not what was saved.
        """
        if links.link_to(opened, source, os.path.join(self.path, check_name(name))):
            self._files[name] = entry
            return
        self.write(name, lambda file: links.copy_opened(opened, file))
        if self._files[name] != entry:
            raise OSError(errno.EIO, f"{source!r} is damaged: it is not what was saved")

    def entry(self, name: str) -> FileEntry:
        """Return what is known of a file that was written."""
        return self._files[name]

    def commit(self, manifest: Manifest) -> Manifest:
        """Write the manifest and make the snapshot visible.

        Args:
            manifest: The manifest without its `files`.

        Returns:
            The whole manifest.

        Raises:
            FileExistsError: If there is a snapshot of this name.
            OSError: If the disk refuses; the snapshot then does not exist.
        """
        manifest = replace(manifest, files=dict(self._files))
        self.write(MANIFEST, lambda file: _write(file, manifest.to_bytes()))
        largest_first = sorted(self._open, key=lambda name: -self._files[name].size_bytes)
        disk.current.sync_all([self._open[n].fileno() for n in largest_first], [self.path])
        self._close()
        if os.path.lexists(self.target):
            raise FileExistsError(f"there is a snapshot {self.target!r} already")
        disk.current.rename(self.path, self.target)
        self._committed = True
        disk.current.sync_directory(os.path.dirname(self.target))
        return manifest


def _write(file: HashingFile, data: bytes) -> None:
    file.write(data)


def list_snapshots(root: str) -> Iterator[tuple[str, str]]:
    """Yield (name, path) of the committed snapshots of a directory, by name."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(root)):
            path = os.path.join(root, name)
            if name.startswith(".") or os.path.islink(path):
                continue
            if os.path.isfile(os.path.join(path, MANIFEST)):
                yield name, path


def snapshot_manifest(path: str) -> Manifest:
    """Return the manifest of a snapshot; raise a LoadError if it cannot be read."""
    return read_manifest(os.path.join(path, MANIFEST))


def delete_snapshot(path: str) -> None:
    """Delete a snapshot durably; after a crash it is whole, or left to `sweep_snapshots`.

    Raises:
        OSError: If the disk refuses, or the path is a symbolic link.
    """
    if os.path.islink(path):
        raise NotADirectoryError(errno.ENOTDIR, "a symbolic link is not a snapshot", path)
    trash = draft_path(path, TRASH_PREFIX)
    disk.current.rename(path, trash)
    disk.current.sync_directory(os.path.dirname(trash))
    _remove_tree(trash)
    remove_pin(path)


def sweep_snapshots(root: str) -> list[str]:
    """Remove the drafts and trash that a crash left in a directory whose lock the caller holds."""
    trees, pins = list(_leftovers(root)), list(stale_pins(root, lambda _: True))
    if trees or pins:  # the process may have been killed before it synced its last rename
        disk.current.sync_directory(root)
    for path in trees:
        _remove_tree(path)
    for path in pins:
        disk.discard(path)
    return [*trees, *pins]


def _leftovers(root: str) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in sorted(os.listdir(root)):
            path = os.path.join(root, entry)
            if LEFTOVER.fullmatch(entry) and os.path.isdir(path) and not os.path.islink(path):
                yield path


def _remove_tree(path: str) -> None:
    """Remove a draft or trash; after an error the next sweep removes the rest."""
    with contextlib.suppress(OSError):
        for name in _ours(path):
            if name == MANIFEST:  # as long as it is there it tells which files are ours
                disk.current.sync_directory(path)
            disk.current.unlink(os.path.join(path, name))
        if not os.listdir(path):
            disk.current.rmdir(path)
            return
        match = LEFTOVER.fullmatch(os.path.basename(path))
        if not os.path.basename(path).startswith(TRASH_PREFIX):
            return  # a draft that another process still writes to is no snapshot
        target = os.path.join(os.path.dirname(path), match["name"] if match else "")
        if not os.path.lexists(target):
            disk.current.rename(path, target)


def _ours(path: str) -> list[str]:
    """Return the names of the files that we wrote into a draft or a snapshot, manifest last."""
    names = os.listdir(path)
    if os.path.basename(path).startswith(TRASH_PREFIX):
        if MANIFEST not in names:  # it is removed last, so nothing here is ours
            return []
        with contextlib.suppress(LoadError):
            known = snapshot_manifest(path).files
            names = [name for name in names if name in known or name == MANIFEST]
    return sorted(names, key=lambda name: name == MANIFEST)
