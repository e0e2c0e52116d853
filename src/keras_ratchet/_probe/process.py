"""One process of a script that `ratchet doctor` runs: its marks, its disk, what it says."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import platform
import sys
import threading
import time
import warnings
from collections.abc import Iterable
from types import FrameType
from typing import Any

import keras

import keras_ratchet
from keras_ratchet._json import plain
from keras_ratchet._probe.files import watch_files
from keras_ratchet._storage import disk
from keras_ratchet._storage.atomic import DRAFT_PREFIX, PROBE
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError

MARKS = "marks.jsonl"
OPTIONS = "options.json"


class Process:
    """Adds marks to the file that the doctor reads, each with one write.

    Args:
        directory: That of `RATCHET_DOCTOR`.

    Attributes:
        fits: How many runs have begun in this process.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.fits = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self._fd = os.open(os.path.join(directory, MARKS), flags, 0o666)
        self.options = _options(directory)
        self.mark(
            "started",
            python=platform.python_version(),
            keras=keras.__version__,
            backend=keras.backend.backend(),
            package=keras_ratchet.__version__,
        )

    def mark(self, mark: str, **fields: Any) -> None:
        """Add a line."""
        line = {"t": time.monotonic(), "pid": os.getpid(), "mark": mark, **plain(fields)}
        data = json.dumps(line, allow_nan=False, default=repr) + "\n"
        with contextlib.suppress(OSError):  # the doctor has ended
            os.write(self._fd, data.encode())

    def say(self, kind: str, text: str) -> None:
        """Note what the package tells the user."""
        self.mark("say", kind=kind, text=text)

    def path(self, name: str) -> str:
        """Return the path of another file for the doctor."""
        return os.path.join(self.directory, name)


def refuse_keras_backups(callbacks: Iterable[Any]) -> None:
    """Raise if `keras.callbacks.BackupAndRestore` saves where the user's own backup may be.

    It would resume from that one, and delete it. Ours are told to save somewhere else.

    Raises:
        ConfigError: If one saves outside of the scratch directory.
    """
    scratch = os.environ.get("RATCHET_DOCTOR_SCRATCH")
    if scratch is None:
        return
    inside = os.path.realpath(scratch) + os.sep
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.BackupAndRestore):
            continue
        directory = getattr(callback, "backup_dir", None)
        is_ours = hasattr(callback, "resumed_from")
        if not is_ours and directory and not os.path.realpath(directory).startswith(inside):
            raise ConfigError(
                f"keras.callbacks.BackupAndRestore({directory!r}) saves outside of the directory "
                "of the script: ratchet doctor would resume from that backup, and delete it. Use a "
                "relative path, or keras_ratchet.BackupAndRestore.",
                see="doctor",
            )


def _options(directory: str) -> dict[str, Any]:
    try:
        with open(os.path.join(directory, OPTIONS), encoding="utf-8") as file:
            return dict(json.load(file))
    except FileNotFoundError:
        return {}


@functools.cache
def process_in(directory: str) -> Process:
    """Return the one of this process; with the first call it starts to watch."""
    process = Process(directory)
    disk.current = _MarkedDisk(process)
    logging.getLogger("keras_ratchet").addHandler(_Listener(process))
    _watch_warnings(process)
    watch_files(process)
    return process


class _Listener(logging.Handler):
    """Notes what the package logs."""

    def __init__(self, process: Process) -> None:
        super().__init__(logging.WARNING)
        self._process = process

    def emit(self, record: logging.LogRecord) -> None:
        self._process.say("log", record.getMessage())


def _watch_warnings(process: Process) -> None:
    """Note the warnings of this package, which Python shows as before."""
    show = warnings.showwarning

    def note_and_show(message: Any, category: Any, *where: Any, **more: Any) -> None:
        if category is UserWarning and _is_said_by_us():
            process.say("warn", str(message))
        show(message, category, *where, **more)

    warnings.showwarning = note_and_show


def _is_said_by_us() -> bool:
    """Return whether the warning that is being shown was given by `keras_ratchet._warn`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in (__name__, "warnings"):
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == warn.__module__


class _MarkedDisk(disk.Disk):
    """Marks where saves begin, with the first draft, and where they end, with the last rename."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._drafts: set[str] = set()
        self._lock = threading.Lock()

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_EXCL:
            self._begin(path)
        return super().open(path, flags)

    def mkdir(self, path: str) -> None:
        self._begin(path)
        super().mkdir(path)

    def replace(self, source: str, target: str) -> None:
        super().replace(source, target)
        self._end(source, target)

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self._end(source, target)

    def _begin(self, path: str) -> None:
        name = os.path.basename(path)
        if name.startswith(DRAFT_PREFIX) and not name.endswith(
            PROBE
        ):  # tries whether one can write
            with self._lock:
                self._drafts.add(path)
            self._process.mark("save_begin", path=path)

    def _end(self, source: str, target: str) -> None:
        with self._lock:
            is_draft = source in self._drafts
            self._drafts.discard(source)
        if is_draft:
            self._process.mark("save_end", path=target)
