"""Single-file checkpoints: `best.keras` with its manifest in `.ratchet/`.

A manifest's name carries the digest of the file it describes, and both are durable before the
file is put in its place:

1. draft beside the target, written;
2. `.ratchet/<file name>.<digest>.json` written;
3. draft, manifest and `.ratchet` synced at the same time, in any order;
4. `os.replace` of the draft over the target (the commit point), directory synced;
5. manifests of the file's earlier contents removed.

So at every instant the file matches one of its manifests, and "no manifest matches" means that
the bytes are not those that were saved. A manifest that a crash in 2 or 3 has torn is about a
draft, and its seal does not match. One that is there already (the same bytes are saved again) may
be about the target: it is drafted, synced and renamed instead.

Deleting goes the other way round: the file is renamed to `.trash-<token>-<name>`, the directory is
synced, the file is removed, and its manifests (and its pin, if it has one) go last.

`sweep` syncs the directory before it removes anything: the process may have been killed before it
synced its last rename, and a file that comes back when that rename is lost still needs its
manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from keras_ratchet._storage import disk
from keras_ratchet._storage.atomic import (
    LEFTOVER,
    PROBE,
    TRASH_PREFIX,
    AtomicFile,
    HashingFile,
    draft_path,
)
from keras_ratchet._storage.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    check_seal,
    entry_of,
    matches,
    read_manifest,
)
from keras_ratchet.errors import LoadError

METADATA = ".ratchet"
BACKUP_LOCK = "backup.lock"
REPORTED = "reported.json"  # which epochs a scheduler was told of
LONGEST_ADDITION = len(".before-01") + len(".0123456789abcdef0123456789abcdef.json")
_MANIFEST = re.compile(r"(?P<name>.+)\.(?P<digest>[0-9a-f]{32})\.json", re.DOTALL)
_PIN = re.compile(r"(?P<name>.+)\.pin", re.DOTALL)


def metadata_directory(path: str) -> str:
    """Return the `.ratchet` directory beside a file."""
    return os.path.join(os.path.dirname(os.path.abspath(path)), METADATA)


def pin_path(path: str) -> str:
    """Return the path of the empty file that pins a checkpoint by being there."""
    return os.path.join(metadata_directory(path), f"{os.path.basename(path)}.pin")


def remove_pin(path: str) -> None:
    """Remove the pin of a checkpoint, if it has one."""
    if os.path.lexists(pin_path(path)):
        disk.current.unlink(pin_path(path))
        disk.current.sync_directory(metadata_directory(path))


def series_lock_path(directory: str, series: str) -> str:
    """Return the path of a series' lock file; make the directory that it is in.

    Args:
        directory: Where the series' files are.
        series: Its name, the last part of the file name template; "" for snapshots.
    """
    metadata = os.path.join(directory, METADATA)
    disk.make_directories(metadata)
    if not series:
        return os.path.join(metadata, BACKUP_LOCK)
    readable = re.sub(r"[^\w.-]", "_", series)[:100]
    digest = hashlib.sha256(series.encode()).hexdigest()[:8]
    return os.path.join(metadata, f"{readable}.{digest}.lock")


def save_file(path: str, fill: Callable[[AtomicFile], None], manifest: Manifest) -> Manifest:
    """Write a single-file checkpoint.

    Args:
        path: The file; its directory exists.
        fill: Writes the draft.
        manifest: The manifest without its `files`.

    Returns:
        The whole manifest.

    Raises:
        OSError: If the disk refuses; the older file and its manifest are untouched.
    """
    with AtomicFile(path) as draft:
        fill(draft)
        return commit_draft(draft, manifest)


def commit_draft(draft: AtomicFile, manifest: Manifest) -> Manifest:
    """Commit a draft: its manifest is durable first, then the file; then older manifests go."""
    name = os.path.basename(draft.target)
    manifest = replace(manifest, files={name: draft.entry or entry_of(draft.path)})
    earlier = list(_manifest_paths(draft.target))
    own = _manifest_path(draft.target, manifest)
    _sync_with_manifest(draft, own, manifest)
    draft.commit()
    for path in earlier:
        if path != own:
            disk.discard(path)
    return manifest


def _sync_with_manifest(draft: AtomicFile, where: str, manifest: Manifest) -> None:
    """Write the manifest of a draft; make both durable, at the same time."""
    directory = os.path.dirname(where)
    disk.make_directories(directory)
    try:
        fd = disk.current.open(where, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:  # the manifest of the same bytes, which may be in their place
        write_manifest(draft.target, manifest)
        return
    try:
        _write_all(fd, manifest.to_bytes())
        draft.sync([fd], [directory])
    except BaseException:
        disk.discard(where)
        raise
    finally:
        os.close(fd)


def replace_file(path: str, data: bytes) -> None:
    """Write a small file durably: it is the whole old one or the whole new one."""
    with AtomicFile(path) as draft:
        draft.write(lambda file: _write(file, data))
        draft.commit()


def write_manifest(path: str, manifest: Manifest) -> str:
    """Write the manifest of a file durably; return where it is.

    Args:
        path: The file that it describes.
        manifest: The manifest, with the file's entry.
    """
    where = _manifest_path(path, manifest)
    disk.make_directories(os.path.dirname(where))
    replace_file(where, manifest.to_bytes())
    return where


def _manifest_path(path: str, manifest: Manifest) -> str:
    """Return where the manifest of a file is; its name has the digest of the file's bytes."""
    name = os.path.basename(path)
    return os.path.join(metadata_directory(path), f"{name}.{manifest.files[name].digest}.json")


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[disk.current.write(fd, rest) :]


