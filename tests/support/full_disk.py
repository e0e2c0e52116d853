"""A save that the disk refuses: by a limit on the size of files, or because the disk is full.

`python -m support.full_disk SETTINGS` imports Keras once and forks a child per attempt. The child
saves a model, builds the optimizer (the next file is three times as large), makes the disk refuse,
and saves again. It ends as a process does, exit handlers of C libraries included: that is where
HDF5 takes the process down if it could not write a file out.
"""

import ctypes
import dataclasses
import hashlib
import itertools
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass

from support import forking, stamped


@dataclass(frozen=True)
class Settings:
    """What to do.

    Attributes:
        whose: "ratchet" or "keras".
        widths: Of the models.
        limits: The byte counts at which the disk refuses. Those below 0 count from the size of
            the whole file, fractions are parts of it.
        small_disk: A small file system that is filled up; None for RLIMIT_FSIZE.
        suffixes: The formats.
    """

    whose: str
    widths: tuple[int, ...]
    limits: tuple[float, ...]
    small_disk: str | None = None
    suffixes: tuple[str, ...] = stamped.SUFFIXES


@dataclass(frozen=True)
class Attempt:
    """What happened when the disk refused.

    Attributes:
        suffix: The format.
        width: Of the model.
        limit_bytes: Where the disk refused.
        code: How the process ended: 0, or -signal.
        error: Class and text of the exception, None if there was none.
        is_save_error: Whether it was our SaveError.
        errno: Its number.
        is_unchanged: Whether the older file had the bytes that it had before.
        strangers: What lay beside the file then.
        loaded: Number of the save as Keras loaded the file after that.
        again: Number in the file after one more save, with room. Ours only.
        problem: What is wrong with the file in the end.
    """

    suffix: str
    width: int
    limit_bytes: int
    code: int
    error: str | None = None
    is_save_error: bool = False
    errno: int | None = None
    is_unchanged: bool = False
    strangers: list[str] = dataclasses.field(default_factory=list)
    loaded: int | None = None
    again: int | None = None
    problem: str | None = None


def run(settings, directory):
    """Return the attempts, made in a process of its own."""
    records = forking.run_module(
        "support.full_disk", dataclasses.asdict(settings), directory, limit_s=900
    )
    return [Attempt(**record) for record in records]


class FileSizeLimit:
    """RLIMIT_FSIZE: a write beyond it is an EFBIG."""

    def __init__(self, limit_bytes):
        self._limit_bytes = limit_bytes

    def __enter__(self):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit_bytes, resource.RLIM_INFINITY))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Ballast:
    """A file that fills a small file system up, but for `free_bytes`."""

    def __init__(self, disk, free_bytes):
        self._path = os.path.join(disk, "ballast")
        self._free_bytes = free_bytes

    def __enter__(self):
        stat = os.statvfs(os.path.dirname(self._path))
        with open(self._path, "wb") as file:
            file.write(bytes(max(0, stat.f_bavail * stat.f_frsize - self._free_bytes)))

    def __exit__(self, *_):
        os.unlink(self._path)


class Refusals:
    """Makes the attempts of one format."""

    def __init__(self, settings, suffix, width):
        self._settings = settings
        self._suffix = suffix
        self._width = width
        directory = os.path.join(settings.small_disk or os.getcwd(), f"width{width}{suffix}")
        os.mkdir(directory)
        self._path = os.path.join(directory, f"model{suffix}")

    def attempts(self):
        """Yield an `Attempt` for each limit."""
        size_bytes = forking.ask(self._whole_size)
        for limit in self._settings.limits:
            limit_bytes = round(limit * size_bytes if isinstance(limit, float) else limit)
            yield self._attempt(limit_bytes if limit >= 0 else size_bytes + limit_bytes)
        self._clear()

    def _attempt(self, limit_bytes):
        self._clear()
        child = forking.Child(lambda say: self._save_and_be_refused(limit_bytes, say))
        told = {}
        for line in child.end():
            told |= json.loads(line)
        return Attempt(
            self._suffix, self._width, limit_bytes, child.code, **told, problem=self._problem()
        )

    def _problem(self):
        weights = stamped.weight_count(self._width)
        if stamped.read(self._path, weights) == (1, None):  # the older file, without slots
            return None
        return stamped.read(self._path, 3 * weights)[1]

    def _whole_size(self):
        callbacks, model = self._saved_once()
        stamped.add_slots(model, 2)
        stamped.save(callbacks, 2)
        return os.path.getsize(self._path)

    def _saved_once(self):
        model = stamped.build(self._width, 1)
        callbacks = stamped.checkpoint(self._settings.whose, self._path, model)
        stamped.save(callbacks, 1)
        return callbacks, model

    def _save_and_be_refused(self, limit_bytes, say):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        callbacks, model = self._saved_once()
        before = self._digest()
        stamped.add_slots(model, 2)
        stamped.stamp(model, 2)
        with self._refusal(limit_bytes):
            say(json.dumps(_error_of(lambda: stamped.save(callbacks, 2))))
        say(json.dumps({"is_unchanged": self._digest() == before}))
        if self._settings.whose == "ratchet":
            say(json.dumps(self._what_is_left(callbacks, model)))
        ctypes.CDLL(None).exit(0)

    def _what_is_left(self, callbacks, model):
        strangers = stamped.strangers(self._path)
        loaded = stamped.load(self._path, self._width)
        stamped.add_slots(model, 3)
        stamped.stamp(model, 3)
        stamped.save(callbacks, 3)
        again, _ = stamped.read(self._path, 3 * stamped.weight_count(self._width))
        return {"strangers": strangers, "loaded": loaded, "again": again}

    def _refusal(self, limit_bytes):
        disk = self._settings.small_disk
        return FileSizeLimit(limit_bytes) if disk is None else Ballast(disk, limit_bytes)

    def _digest(self):
        with open(self._path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _clear(self):
        """Remove what an attempt left, so that the next finds the same room."""
        for name in ("ballast", self._path):
            path = os.path.join(self._settings.small_disk or "", name)
            if os.path.exists(path):
                os.unlink(path)


def _error_of(action):
    from keras_ratchet.errors import SaveError

    try:
        action()
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:200]
        is_ours = isinstance(error, SaveError) and isinstance(error, OSError)
        return {
            "error": text,
            "is_save_error": is_ours,
            "errno": getattr(error, "errno", None),
        }
    return {"error": None}


def main(settings):
    """Record the attempts for each format."""
    forking.warm()
    records = forking.Records()
    for suffix, width in itertools.product(settings.suffixes, settings.widths):
        for attempt in Refusals(settings, suffix, width).attempts():
            records.add(attempt)


if __name__ == "__main__":
    main(Settings(**json.loads(sys.argv[1])))
