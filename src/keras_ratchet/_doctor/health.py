"""`ratchet doctor DIR`: whether a directory of checkpoints is in order.

Nothing is changed but for one probe, a draft that is removed again; a directory without
`.ratchet` gets none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from keras_ratchet._doctor import health_of_disk
from keras_ratchet._storage import anywhere, listing
from keras_ratchet._storage.atomic import DRAFT_PREFIX, LEFTOVER
from keras_ratchet._storage.journal import NAME, event_of
from keras_ratchet._storage.lock_state import LockState, lock_states
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.single_file import METADATA, named_manifests
from keras_ratchet._storage.snapshot_directory import MANIFEST
from keras_ratchet._storage.space import readable
from keras_ratchet._storage.verify import verify
from keras_ratchet.errors import LoadError
from keras_ratchet.types import CheckpointInfo

Level = Literal["ok", "note", "problem"]
_FUTURE_S = 60.0  # clocks of two machines may differ by so much
_NEXT_START = "the next start of the run that saves here removes it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "ok", "note" (worth knowing) or "problem".
        what: What was found, a sentence without its full stop.
        where: Name of the file in the directory; "" for the directory.
        cure: What to do; "" if nothing has to be done.
    """

    level: Level
    what: str
    where: str = ""
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """What was found in a directory.

    Attributes:
        directory: The directory.
        findings: In the order in which they were looked at.
    """

    directory: str
    findings: tuple[Finding, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether there is no problem."""
        return not any(finding.level == "problem" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return it as data for JSON."""
        return {**asdict(self), "healthy": self.is_healthy}


def examine(directory: str) -> Health:
    """Look at everything in a directory of checkpoints.

    Args:
        directory: A local directory. A URL is only verified; its leases and its leftovers are not
            looked at.

    Raises:
        LoadError: If there is no such directory, or a store cannot be read.
    """
    if is_url(directory):
        return Health(directory, tuple(_on_store(directory)))
    directory = os.path.abspath(directory)
    found = listing.checkpoints(directory)
    locks = lock_states(directory)
    is_written = any(lock.held is not False for lock in locks)
    parts: Sequence[Iterator[Finding]] = (
        _damage(found),
        _locks(locks),
        _leftovers(directory, is_written),
        _manifests(directory, is_written),
        _clock(found),
        _pins(found),
        _shared(directory, found),
        _journal(directory),
        _disk(directory, found),
    )
    return Health(directory, tuple(finding for part in parts for finding in part))


def lines(health: Health) -> list[str]:
    """Return what was found as lines for people, problems last."""
    marks = {"ok": "ok      ", "note": "note    ", "problem": "PROBLEM "}
    result = [health.directory]
    for level in ("ok", "note", "problem"):
        for finding in (each for each in health.findings if each.level == level):
            where = f"{finding.where}: " if finding.where else ""
            result.append(f"  {marks[level]}{where}{finding.what}")
            if finding.cure:
                result.append(f"          -> {finding.cure}")
    problems = sum(finding.level == "problem" for finding in health.findings)
    noun = "problem" if problems == 1 else "problems"
    result.append(f"{problems} {noun}" if problems else "in order")
    return result


def _damage(found: Sequence[CheckpointInfo]) -> Iterator[Finding]:
    """Verify every byte."""
    whole, read = 0, 0
    for info in found:
        try:
            outcome = verify(info.path)
        except LoadError:  # deleted since it was listed
            continue
        whole, read = whole + bool(outcome), read + outcome.size_bytes
        if outcome.status == "unverified":
            what = "it has no manifest, so nobody can tell whether it is intact"
            yield Finding("note", what, info.name, "`ratchet adopt` writes one, if you trust it")
        elif not outcome and "files that were not saved with it" in outcome.problem:
            cure = "move them elsewhere: as long as they are there it is not resumed from"
            yield Finding("problem", outcome.problem, info.name, cure)
        elif not outcome:
            cure = "restore it from a copy, or delete it with its manifest in .ratchet"
            yield Finding("problem", outcome.problem, info.name, cure)
    if whole:
        yield Finding("ok", f"{whole} of {len(found)} verify, byte for byte ({readable(read)})")


def _locks(locks: Sequence[LockState]) -> Iterator[Finding]:
    host = os.uname().nodename if hasattr(os, "uname") else ""
    for lock in locks:
        name = f"{METADATA}/{os.path.basename(lock.path)}"
        if lock.held:
            elsewhere = ", on another machine" if lock.host not in (host, "") else ""
            yield Finding("ok", f"held by {lock.who}{elsewhere}", name)
        elif lock.held is None:
            yield Finding("note", "this system does not tell who holds it", name)
        elif lock.is_of_a_killed_process:
            what = f"{lock.who} has ended without giving it back: it was killed"
            yield Finding("note", what, name, "none needed: the lock is free")


def _leftovers(directory: str, is_written: bool) -> Iterator[Finding]:
    """Yield drafts and trash, here and in `.ratchet`."""
    now = time.time()
    for name, path in _entries(directory):
        match = LEFTOVER.fullmatch(os.path.basename(name))
        if match is None:
            continue
        kind = (
            "a draft of" if os.path.basename(name).startswith(DRAFT_PREFIX) else "what is left of"
        )
        age_s, size = _age_and_size(path, now)
        what = f"{kind} {match['name']!r}, {readable(size)}, {_span(age_s)} old"
        if is_written:
            yield Finding("note", f"{what}; a process that saves here is alive", name)
        else:
            yield Finding("note", f"{what}, and nobody writes here", name, _NEXT_START)


def _manifests(directory: str, is_written: bool) -> Iterator[Finding]:
    """Yield manifests and pins of files that are gone."""
    for name, paths in sorted(named_manifests(directory).items()):
        if not os.path.lexists(os.path.join(directory, name)) and not is_written:
            what = f"{len(paths)} manifest(s) of {name!r}, which is not here"
            where = f"{METADATA}/{os.path.basename(paths[0])}"
            yield Finding(
                "note", what, where, f"was it moved or deleted by hand? Else {_NEXT_START}"
            )


def _clock(found: Sequence[CheckpointInfo]) -> Iterator[Finding]:
    ahead_s = max((info.saved_at for info in found), default=0.0) - time.time()
    for info in found:
        if info.saved_at - time.time() > _FUTURE_S:
            what = f"it was saved {_span(info.saved_at - time.time())} in the future"
            cure = "set the clock: the newest one is found by these times"
            yield Finding("problem", what, info.name, cure)
    if found and ahead_s <= _FUTURE_S:
        yield Finding("ok", "no checkpoint is from the future, by this machine's clock")


def _pins(found: Sequence[CheckpointInfo]) -> Iterator[Finding]:
    pinned = [info.name for info in found if info.pinned]
    if pinned:
        yield Finding("note", f"pinned, so never deleted: {', '.join(pinned)}")


def _shared(directory: str, found: Sequence[CheckpointInfo]) -> Iterator[Finding]:
    """Yield how many bytes snapshots have in common (hard links)."""
    names: dict[tuple[int, int], list[int]] = {}
    for info in found:
        for path in _files_in(info.path) if info.is_directory else ():
            status = os.stat(path, follow_symlinks=False)
            names.setdefault((status.st_dev, status.st_ino), []).append(status.st_size)
    spared = sum(sum(sizes[1:]) for sizes in names.values())
    if spared:
        yield Finding("ok", f"snapshots share {readable(spared)} that are on the disk once")


def _journal(directory: str) -> Iterator[Finding]:
    try:
        with open(os.path.join(directory, METADATA, NAME), "rb") as file:
            torn = sum(event_of(line) is None for line in file if line.strip())
    except OSError:
        return
    if torn:
        what = f"{torn} line(s) cannot be read: a crash or a full disk has torn them"
        yield Finding(
            "note", what, f"{METADATA}/{NAME}", "none needed: nothing is restored from it"
        )


def _disk(directory: str, found: Sequence[CheckpointInfo]) -> Iterator[Finding]:
    newest = max(found, key=lambda info: info.saved_at, default=None)
    looks: list[Callable[[], health_of_disk.Said]] = [
        lambda: health_of_disk.space(directory, newest.size_bytes if newest else 0),
        lambda: health_of_disk.mount(directory),
        lambda: health_of_disk.probe(directory),
    ]
    for look in looks:
        level, what, cure = look()
        if what:
            yield Finding(level, what, "", cure)


def _on_store(url: str) -> Iterator[Finding]:
    found = anywhere.checkpoints(url)
    outcomes = anywhere.verify_all(url, [info.name for info in found], False, lambda size: None)
    for outcome in outcomes.values():
        name = outcome.path.rpartition("/")[2]
        if outcome.status == "corrupt":
            cure = "`ratchet push` from a place where it is whole, or `ratchet prune`"
            yield Finding("problem", outcome.problem, name, cure)
        elif outcome.status == "unverified":
            yield Finding("note", "it has no record", name, "`ratchet adopt` writes one")
    whole = sum(map(bool, outcomes.values()))
    yield Finding("ok", f"{whole} of {len(found)} are what was put, by what the store says")
    yield Finding("note", "leases and leftovers on a store are not looked at")
    yield from _clock(found)
    yield from _pins(found)


def _entries(directory: str) -> Iterator[tuple[str, str]]:
    """Yield names and paths in a directory and in its `.ratchet`."""
    for below in ("", METADATA):
        try:
            names = sorted(os.listdir(os.path.join(directory, below)))
        except OSError:
            continue
        yield from ((os.path.join(below, n), os.path.join(directory, below, n)) for n in names)


def _files_in(path: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(path) if entry.name != MANIFEST]
    except OSError:
        return []


def _age_and_size(path: str, now: float) -> tuple[float, int]:
    """Return for how long nothing was added to a leftover, and its size."""
    paths = _files_in(path) if os.path.isdir(path) and not os.path.islink(path) else []
    try:
        states = [os.lstat(each) for each in [path, *paths]]
    except OSError:  # removed meanwhile
        return 0.0, 0
    counted = states[1:] if os.path.isdir(path) else states
    return now - max(s.st_mtime for s in states), sum(s.st_size for s in counted)


def _span(seconds: float) -> str:
    for length, unit in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0.0):.0f} seconds"
