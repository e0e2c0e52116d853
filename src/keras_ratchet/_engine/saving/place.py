"""Where a callback saves: a local path, and perhaps a store, from what the user gave."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from keras_ratchet._engine.saving.mirror import Mirror, cached_path
from keras_ratchet._engine.saving.no_mirror import NoMirror
from keras_ratchet._storage.objects import failures
from keras_ratchet._storage.objects.location import checked_url, is_url, split
from keras_ratchet.errors import ConfigError


def place_of(
    path: str | os.PathLike[str],
    what: str,
    mirror: str | os.PathLike[str] | None,
    options: Mapping[str, Any] | None,
    is_file: bool,
) -> tuple[str, NoMirror]:
    """Return the local path for what a user gave, and the store.

    Args:
        path: A local path or a URL.
        what: Name of the argument.
        mirror: The argument `mirror`.
        options: The argument `storage_options`.
        is_file: Whether the last part of `path` is the name of a file.

    Raises:
        ConfigError: If the arguments exclude each other.
    """
    if outside := os.environ.get("RATCHET_DOCTOR_OUTSIDE"):
        return _of_doctor(os.fsdecode(path), outside), NoMirror()
    if is_url(path):
        if mirror is not None:
            raise ConfigError(
                f"mirror= is the copy of a local path, but {what} is a URL. Give one of the two. "
                f"Got: {what}={os.fsdecode(path)!r}, mirror={os.fsdecode(mirror)!r}.",
                see="store-url",
            )
        url = checked_url(path, what)
        directory, name = split(url) if is_file else (url, "")
        if "{" in directory:
            raise ConfigError(
                f"On a store only the last part of {what} may have placeholders. Got: {url!r}.",
                see="store-url",
            )
        failures.check_scheme(url)
        return cached_path(directory, name), Mirror(directory, options, True)
    if mirror is not None:
        if not is_url(mirror):
            raise ConfigError(
                "mirror must be the URL of a directory on a store, such as 's3://bucket/run'. "
                f"Got: {os.fsdecode(mirror)!r}.",
                see="store-url",
            )
        failures.check_scheme(url := checked_url(mirror, "mirror"))
        return os.fsdecode(path), Mirror(url, options, False)
    if options is not None:
        raise ConfigError(
            f"storage_options are for a URL in {what} or mirror. Got: {sorted(options)} for "
            f"{os.fsdecode(path)!r}.",
            see="store-url",
        )
    return os.fsdecode(path), NoMirror()


def _of_doctor(path: str, outside: str) -> str:
    """Return where `ratchet doctor` has a script save what it would save to a path or URL.

    It runs the script in a directory of its own. What lies in there, with all links followed, stays
    what it is. All else may be where the user's snapshots are, and is saved outside.
    """
    if not is_url(path):
        real = os.path.realpath(path)
        scratch = os.environ.get("RATCHET_DOCTOR_SCRATCH")  # not set if the script runs in place
        if scratch and (real + os.sep).startswith(os.path.realpath(scratch) + os.sep):
            return path
        path = real
    return os.path.join(outside, path.replace("://", "/").lstrip("/").replace(":", "_"))
