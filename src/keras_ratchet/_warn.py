"""Warnings that point to the line of the user's program, however deep they are given."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# What stands between a `fit` and our code: a line of theirs tells nobody where to look.
_BETWEEN = {"keras", "keras_ratchet", "contextlib", "functools", "tensorflow", "torch", "jax"}


def warn(message: str) -> None:
    """Give a UserWarning that names the first line outside Keras, its backends and this package.

    Args:
        message: What happened, to what, and the cure.
    """
    frame = _of_the_user(sys._getframe(1))
    warnings.warn_explicit(
        message,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__", "<unknown>"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _of_the_user(frame: FrameType) -> FrameType:
    while _is_between(frame) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_between(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in _BETWEEN
