"""`follow`: the checkpoints of a run as they are committed, for an evaluator in another process.

The listing of the directory is what counts: a checkpoint is yielded when it is listed with its
manifest and verifies. The journal is only a hint that the run has ended.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from keras_ratchet._storage import anywhere
from keras_ratchet._storage.journal import NAME
from keras_ratchet._storage.journal_tail import Tail
from keras_ratchet._storage.lock_state import lock_state
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.single_file import BACKUP_LOCK, METADATA
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError, LoadError
from keras_ratchet.types import CheckpointInfo

_POLL_S, _POLL_STORE_S = 1.0, 15.0
_CLEAN = "training ended"
_FINISHED = re.compile(r"epoch-\d+-batch-\d+-finished(-\d+)?")
_GOES_ON = ("epoch", "save", "end", "preempted", "stop")


def follow(
    directory: str | os.PathLike[str],
    *,
    poll_s: float | None = None,
    existing: bool = True,
    until_end: bool = True,
    timeout_s: float | None = None,
    verify: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[CheckpointInfo]:
    """Yield the checkpoints of a directory as they are committed, each version of a file once.

    It runs in a process of its own, or on another machine that sees the directory, and never writes
    there. A draft, a half file or a file without a manifest is never yielded. Of a file that is
    saved again under its name (`best.keras`) each version is yielded that was there when the
    directory was looked at; a version that was replaced, or a file that retention deleted, between
    two looks is left out. So is a copy under another name (`best.before-01.keras`). The order is
    that of the commits; what was committed between two looks comes in the order of the saves.

    The run has ended when the journal says so for every callback that saves there, or when a
    snapshot is there with which `BackupAndRestore` marks a finished run, or when it has deleted its
    snapshots because the run is finished. A run that was killed, preempted or interrupted has not
    ended: it is waited for until it is resumed and ends, or until `timeout_s`.

    Args:
        directory: The directory, which need not exist yet; or the URL of one on an object store.
        poll_s: Seconds between two looks; by default 1, for a URL 15.
        existing: Whether to begin with what is there already; if not, an end that was before does
            not count either.
        until_end: Whether to end when the run has ended and all it has saved was yielded. If not,
            the next run in that directory is followed, too.
        timeout_s: End when there was nothing new for so many seconds; None for never.
        verify: Whether each checkpoint is compared with its manifest, byte for byte, before it is
            yielded (on a store: by its checksums). One that does not match is left out, with a
            warning.
        storage_options: For a URL: arguments of its fsspec file system.

    Yields:
        What is known about each checkpoint, as `checkpoints` returns it. Its file may be replaced
        or deleted at any later moment; `load_model` verifies what it reads.

    Raises:
        ConfigError: If an argument cannot work.
        LoadError: If a store cannot be read.

    Example:
        for checkpoint in keras_ratchet.follow("runs/digits"):
            model = keras_ratchet.load_model(checkpoint.path)
            print(checkpoint.name, model.evaluate(x_test, y_test))
    """
    place = anywhere.path_or_url(directory, "directory")
    if poll_s is None:
        poll_s = _POLL_STORE_S if is_url(place) else _POLL_S
    for name, value in (("poll_s", poll_s), ("timeout_s", timeout_s)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} must be a positive number of seconds. Got: {value!r}.")
    news = _News(place, verify, storage_options)
    ending = _Ending(place, existing, storage_options)
    if not existing:
        news.skip()
    return _followed(news, ending if until_end else None, poll_s, timeout_s)


def _followed(
    news: _News, ending: _Ending | None, poll_s: float, timeout_s: float | None
) -> Iterator[CheckpointInfo]:
    last = time.monotonic()
    while True:
        has_ended = ending is not None and ending.look()  # before the listing, which has all then
        for info in news.look():
            yield info
            last = time.monotonic()
        if has_ended and not news.in_doubt:
            return
        left = math.inf if timeout_s is None else last + timeout_s - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(poll_s, left))


class _News:
    """What is new in a directory since the last look.

    Args:
        place: The directory or URL.
        verify: Whether to compare with manifests.
        options: `storage_options`.
    """

    def __init__(self, place: str, verify: bool, options: Mapping[str, Any] | None) -> None:
        self._place = place
        self._verify = verify
        self._options = options
        self._seen: set[Hashable] = set()
        self._doubts: dict[Hashable, Hashable] = {}  # what did not match, and the file as it was
        self._before: Hashable = None

    @property
    def in_doubt(self) -> bool:
        """Whether something did not match, and is looked at once more."""
        return self._before is None

    def skip(self) -> None:
        """Forget what is there now."""
        self._seen.update(map(_version, self._listed()))

    def look(self) -> Iterator[CheckpointInfo]:
        """Yield what was committed since the last look."""
        before = _fingerprint(self._place)
        if before is not None and before == self._before:
            return
        self._before = before or ()
        for info in self._listed():
            version = _version(info)
            if version not in self._seen and self._is_whole(info, version):
                self._seen.add(version)
                yield info

    def _listed(self) -> list[CheckpointInfo]:
        try:
            found = anywhere.checkpoints(self._place, storage_options=self._options)
        except (LoadError, FileNotFoundError):
            if is_url(self._place):
                raise
            return []  # the directory does not exist yet, or not any more
        return [info for info in found if info.has_manifest]

    def _is_whole(self, info: CheckpointInfo, version: Hashable) -> bool:
        """Return whether this version of a checkpoint is there."""
        if not self._verify and not is_url(self._place):
            return os.path.lexists(info.path)
        now = _identity(info.path)
        known = self._doubts.get(version)
        if known == ("told", now):
            return False
        with contextlib.suppress(LoadError):  # deleted since it was listed
            outcome = anywhere.verify(info.path, storage_options=self._options, read=False)
            if outcome:
                return self._is_still(info, version)
            self._doubt(version, now, f"{info.path!r} is left out: {outcome.problem}.")
        return False

    def _is_still(self, info: CheckpointInfo, version: Hashable) -> bool:
        """Return whether what was verified is this version, rather than the one after it."""
        with contextlib.suppress(LoadError, FileNotFoundError):
            if _version(anywhere.checkpoint_at(info.path, self._options)) == version:
                return True
        self._before = None
        return False

    def _doubt(self, version: Hashable, now: Hashable, problem: str) -> None:
        """Look at it once more, as it may be about to be committed; the second time, say so."""
        if self._doubts.get(version) == now:
            self._doubts[version] = ("told", now)
            warn(problem)
            return
        self._doubts[version] = now
        self._before = None


def _version(info: CheckpointInfo) -> Hashable:
    """Return what tells one save from all others, whatever its file is called now."""
    return info.saved_at, info.series, info.run, info.position, info.size_bytes, info.fingerprint


def _identity(path: str) -> Hashable:
    """Return what changes when a checkpoint is replaced; () if that is not known."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_ino, status.st_mtime_ns, status.st_size
    return ()


