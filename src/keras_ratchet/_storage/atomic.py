"""A file that appears in one rename, or not at all.

1. A draft is created beside its target, in the same directory: `.draft-<token>-<name>`;
2. its bytes are written and synced;
3. `os.replace` puts it in the target's place: the one commit point;
4. the directory is synced, so that the new name survives a power cut.

A crash before 3 leaves a draft that nobody lists and the next start removes; the older file is
untouched. After 3 the new file is whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable

from keras_ratchet._storage import disk
from keras_ratchet._storage.hashing_file import HashingFile
from keras_ratchet._storage.manifest import FileEntry

DRAFT_PREFIX = ".draft-"
TRASH_PREFIX = ".trash-"
LEFTOVER = re.compile(
    rf"(?:{re.escape(DRAFT_PREFIX)}|{re.escape(TRASH_PREFIX)})[0-9a-f]{{8}}-(?P<name>.+)", re.DOTALL
)
PROBE = "probe"


def name_limit(directory: str) -> int:
    """Return how long a file name may be, in bytes: 255, or 143 where names are encrypted."""
    try:
        return min(os.pathconf(directory, "PC_NAME_MAX"), 255)
    except (AttributeError, OSError, ValueError):  # Windows; a directory that is not there yet
        return 255


def draft_path(target: str, prefix: str = DRAFT_PREFIX) -> str:
    """Return a new temporary name beside `target`, within the length limit of names."""
    directory, name = os.path.split(os.path.abspath(target))
    prefix = f"{prefix}{secrets.token_hex(4)}-"
    room = name_limit(directory) - len(prefix)
    tail = os.fsencode(name)[-room:]  # the end has the suffix
    return os.path.join(directory, prefix + tail.decode("utf-8", "replace").lstrip("\ufffd"))


class AtomicFile:
    """A file that becomes `target` in one rename, or never existed.

    Use it as a context manager: leaving the block before `commit` discards the draft. So
    `target` is, at every instant, the whole old file or the whole new one.

    Args:
        target: The path; its directory exists. A symbolic link is followed.

    Attributes:
        path: Where the draft is written; it has the target's suffix.
        entry: Size and digest, if they are known from writing the draft.
    """

    def __init__(self, target: str) -> None:
        self.target = os.path.realpath(target)
        self.path = draft_path(self.target)
        self.entry: FileEntry | None = None
        self._committed = False

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._committed:
            disk.discard(self.path)

    def write(self, write: Callable[[HashingFile], None]) -> None:
        """Create the draft, call `write` to fill it, and sync it."""
        with contextlib.closing(HashingFile(self.path)) as file:
            write(file)
            file.sync()
            self.entry = file.entry()

    def sync(self) -> None:
        """Sync a draft that other code wrote and closed."""
        fd = disk.current.open(self.path, os.O_RDWR)
        try:
            disk.current.sync(fd)
        finally:
            os.close(fd)

    def commit(self) -> None:
        """Move the synced draft to the target's place, durably."""
        disk.current.replace(self.path, self.target)
        self._committed = True
        disk.current.sync_directory(os.path.dirname(self.target))


def probe(directory: str) -> None:
    """Raise an OSError unless a file can be written in `directory`; leave nothing there.

    The directory's own entry is synced too: it may have been made a moment ago, perhaps by a run
    that was killed before it could sync it.
    """
    draft = draft_path(os.path.join(directory, PROBE))
    try:
        with contextlib.closing(HashingFile(draft)) as file:
            file.write(b"keras-ratchet")
            file.flush()
    finally:
        disk.discard(draft)
    with contextlib.suppress(PermissionError):  # we may not be allowed to read it
        disk.current.sync_directory(os.path.dirname(os.path.abspath(directory)))
