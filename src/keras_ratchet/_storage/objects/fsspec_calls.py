"""The calls to a store through fsspec: nothing here speaks a store's protocol."""

from __future__ import annotations

import base64
import contextlib
import errno
import glob
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from keras_ratchet._storage.objects import failures
from keras_ratchet._storage.objects.location import scheme_of
from keras_ratchet._storage.objects.store_calls import PART_BYTES, PARTS_AT_ONCE, Stat

_EXCLUSIVE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")


class FsspecCalls:
    """The calls to a store through fsspec.

    Args:
        url: A checked URL.
        options: `storage_options`, for the file system's class.

    Attributes:
        exclusive: Whether the store can refuse a put because the key is in use.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        fsspec = failures.optional_import()
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise failures.missing_library(url, error) from error
        self._root = root.rstrip("/")
        self._scheme = scheme_of(url)
        self.exclusive = self._scheme in _EXCLUSIVE
        is_s3 = self._scheme in ("s3", "s3a")
        parts = {"chunksize": PART_BYTES, "max_concurrency": PARTS_AT_ONCE}
        self._upload: dict[str, Any] = parts if is_s3 else {}

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def put_file(self, path: str, key: str) -> None:
        """Put a local file, in parts where the store takes parts."""
        self._fs.put_file(path, self._path(key), **self._upload)

    def put_new(self, key: str, data: bytes) -> None:
        """Put bytes under a key that is not in use; raise FileExistsError if it is."""
        path = self._path(key)
        if not self.exclusive:
            if self._fs.exists(path):
                raise FileExistsError(errno.EEXIST, "there is such an object already", key)
            self._fs.pipe_file(path, data)
            return
        try:
            self._fs.pipe_file(path, data, mode="create")
        except OSError as error:
            if isinstance(error, FileExistsError) or _is_refused(error):
                raise FileExistsError(errno.EEXIST, str(error), key) from error
            raise
        except Exception as error:
            if _is_refused(error):
                raise FileExistsError(errno.EEXIST, str(error), key) from error
            raise

    def put(self, key: str, data: bytes) -> None:
        """Put bytes, over what is there."""
        self._fs.pipe_file(self._path(key), data)

    def get_file(self, key: str, path: str) -> None:
        """Write an object to a local file."""
        self._fs.get_file(self._path(key), path)

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        data: bytes = self._fs.cat_file(self._path(key))
        return data

    def read_all(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of several objects, asked for at once; absent ones are left out."""
        if not keys:
            return {}
        by_path = {self._path(key): key for key in keys}
        if any(glob.has_magic(path) for path in by_path):  # fsspec would take it for a pattern
            return self._read_each(keys)
        found = self._fs.cat(list(by_path), on_error="return")
        if isinstance(found, bytes):  # of one path
            return {keys[0]: found}
        result = {}
        for path, data in found.items():
            if isinstance(data, bytes):
                result[by_path[path]] = data
            elif not failures.is_absent(data):
                raise data
        return result

    def _read_each(self, keys: Sequence[str]) -> dict[str, bytes]:
        found = {}
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                found[key] = self.read(key)
        return found

    def find(self, prefix: str) -> dict[str, Stat]:
        """Return the objects below a directory, as the store lists them now."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(self._path(prefix), detail=True)
        except FileNotFoundError:
            if self._root_is_missing():
                raise
            return {}
        return self._by_key(found)

    def _by_key(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Stat]:
        cut = len(self._root) + 1
        return {
            path[cut:]: _stat(info)
            for path, info in found.items()
            if path.startswith(f"{self._root}/") and info.get("type") != "directory"
        }

    def find_here(self) -> dict[str, Stat]:
        """Return the objects right in the directory."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        return self._by_key({info["name"]: info for info in found})

    def _root_is_missing(self) -> bool:
        """Return whether even the bucket is not there."""
        bucket = self._root.strip("/").split("/")[0]
        return self._scheme != "memory" and not self._fs.exists(bucket)

    def stat(self, key: str) -> Stat:
        """Return what the store says of an object, now."""
        self._fs.invalidate_cache()
        return _stat(self._fs.info(self._path(key)))

    def delete(self, key: str) -> None:
        """Delete an object; do nothing if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of an object, in bounded memory."""
        with self._fs.open(self._path(key), "rb", block_size=PART_BYTES) as file:
            while data := file.read(PART_BYTES):
                yield data


def _is_refused(error: BaseException) -> bool:
    """Return whether a store says that a put's condition did not hold."""
    if any(
        getattr(error, name, None) in (412, "412") for name in ("code", "status", "status_code")
    ):
        return True
    texts = (f"{error}", f"{error.__cause__ or ''}")  # which may quote a key with any digits
    words = ("PreconditionFailed", "conditionNotMet", "Precondition Failed", "pre-conditions you")
    return any(word in text for text in texts for word in words)


def _stat(info: Mapping[str, Any]) -> Stat:
    modified = next(
        (
            info[name]
            for name in ("LastModified", "last_modified", "updated", "mtime", "created")
            if info.get(name) is not None
        ),
        None,
    )
    return Stat(int(info.get("size") or 0), _seconds(modified), _checksums(info))


def _seconds(value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
        except ValueError:
            return None
    if value is None:
        return None
    if getattr(value, "tzinfo", None) is None and hasattr(value, "replace"):
        value = value.replace(tzinfo=UTC)  # what memory:// means
    return float(value.timestamp())


def _checksums(info: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums in an answer of s3fs, gcsfs, adlfs or huggingface_hub."""
    found = {}
    for name in ("ETag", "etag"):
        if isinstance(info.get(name), str):
            found["etag"] = info[name].strip('"')
    settings = info.get("content_settings") or {}
    md5 = info.get("md5Hash") or (settings.get("content_md5") if hasattr(settings, "get") else None)
    if isinstance(md5, str):
        md5 = base64.b64decode(md5)
    if isinstance(md5, bytes | bytearray):
        found["md5"] = bytes(md5).hex()
    lfs = info.get("lfs")
    if lfs:
        found["sha256"] = lfs["sha256"] if isinstance(lfs, Mapping) else lfs.sha256
    return found