def _fingerprint(place: str) -> Hashable:
    """Return what changes with every commit and deletion; None if that is not known.

    Two listings of names are much cheaper than reading all manifests. A time is part of it because
    inodes are used again.
    """
    if is_url(place):
        return None
    found: list[Hashable] = []
    for directory in (place, os.path.join(place, METADATA)):
        try:
            found.append(os.stat(directory).st_mtime_ns)
            found.append(frozenset((e.name, e.inode()) for e in os.scandir(directory)))
        except OSError:
            found.append(None)
    return tuple(found)


class RunState:
    """Whether the newest run in a directory has ended: a fold over the events of its journal.

    Callbacks that save in one directory write to one journal. All of a run's begin before its first
    epoch ends; so a beginning after that is a new run's, or that of the same one, resumed.

    Attributes:
        begun: Whether any run has begun.
        interrupted: Why the newest run was interrupted; "" if it was not, or goes on.
    """

    def __init__(self) -> None:
        self.begun = False
        self.interrupted = ""
        self._open: set[str] = set()
        self._moved = False

    @property
    def ended(self) -> bool:
        """Whether every callback of the newest run has ended well."""
        return self.begun and not self._open and not self.interrupted

    def add(self, event: Mapping[str, Any]) -> None:
        """Take the next event into account."""
        kind, series = event["event"], str(event.get("series", ""))
        if kind in ("begin", "resume"):
            self.interrupted = ""
        if kind == "begin":
            self._open = {series} if self._moved else {*self._open, series}
            self.begun, self._moved = True, False
        self._moved |= kind in _GOES_ON
        if kind == "preempted":
            self.interrupted = str(event.get("reason", "")) or kind
        if kind == "end":
            reason = str(event.get("reason", ""))
            self._open.discard(series)
            if reason != _CLEAN:
                self.interrupted = self.interrupted or reason


class _Ending:
    """Whether the run in a directory has ended.

    Args:
        place: The directory or URL.
        past: Whether what has happened before counts.
        options: `storage_options`.
    """

    def __init__(self, place: str, past: bool, options: Mapping[str, Any] | None) -> None:
        self._place = place
        self._options = options
        self._state = RunState()
        self._tail = None if is_url(place) else Tail(place, from_start=past)
        self._skipped = 0 if past or not is_url(place) else len(anywhere.events(place, options))
        self._had_backup = False
        self._finished_before = frozenset() if past else frozenset(self._finished())

    def look(self) -> bool:
        """Return whether it has ended by now."""
        if self._tail is None:
            self._state = RunState()
            for event in anywhere.events(self._place, self._options)[self._skipped :]:
                self._state.add(event)
            return self._state.ended
        for event in self._tail.new():
            self._state.add(event)
        backup = self._backup_ended()
        if backup is None or not self._state.begun:
            return bool(backup) or self._state.ended
        is_cleared = not os.path.lexists(os.path.join(self._place, METADATA, NAME))
        return backup and (self._state.ended or is_cleared)  # it deletes the journal, too

    def _backup_ended(self) -> bool | None:
        """Return whether BackupAndRestore has ended well; None if it does not save here now."""
        path = os.path.join(self._place, METADATA, BACKUP_LOCK)
        lock = lock_state(path)
        if lock.held or (lock.held is None and lock.pid):
            self._had_backup = True
            return False
        if set(self._finished()) - self._finished_before:
            return True
        # it deletes the files of a finished run, its lock with them
        return True if self._had_backup and not os.path.lexists(path) else None

    def _finished(self) -> list[str]:
        """Return the snapshots that mark a finished run."""
        if is_url(self._place):
            return []
        with contextlib.suppress(OSError):
            return [name for name in os.listdir(self._place) if _FINISHED.fullmatch(name)]
        return []
