"""The seam between the package and a store: every call to one passes what `make` returns.

Fault tests put their own class in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras_ratchet._storage.objects.file_calls import FileCalls
from keras_ratchet._storage.objects.fsspec_calls import FsspecCalls
from keras_ratchet._storage.objects.location import scheme_of
from keras_ratchet._storage.objects.store_calls import StoreCalls


def connect(url: str, options: Mapping[str, Any]) -> StoreCalls:
    """Return the calls to the store at a checked URL.

    Raises:
        ConfigError: If its library is not installed.
    """
    return FileCalls(url, options) if scheme_of(url) == "file" else FsspecCalls(url, options)


make: Callable[[str, Mapping[str, Any]], StoreCalls] = connect
