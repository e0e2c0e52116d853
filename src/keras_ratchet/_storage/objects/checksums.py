"""Whether an object is the file that was sent, by what the store itself says of it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator

import xxhash

from keras_ratchet._storage.manifest import entry_of
from keras_ratchet._storage.objects.store_calls import PART_BYTES, Stat

_CHUNK_BYTES = 1 << 20
_MD5 = re.compile(r"[0-9a-f]{32}")
_MD5_OF_PARTS = re.compile(r"[0-9a-f]{32}-(?P<parts>\d+)")


def differs(path: str, found: Stat, chunks: Callable[[], Iterator[bytes]]) -> str:
    """Return how an object differs from the local file that was put; "" if it does not.

    S3 gives the MD5 of the bytes or of the parts' MD5s, GCS and Azure an MD5, Hugging Face a
    SHA-256. Where the store's checksum is of another kind (an ETag of Azure), the lengths alone are
    compared; where there is none (`memory://`, `file://`), or where it is not the file's, the bytes
    are read again.

    Args:
        path: The file.
        found: What the store says of the object.
        chunks: Reads the object.
    """
    size = os.path.getsize(path)
    if found.size_bytes != size:
        return f"it has {found.size_bytes} bytes where {size} were sent"
    if not found.checksums:
        return _read_again(path, chunks)
    for kind, there in found.checksums.items():
        here = _checksum(path, size, kind, there)
        if here is not None and here != there:
            return _read_again(path, chunks)  # with keys of KMS an etag looks like an MD5
    return ""


def _checksum(path: str, size: int, kind: str, there: str) -> str | None:
    """Return the checksum of a file as a store makes it, or None if it makes another one."""
    if kind == "sha256":
        return _hashed(path, "sha256")
    if kind == "md5" or (kind == "etag" and _MD5.fullmatch(there)):
        return _hashed(path, "md5") if kind == "md5" or size < 2 * PART_BYTES else None
    match = _MD5_OF_PARTS.fullmatch(there)
    if match is None or int(match["parts"]) != -(-size // PART_BYTES):
        return None
    return _md5_of_parts(path)


def _hashed(path: str, name: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


def _md5_of_parts(path: str) -> str:
    parts, left, current = [], PART_BYTES, hashlib.md5(usedforsecurity=False)
    with open(path, "rb", buffering=0) as file:
        while data := file.read(min(_CHUNK_BYTES, left)):
            current.update(data)
            left -= len(data)
            if not left:
                parts.append(current.digest())
                left, current = PART_BYTES, hashlib.md5(usedforsecurity=False)
    if left < PART_BYTES:
        parts.append(current.digest())
    whole = hashlib.md5(b"".join(parts), usedforsecurity=False)
    return f"{whole.hexdigest()}-{len(parts)}"


def _read_again(path: str, chunks: Callable[[], Iterator[bytes]]) -> str:
    hasher = xxhash.xxh3_128()
    for data in chunks():
        hasher.update(data)
    same = hasher.hexdigest() == entry_of(path).digest
    return "" if same else "its bytes are not those that were sent"
