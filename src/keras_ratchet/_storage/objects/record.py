"""The record of a checkpoint on a store: the object whose put commits it.

Its content has the checkpoint's manifest, byte for byte, and the key, length and checksums of each
object. Its key has a summary of the manifest, so one listing tells what thousands of checkpoints
are, and nothing that could be stale points to the newest or the best. A summary that is too long
for a key is cut; the record itself then tells the rest.

    .ratchet/commits/1/<id>/<summary, in pieces of 200 letters>
    checkpoints/<id>/<file>

`<id>` is the time of the save in milliseconds and a random number, so no key is used twice.
"""

from __future__ import annotations

import base64
import json
import math
import re
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_ratchet._json import number
from keras_ratchet._storage.listing import info_of
from keras_ratchet._storage.manifest import (
    MALFORMED,
    FileEntry,
    Manifest,
    check_name,
    check_seal,
    checked_metadata,
    manifest_of_bytes,
    seal,
)
from keras_ratchet._storage.objects.store_calls import Stat
from keras_ratchet.errors import CorruptError
from keras_ratchet.types import CheckpointInfo, Position

COMMITS = ".ratchet/commits"
DATA = "checkpoints"
_SCHEMA = 1
_PIECE = 200  # letters; names of files have at most 255 bytes
_ROOM = 800  # letters of a summary; a key of S3 has at most 1,024 bytes
_LONGEST_KEY = 940  # of 1,024 bytes, without what comes before the summary
_MAX_UNPACKED = 1 << 20
_ID = re.compile(r"[0-9]{13,}-[0-9a-f]{8}")
_DATA_KEY = re.compile(rf"{DATA}/\d{{13,}}-[0-9a-f]{{8}}/[^/]+", re.DOTALL)
_KEY = re.compile(rf"(?P<id>{_ID.pattern})/(?P<cut>[ws])(?P<text>[\w/-]+)")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object of a checkpoint.

    Attributes:
        key: Where it is.
        size_bytes: Its length.
        checksums: What the store said of it when it had arrived.
    """

    key: str
    size_bytes: int
    checksums: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """What is put, last, about a checkpoint.

    Attributes:
        name: Name of the file or of the snapshot.
        is_directory: Whether it is a snapshot.
        manifest: Its manifest.
        objects: Its objects, by the name of the file.
    """

    name: str
    is_directory: bool
    manifest: Manifest
    objects: Mapping[str, StoredObject]

    def borrowed(self, data_id: str) -> tuple[str, ...]:
        """Return the keys of objects that were put for another checkpoint, which has the same file.

        Args:
            data_id: Id of the directory that has its own objects; "" if there is none.
        """
        own = f"{DATA}/{data_id}/"
        keys = sorted(stored.key for stored in self.objects.values()) if data_id else []
        return tuple(key for key in keys if not key.startswith(own))

    def to_bytes(self) -> bytes:
        """Return the record as JSON, sealed."""
        data = {
            "schema": _SCHEMA,
            "name": self.name,
            "directory": self.is_directory,
            "objects": {
                name: {"key": o.key, "bytes": o.size_bytes, "checksums": dict(o.checksums)}
                for name, o in self.objects.items()
            },
            "manifest": self.manifest.to_bytes().decode(),
        }
        return seal(json.dumps(data, indent=1, allow_nan=False).encode())


def record_of_bytes(raw: bytes, where: str) -> Record:
    """Return the record that `Record.to_bytes` gave.

    Raises:
        CorruptError: If it is damaged, or not of a schema that this version reads.
    """
    try:
        data = json.loads(raw)
        if data["schema"] != _SCHEMA:
            raise ValueError(f"it has schema {data['schema']!r}, but this version reads {_SCHEMA}")
        check_seal(raw)
        manifest = manifest_of_bytes(data["manifest"].encode(), where)
        objects = {
            check_name(name): StoredObject(
                _checked_key(o["key"]),
                int(o["bytes"]),
                {str(k): str(v) for k, v in o["checksums"].items()},
            )
            for name, o in data["objects"].items()
        }
        if objects.keys() != manifest.files.keys():
            raise ValueError("its objects are not the files of its manifest")
        return Record(check_name(data["name"]), bool(data["directory"]), manifest, objects)
    except MALFORMED as error:
        raise CorruptError(
            f"{where!r} is not a valid record: {str(error)[:300]}", see="manifest"
        ) from error


def _checked_key(key: str) -> str:
    if not key or any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise ValueError(f"the key {key!r} points outside its directory")
    return key


def new_id(saved_at: float) -> str:
    """Return a name for what a save puts on a store, which is used once."""
    return f"{max(int(saved_at * 1000), 0):013d}-{secrets.token_hex(4)}"


def data_key(data_id: str, name: str) -> str:
    """Return the key of a file."""
    return f"{DATA}/{data_id}/{name}"


def is_data_key(key: str) -> bool:
    """Return whether a key is one that `data_key` gives: others below `checkpoints/` are not ours.

    Example:
        >>> is_data_key("checkpoints/1795802380694-20dd93fa/best.keras")
        True
        >>> is_data_key("checkpoints/best.keras")
        False
    """
    return _DATA_KEY.fullmatch(key) is not None


def record_key(record_id: str, data_id: str, record: Record, taken: int = 0) -> str:
    """Return the key of a record: its id, and a summary.

    Args:
        record_id: The record's own id.
        data_id: Id of the directory that has its objects; "" if a file of its name is the object.
        record: The record.
        taken: How many bytes the URL of the directory takes from those of the key.
    """
    room = min(_ROOM, _LONGEST_KEY - taken)
    texts = [_packed(summary) for summary in _summaries(data_id, record)]
    is_cut, text = next(
        ((cut, text) for cut, text in enumerate(texts) if len(text) <= room), (2, texts[-1])
    )
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    pieces[0] = f"{'s' if is_cut else 'w'}{pieces[0]}"
    return f"{COMMITS}/{_SCHEMA}/{record_id}/{'/'.join(pieces)}"


def _packed(summary: list[Any]) -> str:
    data = zlib.compress(json.dumps(summary, separators=(",", ":")).encode(), 9)
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _summaries(data_id: str, record: Record) -> list[list[Any]]:
    """Return a summary, and shorter ones."""
    m, p = record.manifest, record.manifest.position
    where = [p.epoch, p.batch, p.step]
    metrics = {name: number(value) for name, value in m.metrics.items()}
    size = sum(entry.size_bytes for entry in m.files.values())
    head = [record.name, int(record.is_directory), data_id, m.saved_at, m.run, size]
    whole = [*head, where, metrics, m.ranking, m.reason, m.series, m.fingerprint, dict(m.versions)]
    borrowed, metadata = record.borrowed(data_id), dict(m.metadata)
    whole += [borrowed, metadata] if metadata else [borrowed] if borrowed else []
    return [whole, [*head, where], head]


@dataclass(frozen=True, slots=True)
class Entry:
    """A checkpoint on a store, as a listing tells it.

    Attributes:
        id: The record's id.
        key: The record's key.
        data_id: Which directory has its objects; "" if a file of its name is the object.
        info: What is known about it; its path is a URL.
        is_whole: Whether `info` has everything; if not, the record tells the rest.
        borrowed: Keys of its objects that are in directories of others; None if that is unknown.
    """

    id: str
    key: str
    data_id: str
    info: CheckpointInfo
    is_whole: bool = True
    borrowed: tuple[str, ...] | None = ()

    def uses(self, key: str) -> bool:
        """Return whether an object may be one of this checkpoint's."""
        return (
            self.borrowed is None
            or key in self.borrowed
            or (bool(self.data_id) and key.startswith(f"{DATA}/{self.data_id}/"))
        )