def _write(file: HashingFile, data: bytes) -> None:
    file.write(data)


def adopt(path: str, manifest: Manifest) -> None:
    """Write a manifest for a file that other code wrote; the file itself is not touched."""
    write_manifest(path, replace(manifest, files={os.path.basename(path): entry_of(path)}))


def manifests_of(path: str) -> list[Manifest]:
    """Return the readable manifests of a file, newest first."""
    found = []
    for manifest_path in _manifest_paths(path):
        with contextlib.suppress(LoadError):
            found.append(read_manifest(manifest_path))
    return sorted(found, key=lambda manifest: manifest.saved_at, reverse=True)


def manifest_of(path: str) -> Manifest | None:
    """Return the manifest that describes a file as it is, or None.

    The digest is computed only if there are several manifests (after a crash); a single one is
    returned unverified.

    Raises:
        OSError: If the file cannot be read.
    """
    found = [m for m in manifests_of(path) if os.path.basename(path) in m.files]
    if len(found) > 1:
        name = os.path.basename(path)
        found = [manifest for manifest in found if matches(path, manifest.files[name])]
    return found[0] if found and os.path.exists(path) else None


def named_manifests(directory: str) -> dict[str, list[str]]:
    """Return the paths of the manifests in a directory's `.ratchet`, by the file they describe."""
    metadata = os.path.join(directory, METADATA)
    by_name: dict[str, list[str]] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.listdir(metadata):
            if (name := described_by(entry)) is not None:
                by_name.setdefault(name, []).append(os.path.join(metadata, entry))
    return by_name


def described_by(entry: str) -> str | None:
    """Return the name of the file that an entry of `.ratchet` is a manifest of, or None."""
    match = _MANIFEST.fullmatch(entry)
    return match["name"] if match else None


def _manifest_paths(path: str) -> Iterator[str]:
    """Yield the paths of a file's manifests, whether they can be read or not."""
    directory, name = metadata_directory(path), os.path.basename(path)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        prefix = f"{name}."
        of_file = [entry for entry in os.listdir(directory) if entry.startswith(prefix)]
        for entry in sorted(of_file):
            if described_by(entry) == name:
                yield os.path.join(directory, entry)


def delete_file(path: str) -> None:
    """Delete a single-file checkpoint and its manifests, durably.

    Raises:
        OSError: If the disk refuses; `sweep` removes what is then left of it.
    """
    trash = draft_path(path, TRASH_PREFIX)
    disk.current.rename(path, trash)
    disk.current.sync_directory(os.path.dirname(trash))
    disk.current.unlink(trash)
    for manifest in _manifest_paths(path):
        disk.current.unlink(manifest)
    remove_pin(path)


def sweep(directory: str, is_ours: Callable[[str], bool]) -> list[str]:
    """Remove what a crash left of our files, and nothing else.

    Args:
        directory: Where the files are.
        is_ours: Returns whether the caller writes a file of this name, and holds its lock.

    Returns:
        The paths removed.
    """
    removed = [
        *_leftovers(directory, is_ours),
        *_stale_manifests(directory, is_ours),
        *stale_pins(directory, is_ours),
    ]
    if removed:  # the process may have been killed before it synced its last rename
        disk.current.sync_directory(directory)
    for path in removed:
        disk.discard(path)
    return removed


def _leftovers(directory: str, is_ours: Callable[[str], bool]) -> Iterator[str]:
    """Yield drafts and trash of checkpoints and their manifests, and drafts of probes."""
    for entry in _entries(directory):
        match = LEFTOVER.fullmatch(entry)
        if match and (is_ours(match["name"]) or match["name"] == PROBE):
            path = os.path.join(directory, entry)
            if os.path.isfile(path):
                yield path
    metadata = os.path.join(directory, METADATA)
    for entry in _entries(metadata):
        match = LEFTOVER.fullmatch(entry)
        inner = described_by(match["name"]) if match else None
        if inner is not None and is_ours(inner):
            yield os.path.join(metadata, entry)


def _stale_manifests(directory: str, is_ours: Callable[[str], bool]) -> Iterator[str]:
    """Yield manifests of files that are gone, and of drafts that were never put in place."""
    for name, paths in named_manifests(directory).items():
        target = os.path.join(directory, name)
        if not is_ours(name):
            continue
        if not os.path.exists(target):
            yield from paths
        elif len(paths) > 1 or _is_torn(paths[0]):
            own = f".{entry_of(target).digest}.json"
            if any(path.endswith(own) for path in paths) or len(paths) == 1:
                yield from (path for path in paths if not path.endswith(own))


def _is_torn(path: str) -> bool:
    """Return whether a crash has left a part of a manifest; an old one may only be damaged."""
    try:
        with open(path, "rb", buffering=0) as file:
            check_seal(file.read(MAX_MANIFEST_BYTES))
    except ValueError:
        return True
    except OSError:
        return False
    return False


def stale_pins(directory: str, is_ours: Callable[[str], bool]) -> Iterator[str]:
    """Yield the paths of pins whose checkpoints are gone, and of drafts of pins."""
    metadata = os.path.join(directory, METADATA)
    for entry in _entries(metadata):
        leftover = LEFTOVER.fullmatch(entry)
        match = _PIN.fullmatch(leftover["name"] if leftover else entry)
        if match is None or not is_ours(match["name"]):
            continue
        if leftover or not os.path.lexists(os.path.join(directory, match["name"])):
            yield os.path.join(metadata, entry)


def _entries(directory: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(directory))
    return []
