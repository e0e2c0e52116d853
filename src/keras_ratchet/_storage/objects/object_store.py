"""A directory on an object store: calls that are repeated when the network comes back."""

from __future__ import annotations

import copy
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import xxhash

from keras_ratchet._storage.manifest import FileEntry
from keras_ratchet._storage.objects import calls
from keras_ratchet._storage.objects.checksums import differs
from keras_ratchet._storage.objects.failures import keep_trying
from keras_ratchet._storage.objects.store_calls import Stat

T = TypeVar("T")
PATIENCE_S = 600.0  # of an upload while training goes on
START_PATIENCE_S = 20.0  # of what the user waits for
_log = logging.getLogger("keras_ratchet")


class ObjectStore:
    """A directory on a store; keys are relative to it.

    Args:
        url: A checked URL.
        options: `storage_options`.

    Attributes:
        url: Where it is.
        patience_s: For how many seconds a call is repeated.
        on_wait: Called with an error that may pass, before the call is repeated.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.patience_s = START_PATIENCE_S
        self.on_wait: Callable[[BaseException], None] = self._log_wait
        self._calls = calls.make(url, dict(options or {}))

    def with_patience(self, patience_s: float) -> ObjectStore:
        """Return the same directory, for calls that are repeated for other seconds, silently."""
        other = copy.copy(self)
        other.patience_s, other.on_wait = patience_s, other._log_wait
        return other

    def probe_exclusive(self, key: str, data: bytes) -> None:
        """Find out whether the store refuses a put because its key is in use; some ignore it.

        Args:
            key: A key that was just put.
            data: What it holds.
        """

        def probe() -> bool:
            try:
                self._calls.put_new(key, data + b"\n")
            except FileExistsError:
                return True
            self._calls.put(key, data)
            return False

        if self.exclusive and not self._try(probe):
            self._calls.exclusive = False

    @property
    def exclusive(self) -> bool:
        """Whether the store can refuse a put because the key is in use."""
        return self._calls.exclusive

    def _try(self, action: Callable[[], T]) -> T:
        return keep_trying(action, self.patience_s, self.on_wait)

    def _log_wait(self, error: BaseException) -> None:
        _log.info("%s: %s: %s; trying again", self.url, type(error).__name__, error)

    def put_file(self, path: str, key: str) -> Stat:
        """Put a local file under a key that was never used, and compare it with the file.

        Returns:
            What the store says of it.

        Raises:
            OSError: If what arrived is not what was sent.
        """

        def put() -> Stat:
            self._calls.put_file(path, key)
            try:
                found = self._calls.stat(key)
            except FileNotFoundError as error:  # perhaps not yet
                raise OSError(errno.EIO, f"{key} is not there after it was put") from error
            if problem := differs(path, found, lambda: self._calls.chunks(key)):
                raise OSError(f"{self.url}/{key} did not arrive as it was sent: {problem}")
            return found

        return self._try(put)

    def put_new(self, key: str, data: bytes) -> bool:
        """Put bytes under a key that is not in use.

        A put whose answer was lost is found by its content, when it is repeated.

        Returns:
            Whether they are there; False if the key has other bytes.
        """

        def put() -> bool:
            try:
                self._calls.put_new(key, data)
            except FileExistsError:
                return self._calls.read(key) == data
            return True

        return self._try(put)

    def put(self, key: str, data: bytes) -> None:
        """Put bytes, over what is there."""
        self._try(lambda: self._calls.put(key, data))

    def get_file(self, key: str, path: str) -> None:
        """Write an object to a local file."""
        self._try(lambda: self._calls.get_file(key, path))

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        return self._try(lambda: self._calls.read(key))

    def read_all(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of several objects; those that are not there are left out."""
        return self._try(lambda: self._calls.read_all(keys))

    def find(self, prefix: str = "") -> dict[str, Stat]:
        """Return the objects below a directory."""
        return self._try(lambda: self._calls.find(prefix))

    def find_here(self) -> dict[str, Stat]:
        """Return the objects right in this directory."""
        return self._try(self._calls.find_here)

    def stat(self, key: str) -> Stat:
        """Return what the store says of an object."""
        return self._try(lambda: self._calls.stat(key))

    def delete(self, key: str) -> None:
        """Delete an object; do nothing if it is not there."""
        self._try(lambda: self._calls.delete(key))

    def digest(self, key: str) -> FileEntry:
        """Return size and digest of an object, read in bounded memory."""

        def read() -> FileEntry:
            hasher, size = xxhash.xxh3_128(), 0
            for data in self._calls.chunks(key):
                hasher.update(data)
                size += len(data)
            return FileEntry(size, hasher.hexdigest())

        return self._try(read)
