"""A scratch directory that looks like the user's: what a run does there harms nothing of theirs."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field

from keras_ratchet._storage.atomic import LEFTOVER
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet._storage.snapshot_directory import MANIFEST
from keras_ratchet._storage.space import readable
from keras_ratchet.errors import ConfigError

MAX_COPIED_BYTES = 10_000_000  # of one file; larger ones are linked
MAX_FILES = 20_000
MAX_TOTAL_BYTES = 1_000_000_000
_NOISE = {
    *(".git", ".hg", ".svn", "node_modules", "__pycache__", ".ipynb_checkpoints"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".idea"),
}
_ENVIRONMENT = ("pyvenv.cfg", "conda-meta")
_KERAS_BACKUP = ("latest.weights.h5", "training_metadata.json")

Stamp = tuple[int, int]  # size and time of a file


@dataclass(slots=True)
class Plan:
    """What of a directory a scratch directory gets.

    Attributes:
        source: The user's directory.
        directories: Relative paths of the directories, those above first.
        copied: Relative paths of the files that are copied.
        linked: Relative paths of the links and of the files that are linked to.
        large: Size and time of those files, and of files that links lead to, by relative path.
        snapshots: Relative paths of what is left out because a run would resume from it.
        total_bytes: What the copies take.
    """

    source: str
    directories: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    large: dict[str, Stamp] = field(default_factory=dict)
    snapshots: list[str] = field(default_factory=list)
    total_bytes: int = 0

    def changed(self) -> list[str]:
        """Return the linked files that have changed since: a run has written through its link."""
        return [
            name
            for name, stamp in self.large.items()
            if stamp_of(os.path.join(self.source, name)) != stamp
        ]

    def add(self, entry: os.DirEntry[str], relative: str) -> None:
        """Add a file or a link.

        Raises:
            ConfigError: If that is too much.
        """
        if entry.is_symlink():
            self.linked.append(relative)
            if entry.is_file() and (stamp := stamp_of(entry.path)):
                self.large[relative] = stamp
        elif entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if status.st_size > MAX_COPIED_BYTES:
                self.linked.append(relative)
                self.large[relative] = (status.st_size, status.st_mtime_ns)
            else:
                self.copied.append(relative)
                self.total_bytes += status.st_size
        if len(self.copied) > MAX_FILES or self.total_bytes > MAX_TOTAL_BYTES:
            raise ConfigError(
                f"ratchet doctor runs the script in copies of the present directory, and "
                f"{self.source!r} has more than {MAX_FILES:,} files or "
                f"{readable(MAX_TOTAL_BYTES)} to copy. Run it in a directory with less in it, or "
                "with --in-place, which copies nothing.",
                see="doctor",
            )


def stamp_of(path: str) -> Stamp | None:
    """Return size and time of a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def plan_of(source: str) -> Plan:
    """Return what to copy and to link, without what is noise and without snapshots.

    Raises:
        ConfigError: If there is too much of it.
    """
    plan = Plan(source)
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        if inside:
            plan.directories.append(inside)
        with os.scandir(os.path.join(source, inside)) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        names = {entry.name for entry in entries}
        for entry in entries:
            relative = os.path.join(inside, entry.name)
            if _would_be_resumed(entry, names):
                plan.snapshots.append(relative)
            elif not entry.is_dir(follow_symlinks=False):
                plan.add(entry, relative)
            elif not _is_noise(entry):
                waiting.append(relative)
    return plan


def _would_be_resumed(entry: os.DirEntry[str], names: set[str]) -> bool:
    """Return whether a run would resume from it: a backup of ours, or one of Keras."""
    if entry.name in _KERAS_BACKUP:
        return names.issuperset(_KERAS_BACKUP)
    if not entry.is_dir(follow_symlinks=False):
        return False
    has_manifest = METADATA in names and os.path.isfile(os.path.join(entry.path, MANIFEST))
    return entry.name == METADATA or has_manifest or bool(LEFTOVER.fullmatch(entry.name))


def _is_noise(entry: os.DirEntry[str]) -> bool:
    has = (os.path.exists(os.path.join(entry.path, name)) for name in _ENVIRONMENT)
    return entry.name in _NOISE or any(has)


def refuse_keras_backups(source: str) -> None:
    """Raise an error if a script that runs in place could resume from a backup of Keras itself.

    Raises:
        ConfigError: If there is one: only our callbacks can be told to save somewhere else.
    """
    for place, directories, names in os.walk(source):
        directories[:] = [d for d in directories if d not in _NOISE]
        if set(names).issuperset(_KERAS_BACKUP):
            raise ConfigError(
                f"{place!r} has a backup of keras.callbacks.BackupAndRestore, which a run in place "
                "could resume from, and delete. Move it away, or leave out --in-place.",
                see="doctor",
            )


def mirror(plan: Plan, target: str) -> dict[str, Stamp]:
    """Make the scratch directory; return size and time of each file in it, by relative path."""
    os.makedirs(target)
    for name in plan.directories:
        os.makedirs(os.path.join(target, name), exist_ok=True)
    for name in plan.copied:
        with contextlib.suppress(FileNotFoundError):  # another process may have deleted it by now
            shutil.copy2(os.path.join(plan.source, name), os.path.join(target, name))
    there = {*plan.directories, *plan.copied, *plan.linked, *plan.snapshots, os.curdir}
    for name in plan.linked:
        goal = os.path.join(plan.source, name)
        if os.path.islink(goal):
            goal = os.path.abspath(os.path.join(os.path.dirname(goal), os.readlink(goal)))
            relative = os.path.relpath(goal, plan.source)
            if relative in there:  # from the copy to the copy, not back to what is the user's
                goal = os.path.join(target, relative)
        os.symlink(goal, os.path.join(target, name))
    stamps = {name: stamp_of(os.path.join(target, name)) for name in [*plan.copied, *plan.large]}
    return {name: stamp for name, stamp in stamps.items() if stamp is not None}


def command_in(command: list[str], source: str, target: str) -> list[str]:
    """Return a command with its paths as they are in the scratch directory.

    The first word is the program, which stays where it is, unless it is a script that was copied.
    An absolute path inside the user's directory becomes the one of the copy; a relative one that
    leads out of it becomes absolute.
    """
    program, *arguments = command
    if os.path.dirname(program):
        program = os.path.join(source, program)
        copy = os.path.join(target, os.path.relpath(program, source))
        program = copy if _is_script(copy) else program
    return [program, *(_path_in(argument, source, target) for argument in arguments)]


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def _path_in(argument: str, source: str, target: str) -> str:
    where = os.path.normpath(os.path.join(source, argument))
    if not (os.path.isabs(argument) or argument.startswith("..")) or not os.path.exists(where):
        return argument
    relative = os.path.relpath(where, source)
    copy = os.path.join(target, relative)
    if relative.startswith("..") or not os.path.lexists(copy):
        return where
    return copy
