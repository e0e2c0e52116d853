"""Paths that users give: they must be on mounted file systems."""

from __future__ import annotations

import os
import re

from keras_ratchet.errors import ConfigError

# `pathlib` turns "gs://bucket" into "gs:/bucket"; one letter is a drive on Windows
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/")


def local_path(path: str | os.PathLike[str], what: str) -> str:
    """Return a path as a string; every path that a user gives passes through here.

    Args:
        path: The path.
        what: Name of the argument, for the message.

    Raises:
        ConfigError: If it is a URL, which plain file calls would turn into a local directory.

    Example:
        >>> local_path("runs/a", "backup_dir")
        'runs/a'
    """
    text = os.fsdecode(path)
    match = _URL.match(text)
    if match is None:
        return text
    if match["scheme"].lower() == "file":
        raise ConfigError(f"{what} is a path, not a URL: leave out 'file://'. Got: {text!r}.")
    raise ConfigError(
        f"{what} must be on a mounted file system; remote stores are not supported yet. Use a "
        "local directory and copy it to the store, or mount the store (gcsfuse, mount-s3). "
        f"Got: {text!r}."
    )
