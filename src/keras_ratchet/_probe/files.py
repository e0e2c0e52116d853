"""Which files the script itself writes, and from which line."""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType
from typing import Any, Protocol

_NOT_THE_USER = {
    *("keras", "keras_ratchet", "torch", "tensorflow", "jax", "jaxlib", "numpy", "h5py", "absl"),
    *("matplotlib", "_pytest", "importlib", "frozen importlib", "_frozen_importlib"),
}
_WRITING = os.O_WRONLY | os.O_RDWR
_NO_FILES = ("/dev/", "/proc/", "/sys/")


class _Marking(Protocol):
    directory: str

    def mark(self, mark: str, **fields: Any) -> None:
        """Add a mark."""


def watch_files(process: _Marking) -> None:
    """Mark each file that is opened for writing from the user's code, once per file and place.

    Args:
        process: Where to.
    """
    seen: set[tuple[str, str]] = set()
    busy = threading.local()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or getattr(busy, "is_set", False):
            return
        path, _, flags = arguments
        if not isinstance(path, str | bytes) or not isinstance(flags, int) or not flags & _WRITING:
            return
        busy.is_set = True
        try:
            where = os.path.abspath(os.fsdecode(path))
            place = place_of(sys._getframe(1))
            is_file = not where.startswith(_NO_FILES) and not where.startswith(process.directory)
            if place and is_file and (where, place) not in seen:
                seen.add((where, place))
                process.mark("write", path=where, by=place)
        finally:
            busy.is_set = False

    sys.addaudithook(hook)


def place_of(frame: FrameType | None) -> str:
    """Return the line of the user's code that is running, or "" if a library writes for itself.

    Only what stands between it and the call counts: Python's library may, Keras may not.
    """
    while frame is not None:
        root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if root in _NOT_THE_USER:
            return ""
        if root not in sys.stdlib_module_names and not _is_installed(frame.f_code.co_filename):
            return _named(frame)
        frame = frame.f_back
    return ""


def _is_installed(file: str) -> bool:
    return "site-packages" in file or "dist-packages" in file or file.startswith("<")


def _named(frame: FrameType) -> str:
    code = frame.f_code
    place = f"{os.path.basename(code.co_filename)}:{frame.f_lineno}"
    if code.co_name == "<module>":
        return place
    owner = frame.f_locals.get("self")
    of = f" of {type(owner).__name__}" if owner is not None else ""
    return f"{place} in {code.co_name}{of}"