def entry_of_key(key: str, url: str) -> Entry | None:
    """Return what the key of a record tells, or None if it is not one.

    Args:
        key: The key.
        url: Where the checkpoints are.
    """
    match = _KEY.fullmatch(key.removeprefix(f"{COMMITS}/{_SCHEMA}/"))
    if match is None or not key.startswith(f"{COMMITS}/{_SCHEMA}/"):
        return None
    text = match["text"].replace("/", "")
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        raw = zlib.decompressobj().decompress(packed, _MAX_UNPACKED)
        data = json.loads(raw)
        own, info, is_whole = _checked_id(data[2]), _info(data, url), match["cut"] == "w"
        borrowed = tuple(map(_checked_data_key, data[13] if len(data) > 13 else ()))
        return Entry(match["id"], key, own, info, is_whole, borrowed if is_whole else None)
    except (*MALFORMED, zlib.error, IndexError):
        return None


def _checked_id(data_id: str) -> str:
    """Return the name of a directory of objects, which may be deleted, or ""."""
    if data_id and not _ID.fullmatch(data_id):
        raise ValueError(f"{data_id!r} is not the name of a directory of objects")
    return data_id


def _checked_data_key(key: str) -> str:
    """Return the key of an object, which may be deleted."""
    if not is_data_key(key):
        raise ValueError(f"{key!r} is not the key of an object")
    return key


def _info(data: list[Any], url: str) -> CheckpointInfo:
    name = check_name(data[0])
    saved_at = float(data[3])
    if not math.isfinite(saved_at):
        raise ValueError(f"{saved_at!r} is not a time")
    epoch, batch, step = data[6] if len(data) > 6 else (0, 0, None)
    info: dict[str, Any] = {}
    if len(data) > 7:
        info = {
            "metrics": {str(k): float(v) for k, v in data[7].items()},
            "ranking": tuple((str(n), str(mode)) for n, mode in data[8]),
            "reason": str(data[9]),
            "series": str(data[10]),
            "fingerprint": str(data[11]),
            "versions": {str(k): str(v) for k, v in data[12].items()},
            "metadata": checked_metadata(data[14]) if len(data) > 14 else {},
        }
    return CheckpointInfo(
        name,
        f"{url}/{name}",
        has_manifest=True,
        is_directory=bool(data[1]),
        position=Position(int(epoch), int(batch), None if step is None else int(step)),
        run=str(data[4]),
        saved_at=saved_at,
        size_bytes=int(data[5]),
        **info,
    )


def entry_of_record(record_id: str, key: str, data_id: str, record: Record, url: str) -> Entry:
    """Return the entry of a record that is known whole."""
    info = info_of(record.manifest, f"{url}/{record.name}", is_directory=record.is_directory)
    return Entry(record_id, key, data_id, info, borrowed=record.borrowed(data_id))


def mismatch(found: Stat | None, stored: StoredObject, entry: FileEntry) -> str:
    """Return how an object is not the one that was put, by what the store says; "" if it is."""
    if found is None:
        return "it is not there"
    if found.size_bytes != entry.size_bytes:
        return f"it has {found.size_bytes} bytes where {entry.size_bytes} were saved"
    for kind, there in found.checksums.items():
        if stored.checksums.get(kind, there) != there:
            return f"the store's {kind} is not the one that it had when it was put"
    return ""
