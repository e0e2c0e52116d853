"""The manifest: a small JSON file about a checkpoint, written before the checkpoint counts.

docs/formats.md describes schema 1 in enough detail to write a reader from it. Files may come from
anybody: sizes, names and types are checked before they are used.

The last member is a seal, the digest of all the bytes before it. Without it, a flipped bit in a
metric would make a wrong checkpoint the best one, and it would still verify.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import xxhash

from keras_ratchet._json import number
from keras_ratchet.errors import LoadError
from keras_ratchet.types import Position

SCHEMA = 1
MAX_MANIFEST_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 22
_SEAL = b',\n "manifest_xxh3_128": "'
MALFORMED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size and digest of one file.

    Attributes:
        size_bytes: Its length.
        digest: XXH3-128 of its bytes, as 32 hexadecimal digits.
    """

    size_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is written about a checkpoint.

    Attributes:
        files: Entry of each file, by its name (without a directory).
        position: How much training was done.
        metrics: The logs at that moment.
        ranking: Names and modes of the metrics that rank it, the most important first.
        reason: Why it was saved.
        series: The file name template that it was saved under.
        run: Which run saved it; a resumed run stays the same one. Of a snapshot: which branch it
            is of, if it is of one.
        saved_at: Seconds since 1970, UTC.
        versions: Of keras, backend, python and keras_ratchet.
        fingerprint: Digest of the model's weight names, shapes and dtypes.
        metadata: What the user has added: plain JSON data.
    """

    files: Mapping[str, FileEntry]
    position: Position = field(default_factory=Position)
    metrics: Mapping[str, float] = field(default_factory=dict)
    ranking: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    series: str = ""
    run: str = ""
    saved_at: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the manifest as strict JSON, sealed, with a trailing newline."""
        data = {
            "schema": SCHEMA,
            "files": {
                name: {"bytes": entry.size_bytes, "xxh3_128": entry.digest}
                for name, entry in self.files.items()
            },
            "position": {
                "epoch": self.position.epoch,
                "batch": self.position.batch,
                "step": self.position.step,
            },
            "metrics": {name: number(value) for name, value in self.metrics.items()},
            "ranking": [{"metric": name, "mode": mode} for name, mode in self.ranking],
            "reason": self.reason,
            "series": self.series,
            **({"run": self.run} if self.run else {}),
            "saved_at": self.saved_at,
            "versions": dict(self.versions),
            "fingerprint": self.fingerprint,
            **({"metadata": dict(self.metadata)} if self.metadata else {}),
        }
        return seal(json.dumps(data, indent=1, allow_nan=False).encode())


def seal(text: bytes) -> bytes:
    """Return a JSON object's text with one more member: the digest of all that precedes it."""
    head = text.rstrip().removesuffix(b"}").rstrip()
    return head + _SEAL + _digest(head) + b'"\n}\n'


def _digest(data: bytes) -> bytes:
    return xxhash.xxh3_128(data).hexdigest().encode()


def check_seal(raw: bytes) -> None:
    """Raise a ValueError unless `seal` made this text."""
    head, mark, tail = raw.rpartition(_SEAL)
    if not mark or tail != _digest(head) + b'"\n}\n':
        raise ValueError("it is damaged: its own digest does not match")


def read_manifest(path: str) -> Manifest:
    """Read a manifest.

    Raises:
        LoadError: If the file is not a manifest of a schema that this version reads.
    """
    try:
        with open(path, "rb", buffering=0) as file:  # unbuffered: `ls` reads many
            raw = file.read(min(os.fstat(file.fileno()).st_size, MAX_MANIFEST_BYTES) + 1)
    except OSError as error:
        raise LoadError(
            f"{path!r} is not a valid manifest: {_reason(error)}", see="manifest"
        ) from error
    return manifest_of_bytes(raw, path)


def manifest_of_bytes(raw: bytes, where: str) -> Manifest:
    """Return the manifest that `Manifest.to_bytes` gave.

    Args:
        raw: Its bytes.
        where: Where they come from, for the message.

    Raises:
        LoadError: If they are not a manifest of a schema that this version reads.
    """
    try:
        if len(raw) > MAX_MANIFEST_BYTES:
            raise ValueError(f"it is larger than {MAX_MANIFEST_BYTES} bytes")
        data = json.loads(raw)
        if data["schema"] != SCHEMA:
            raise ValueError(f"it has schema {data['schema']!r}, but this version reads {SCHEMA}")
        check_seal(raw)
        return _parse(data)
    except MALFORMED as error:
        raise LoadError(
            f"{where!r} is not a valid manifest: {_reason(error)}", see="manifest"
        ) from error


def _reason(error: Exception) -> str:
    """Return what is wrong, in bounded length: the text may quote the file."""
    what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
    return what if len(what) <= 300 else f"{what[:300]}..."


def _parse(data: Any) -> Manifest:
    position = data.get("position", {})
    step = position.get("step")
    return Manifest(
        files={check_name(name): _entry(entry) for name, entry in data["files"].items()},
        position=Position(
            _count(position.get("epoch", 0)),
            _count(position.get("batch", 0)),
            None if step is None else _count(step),
        ),
        metrics={str(name): float(value) for name, value in data.get("metrics", {}).items()},
        ranking=tuple((str(r["metric"]), str(r["mode"])) for r in data.get("ranking", ())),
        reason=str(data.get("reason", "")),
        series=str(data.get("series", "")),
        run=str(data.get("run", "")),
        saved_at=_time(data.get("saved_at", 0.0)),
        versions={str(k): str(v) for k, v in data.get("versions", {}).items()},
        fingerprint=str(data.get("fingerprint", "")),
        metadata=checked_metadata(data.get("metadata", {})),
    )


def checked_metadata(data: Any) -> dict[str, Any]:
    """Return metadata if it is an object, or raise a ValueError."""
    if not isinstance(data, dict):
        raise ValueError(f"metadata is a {type(data).__name__}, not an object")
    return data


def check_name(name: str) -> str:
    """Return `name` if it names a file in the same directory, or raise a ValueError."""
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"the file name {name!r} points outside its directory")
    os.fsencode(name)  # raises for a lone surrogate, which is not a name either
    return name


def _entry(data: Mapping[str, Any]) -> FileEntry:
    digest = data["xxh3_128"]
    if not isinstance(digest, str) or len(digest) != 32 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"{digest!r} is not an XXH3-128 digest")
    return FileEntry(_count(data["bytes"]), digest)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def _time(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds!r} is not a time")
    return seconds


def entry_of(path: str) -> FileEntry:
    """Return size and digest of a file, read once, in bounded memory."""
    hasher = xxhash.xxh3_128()
    size = 0
    with open(path, "rb", buffering=0) as file:
        room = min(_CHUNK_BYTES, os.fstat(file.fileno()).st_size + 1)
        buffer = memoryview(bytearray(room))
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
    return FileEntry(size, hasher.hexdigest())


def matches(path: str, entry: FileEntry) -> bool:
    """Return whether a file has the size and digest of `entry`; the size is compared first."""
    return os.path.getsize(path) == entry.size_bytes and entry_of(path) == entry
