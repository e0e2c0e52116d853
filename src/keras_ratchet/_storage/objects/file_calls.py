"""The calls to a directory on a mounted file system, given as `file://`.

It is the one scheme that does not go through fsspec: its puts are made durable by the same code as
local checkpoints, and exclusive by a hard link, so that a kill leaves no torn object on a share.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from keras_ratchet._storage import disk
from keras_ratchet._storage.atomic import LEFTOVER, AtomicFile, HashingFile
from keras_ratchet._storage.objects import failures
from keras_ratchet._storage.objects.store_calls import Stat

_CHUNK_BYTES = 1 << 20


class FileCalls:
    """The calls to a directory on a mounted file system, given as `file://`."""

    exclusive = True

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        failures.optional_import()
        self._root = "/" + url.partition("://")[2].strip("/")

    def _path(self, key: str) -> str:
        return os.path.join(self._root, *key.split("/")) if key else self._root

    def put_file(self, path: str, key: str) -> None:
        """Put a copy of a local file."""
        with open(path, "rb", buffering=0) as source:
            self._write(key, lambda file: _copy(source, file)).commit()

    def put(self, key: str, data: bytes) -> None:
        """Put bytes, over what is there."""
        self._write(key, lambda file: _fill(file, data)).commit()

    def put_new(self, key: str, data: bytes) -> None:
        """Put bytes under a key that is not in use; raise FileExistsError if it is."""
        with self._write(key, lambda file: _fill(file, data)) as draft:
            disk.current.link(draft.path, draft.target)
            disk.current.sync_directory(os.path.dirname(draft.target))

    def _write(self, key: str, fill: Callable[[HashingFile], None]) -> AtomicFile:
        target = self._path(key)
        disk.make_directories(os.path.dirname(target))
        draft = AtomicFile(target)
        try:
            draft.write(fill)
            draft.sync()
        except BaseException:
            draft.discard()
            raise
        return draft

    def get_file(self, key: str, path: str) -> None:
        """Write an object to a local file."""
        with open(path, "wb", buffering=0) as file:
            for data in self.chunks(key):
                file.write(data)

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        return b"".join(self.chunks(key))

    def read_all(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of several objects; those that are not there are left out."""
        found = {}
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                found[key] = self.read(key)
        return found

    def find(self, prefix: str) -> dict[str, Stat]:
        """Return the objects below a directory."""
        found = {}
        for path in _files_below(self._path(prefix)):
            with contextlib.suppress(FileNotFoundError):
                found[os.path.relpath(path, self._root).replace(os.sep, "/")] = _look(path)
        return found

    def find_here(self) -> dict[str, Stat]:
        """Return the objects right in the directory."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = [e.name for e in os.scandir(self._root) if e.is_file()]
            return {name: _look(os.path.join(self._root, name)) for name in names}
        return {}

    def stat(self, key: str) -> Stat:
        """Return what the file system says of an object."""
        return _look(self._path(key))

    def delete(self, key: str) -> None:
        """Delete an object; do nothing if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            disk.current.unlink(self._path(key))
            disk.current.sync_directory(os.path.dirname(self._path(key)))

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of an object, in bounded memory."""
        with open(self._path(key), "rb", buffering=0) as file:
            while data := file.read(_CHUNK_BYTES):
                yield data


def _raise_unless_absent(error: OSError) -> None:
    if not failures.is_absent(error):  # a share that is gone is not an empty one
        raise error


def _files_below(directory: str) -> Iterator[str]:
    for above, _, names in os.walk(directory, onerror=_raise_unless_absent):
        yield from (os.path.join(above, name) for name in names if not LEFTOVER.fullmatch(name))


def _look(path: str) -> Stat:
    info = os.stat(path)
    return Stat(info.st_size, info.st_mtime, {})


def _copy(source: Any, file: HashingFile) -> None:
    while data := source.read(_CHUNK_BYTES):
        file.write(data)


def _fill(file: HashingFile, data: bytes) -> None:
    file.write(data)
