"""Single-file checkpoints: `best.keras` with its manifest in `.ratchet/`.

A manifest's name carries the digest of the file it describes, and it is durable before the
file is put in place:

1. draft beside the target, written and synced;
2. `.ratchet/<file name>.<digest>.json` drafted, synced, renamed, directory synced;
3. `os.replace` of the draft over the target (the commit point), directory synced;
4. manifests of the file's earlier contents removed.

So at every instant the file present matches one of its manifests, and "no manifest matches"
means that the bytes are not those that were saved.
Deleting is the mirror: renamed to `.trash-<token>-<name>`, directory synced, removed, and the
manifests (and the pin, if there is one) last.
`sweep` syncs the directory before it removes anything: the killed process may not have come to
sync its last rename, and what a lost rename brings back must still find its manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from keras_ratchet._storage import disk
from keras_ratchet._storage.manifest import Manifest, matches, read_manifest, record_of
from keras_ratchet.errors import LoadError

SIDE = ".ratchet"
BACKUP_LOCK = "backup.lock"
LONGEST_ADDITION = len(".before-01") + len(".0123456789abcdef0123456789abcdef.json")
_MANIFEST = re.compile(r"(?P<name>.+)\.(?P<digest>[0-9a-f]{32})\.json", re.DOTALL)
_PIN = re.compile(r"(?P<name>.+)\.pin", re.DOTALL)
_LEFTOVER = re.compile(r"\.(draft|trash)-[0-9a-f]{8}-(?P<name>.+)", re.DOTALL)


def side_directory(path: str) -> str:
    """Return the `.ratchet` directory beside a file."""
    return os.path.join(os.path.dirname(os.path.abspath(path)), SIDE)


def pin_path(path: str) -> str:
    """Return the path of the small file whose presence pins a checkpoint."""
    return os.path.join(side_directory(path), f"{os.path.basename(path)}.pin")


def remove_pin(path: str) -> None:
    """Take the protection of a checkpoint away, if there is one."""
    if os.path.lexists(pin_path(path)):
        disk.current.unlink(pin_path(path))
        disk.current.sync_directory(side_directory(path))


def series_lock_path(directory: str, series: str) -> str:
    """Return the lock file of the one writer of a series; make the directory that it is in.

    Args:
        directory: Where the series' files are.
        series: Its name: the last part of the file name template; "" for the snapshots of a
            training, which have none.
    """
    side = os.path.join(directory, SIDE)
    disk.make_directories(side)
    if not series:
        return os.path.join(side, BACKUP_LOCK)
    readable = re.sub(r"[^\w.-]", "_", series)[:100]
    digest = hashlib.sha256(series.encode()).hexdigest()[:8]
    return os.path.join(side, f"{readable}.{digest}.lock")


def save_file(path: str, fill: Callable[[disk.FileDraft], None], facts: Manifest) -> Manifest:
    """Write a single-file checkpoint.

    Args:
        path: The file; its directory exists.
        fill: Writes and syncs the draft.
        facts: The manifest but for its `files`.

    Returns:
        The manifest.

    Raises:
        OSError: If the disk refuses; the older file and its manifest are untouched.
    """
    with disk.FileDraft(path) as draft:
        fill(draft)
        return commit_draft(draft, facts)


def commit_draft(draft: disk.FileDraft, facts: Manifest) -> Manifest:
    """Commit a draft that is written and synced: manifest first, then the file, then clean up."""
    name = os.path.basename(draft.target)
    record = draft.record or record_of(draft.path)
    manifest = replace(facts, files={name: record})
    side = side_directory(draft.target)
    disk.make_directories(side)
    earlier = [entry for entry, _ in _manifest_names(side, name)]
    own = f"{name}.{record.digest}.json"
    write_manifest(os.path.join(side, own), manifest)
    draft.commit()
    for entry in earlier:
        if entry != own:
            disk.discard(os.path.join(side, entry))
    return manifest


def write_manifest(path: str, manifest: Manifest) -> None:
    """Write a manifest durably."""
    with disk.FileDraft(path) as draft:
        draft.write(lambda file: _write(file, manifest.to_bytes()))
        draft.commit()


def _write(file: disk.DraftFile, data: bytes) -> None:
    file.write(data)


def adopt(path: str, facts: Manifest) -> Manifest:
    """Give a file that somebody else wrote a manifest; the file itself is not touched."""
    name = os.path.basename(path)
    record = record_of(path)
    manifest = replace(facts, files={name: record})
    side = side_directory(path)
    disk.make_directories(side)
    write_manifest(os.path.join(side, f"{name}.{record.digest}.json"), manifest)
    return manifest


def manifests_of(path: str) -> list[Manifest]:
    """Return the readable manifests of a file, newest first."""
    side = side_directory(path)
    found = []
    for entry, _ in _manifest_names(side, os.path.basename(path)):
        with contextlib.suppress(LoadError):
            found.append(read_manifest(os.path.join(side, entry)))
    return sorted(found, key=lambda manifest: manifest.saved_at, reverse=True)


def manifest_of(path: str) -> Manifest | None:
    """Return the manifest that describes the file as it is.

    The digest is computed only where several manifests are candidates (after a crash); a sole
    one is returned unverified.

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
    side = os.path.join(directory, SIDE)
    by_name: dict[str, list[str]] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.listdir(side):
            if match := _MANIFEST.fullmatch(entry):
                by_name.setdefault(match["name"], []).append(os.path.join(side, entry))
    return by_name


