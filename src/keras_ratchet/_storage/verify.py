"""Verification: whether the bytes on the disk are those that were saved."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from keras_ratchet._storage.manifest import FileEntry, Manifest, entry_of
from keras_ratchet._storage.single_file import manifests_of, named_manifests
from keras_ratchet._storage.snapshot_directory import MANIFEST, snapshot_manifest
from keras_ratchet.errors import LoadError

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome for one checkpoint.

    Attributes:
        path: The file or snapshot directory.
        status: "ok", "unverified" (there is no manifest) or "corrupt".
        problem: What is wrong, in a sentence; "" if nothing is.
        size_bytes: How many bytes were read.
    """

    path: str
    status: str
    problem: str = ""
    size_bytes: int = 0

    def __bool__(self) -> bool:
        return self.status == "ok"


def verify(path: str | os.PathLike[str]) -> Verification:
    """Compare a checkpoint with its manifest, byte for byte.

    Args:
        path: A single-file checkpoint or a snapshot directory.

    Returns:
        The outcome, which is true if and only if the content is what was saved.

    Raises:
        LoadError: If there is nothing at this path.
    """
    path = os.fsdecode(path)
    if os.path.isdir(path):
        return _verify_snapshot(path)
    if not os.path.isfile(path):
        raise LoadError(f"there is no checkpoint {path!r}.")
    return _verify_file(path)


def _verify_file(path: str) -> Verification:
    """Verify a file; once more if a save replaced it meanwhile."""
    real = os.path.realpath(path)
    for _ in range(_TRIES):
        before = _identity(real)
        outcome = _compare(path, real)
        if outcome or _identity(real) == before:
            return outcome
    return outcome


def _identity(path: str) -> tuple[int, int, int] | None:
    with contextlib.suppress(OSError):
        info = os.stat(path)
        return info.st_ino, info.st_mtime_ns, info.st_size
    return None


def _compare(path: str, real: str) -> Verification:
    """Compare a file with its manifests, which are where symbolic links lead."""
    name = os.path.basename(real)
    manifests = [manifest for manifest in manifests_of(real) if name in manifest.files]
    if not manifests:
        return _without_manifest(path, real)
    try:
        actual = entry_of(real)
    except OSError as error:
        return Verification(path, "corrupt", f"it cannot be read: {error.strerror or error}")
    if any(manifest.files[name] == actual for manifest in manifests):
        return Verification(path, "ok", size_bytes=actual.size_bytes)
    problem = difference(name, manifests[0].files[name], actual)
    return Verification(path, "corrupt", problem, actual.size_bytes)


def _without_manifest(path: str, real: str) -> Verification:
    """Return "unverified" if a file has no manifest, "corrupt" if its manifest is damaged."""
    damaged = named_manifests(os.path.dirname(real)).get(os.path.basename(real))
    if not damaged:
        return Verification(path, "unverified", "it has no manifest")
    return Verification(
        path,
        "corrupt",
        f"its manifest {damaged[0]!r} is damaged (if the file itself can be trusted, `ratchet "
        "adopt` writes a new one)",
    )


def _verify_snapshot(path: str) -> Verification:
    if not os.path.isfile(os.path.join(path, MANIFEST)):
        raise LoadError(f"{path!r} is a directory without {MANIFEST}, so it is not a snapshot.")
    try:
        manifest = snapshot_manifest(path)
    except LoadError as error:
        return Verification(path, "corrupt", str(error))
    problem, size = _check_files(path, manifest)
    return Verification(path, "corrupt" if problem else "ok", problem, size)


def _check_files(path: str, manifest: Manifest) -> tuple[str, int]:
    total = 0
    for name, expected in manifest.files.items():
        try:
            actual = _entry_of_plain_file(os.path.join(path, name), expected)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}", total
        total += actual.size_bytes
        if actual != expected:
            return difference(name, expected, actual), total
    return _foreign(path, manifest.files), total


def _entry_of_plain_file(path: str, expected: FileEntry) -> FileEntry:
    """Return a file's entry; do not read files of another size, nor open links or devices."""
    info = os.lstat(path)
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if info.st_size != expected.size_bytes:
        return FileEntry(info.st_size, "")
    return entry_of(path)


def _foreign(path: str, files: Mapping[str, FileEntry]) -> str:
    extra = sorted(set(os.listdir(path)) - set(files) - {MANIFEST})
    return f"it contains files that were not saved with it: {', '.join(extra)}" if extra else ""


def difference(name: str, expected: FileEntry, actual: FileEntry) -> str:
    """Return how a file's bytes are not those that were saved."""
    if expected.size_bytes != actual.size_bytes:
        return f"{name} has {actual.size_bytes} bytes where {expected.size_bytes} were saved"
    return f"the bytes of {name} are not those that were saved (digest differs)"
