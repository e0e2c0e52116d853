"""URLs of object stores: recognised, split, and the local directory that stands for one."""

from __future__ import annotations

import hashlib
import os
import re

from keras_ratchet.errors import ConfigError

# `pathlib` turns "gs://bucket" into "gs:/bucket"; one letter is a drive on Windows
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?P<rest>.*)", re.DOTALL)

_CHAINED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+::.*:/")  # of fsspec; they are refused


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether a path names a place on an object store.

    Example:
        >>> is_url("s3://bucket/run"), is_url("runs/a"), is_url("C:/runs")
        (True, False, False)
    """
    text = os.fsdecode(path)
    return _URL.fullmatch(text) is not None or _CHAINED.match(text) is not None


def checked_url(path: str | os.PathLike[str], what: str) -> str:
    """Return a URL in its one form: with two slashes, without one at its end.

    Args:
        path: The URL, perhaps in the form that `pathlib` gives it.
        what: Name of the argument, for the message.

    Raises:
        ConfigError: If it cannot be a place for checkpoints.

    Example:
        >>> checked_url("s3:/bucket/run/", "backup_dir")
        's3://bucket/run'
        >>> checked_url("file:///mnt/share/run", "backup_dir")
        'file:///mnt/share/run'
    """
    text = os.fsdecode(path)
    match = _URL.fullmatch(text)
    if match is None or "::" in text:
        raise ConfigError(
            f"{what} must be a URL such as 's3://bucket/run'. Got: {text!r}.", see="store-url"
        )
    scheme, rest = match["scheme"].lower(), match["rest"].strip("/")
    if not rest:
        raise ConfigError(
            f"{what} must name a place on the store, as in '{scheme}://bucket/run'. Got: {text!r}.",
            see="store-url",
        )
    if "\0" in rest or "\\" in rest:
        raise ConfigError(
            f"{what} has a backslash or a null byte in it. Got: {text!r}.", see="store-url"
        )
    if any(part in ("", ".", "..") for part in rest.split("/")):
        raise ConfigError(
            f"{what} has an empty part, '.' or '..' in it. Got: {text!r}.", see="store-url"
        )
    return f"{scheme}:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


def scheme_of(url: str) -> str:
    """Return the part before `://`."""
    return url.partition("://")[0]


def split(url: str) -> tuple[str, str]:
    """Return the directory of a checked URL, and its last part.

    Example:
        >>> split("s3://bucket/run/best.keras")
        ('s3://bucket/run', 'best.keras')
    """
    head, _, name = url.rpartition("/")
    if head.endswith(("/", ":")):  # "s3://bucket" has no directory
        return url, ""
    return head, name


def cache_root() -> str:
    """Return the directory of all caches: `RATCHET_CACHE`, or below the user's cache directory."""
    given = os.environ.get("RATCHET_CACHE")
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.abspath(given or os.path.join(user, "keras-ratchet"))


def cache_directory(url: str) -> str:
    """Return the local directory that stands for a directory on a store."""
    readable = re.sub(r"[^\w.-]+", "_", url)[-80:]
    digest = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return os.path.join(cache_root(), f"{readable}.{digest}")
