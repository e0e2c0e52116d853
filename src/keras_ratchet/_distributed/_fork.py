"""A child made by `fork` is no rank: what it must not keep open, and what it must not use."""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any

_open: weakref.WeakSet[Any] = weakref.WeakSet()


def close_in_child(end: Any) -> None:
    """Close a connection or socket in every child that is forked from now on."""
    _open.add(end)


def _close_all() -> None:
    for end in list(_open):
        with contextlib.suppress(OSError):
            end.close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_all)
