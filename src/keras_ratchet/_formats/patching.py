"""Patching: a copy of a Keras file with other values for some weights, made without Keras.

HDF5 stores each weight in one piece at a known offset, and a `.keras` archive stores its HDF5 file
uncompressed. So only the bytes of these weights differ in the copy; config, optimizer, names and
layout stay the same.
"""

from __future__ import annotations

import io
import operator
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, cast

from numpy.typing import NDArray

from keras_ratchet._formats.readers import Weight, open_weights
from keras_ratchet.errors import LoadError

_CHUNK_BYTES = 1 << 22
_INNER = "model.weights.h5"
Values = Mapping[str, Callable[[], NDArray[Any]]]


def rewrite(source: str, file: io.RawIOBase, values: Values) -> None:
    """Write a copy of a file, with other values for some of its weights.

    One weight is in memory at a time.

    Args:
        source: A `.keras`, `.weights.h5` or `.h5` file.
        file: Where to write; seekable.
        values: Maps the key of a weight to a function that returns its new value.

    Raises:
        LoadError: If `source` is not such a file, or if a new value does not fit.
        OSError: If the disk refuses.
    """
    with open_weights(source) as weights:
        wanted = [w for w in weights if w.key in values and 0 not in w.shape]
        changes = {_offset(weight): (weight, values[weight.key]) for weight in wanted}
    if not source.endswith(".keras"):
        with open(source, "rb") as original:
            _copy(_patched(original, changes), file)
        return
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(cast(IO[bytes], file), "w") as copy:
        for member in archive.infolist():
            with archive.open(member) as original:
                patched = _patched(original, changes if member.filename == _INNER else {})
                _add(copy, member, patched)


def _offset(weight: Weight) -> int:
    if weight.offset is None:
        raise LoadError(
            f"weight {weight.name!r} is not stored contiguously in its file (it is "
            "compressed), so it cannot be replaced. Load and save the model once with Keras.",
            see="unreadable",
        )
    return weight.offset


def _add(copy: zipfile.ZipFile, member: zipfile.ZipInfo, chunks: Iterator[bytes]) -> None:
    entry = zipfile.ZipInfo(member.filename, member.date_time)
    entry.compress_type = member.compress_type
    entry.external_attr = member.external_attr
    entry.file_size = member.file_size  # decides whether 64-bit sizes are needed
    with copy.open(entry, "w") as target:
        _copy(chunks, target)


def _copy(chunks: Iterator[bytes], target: Any) -> None:
    for chunk in chunks:
        target.write(chunk)


def _patched(
    original: IO[bytes], changes: Mapping[int, tuple[Weight, Callable[[], NDArray[Any]]]]
) -> Iterator[bytes]:
    """Yield the bytes of a file, with those of some weights replaced."""
    at = 0
    for offset, (weight, value) in sorted(changes.items(), key=operator.itemgetter(0)):
        yield from _bytes_of(original, offset - at)
        array = value()
        old = sum(map(len, _bytes_of(original, array.nbytes)))
        if array.shape != weight.shape or old != array.nbytes:
            raise LoadError(
                f"weight {weight.name!r} cannot hold an array of shape {array.shape}.",
                see="does-not-fit",
            )
        yield array.tobytes()
        at = offset + array.nbytes
    yield from _bytes_of(original, None)


def _bytes_of(original: IO[bytes], count: int | None) -> Iterator[bytes]:
    """Yield the next `count` bytes, or all that are left."""
    while count is None or count > 0:
        chunk = original.read(_CHUNK_BYTES if count is None else min(count, _CHUNK_BYTES))
        if not chunk:
            return
        count = None if count is None else count - len(chunk)
        yield chunk