def _manifest_names(side: str, name: str) -> Iterator[tuple[str, str]]:
    for entry in _entries(side):
        match = _MANIFEST.fullmatch(entry) if entry.startswith(f"{name}.") else None
        if match and match["name"] == name:
            yield entry, os.path.join(side, entry)


def delete_file(path: str) -> None:
    """Delete a single-file checkpoint and its manifests, durably.

    Raises:
        OSError: If the disk refuses; at the latest `sweep` then removes what is left of it.
    """
    trash = disk.draft_path(path, disk.TRASH_PREFIX)
    disk.current.rename(path, trash)
    disk.current.sync_directory(os.path.dirname(trash))
    disk.current.unlink(trash)
    for _, manifest in _manifest_names(side_directory(path), os.path.basename(path)):
        disk.current.unlink(manifest)
    remove_pin(path)


def sweep(directory: str, is_ours: Callable[[str], bool]) -> list[str]:
    """Remove what a crash left of files that are ours, and nothing else.

    Args:
        directory: Where the files are.
        is_ours: Says of a file name whether this caller writes it (and holds its lock).

    Returns:
        The paths removed.
    """
    removed = [
        *_leftovers(directory, is_ours),
        *_stale_manifests(directory, is_ours),
        *stale_pins(directory, is_ours),
    ]
    if removed:  # the killed process may not have come to sync its last rename
        disk.current.sync_directory(directory)
    for path in removed:
        disk.discard(path)
    return removed


def _leftovers(directory: str, is_ours: Callable[[str], bool]) -> Iterator[str]:
    """Yield drafts and trash: of checkpoints, of their manifests, of a probe."""
    for entry in _entries(directory):
        match = _LEFTOVER.fullmatch(entry)
        if match and (is_ours(match["name"]) or match["name"] == disk.PROBE):
            path = os.path.join(directory, entry)
            if os.path.isfile(path):
                yield path
    side = os.path.join(directory, SIDE)
    for entry in _entries(side):
        match = _LEFTOVER.fullmatch(entry)
        inner = _MANIFEST.fullmatch(match["name"]) if match else None
        if inner and is_ours(inner["name"]):
            yield os.path.join(side, entry)


def _stale_manifests(directory: str, is_ours: Callable[[str], bool]) -> Iterator[str]:
    """Yield manifests of files that are gone, and of contents that were never put in place."""
    for name, paths in named_manifests(directory).items():
        target = os.path.join(directory, name)
        if not is_ours(name):
            continue
        if not os.path.exists(target):
            yield from paths
        elif len(paths) > 1:
            own = f".{record_of(target).digest}.json"
            if any(path.endswith(own) for path in paths):
                yield from (path for path in paths if not path.endswith(own))


def stale_pins(directory: str, is_ours: Callable[[str], bool]) -> Iterator[str]:
    """Yield the paths of pins of checkpoints that are gone, and of half-made ones."""
    side = os.path.join(directory, SIDE)
    for entry in _entries(side):
        leftover = _LEFTOVER.fullmatch(entry)
        match = _PIN.fullmatch(leftover["name"] if leftover else entry)
        if match is None or not is_ours(match["name"]):
            continue
        if leftover or not os.path.lexists(os.path.join(directory, match["name"])):
            yield os.path.join(side, entry)


def _entries(directory: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(directory))
    return []
