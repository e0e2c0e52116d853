"""`.keras`: the whole model, as `model.save` writes it.

The weights are a large member of a zip archive, stored uncompressed and in one pass. `zipfile`
computes its checksum with zlib, at 3 to 5 GB/s, about as fast as the file is written; zlib-ng does
so at 67 GB/s (measured, with the bytes in the processor's cache). So that member is written here,
and zlib-ng is used where it is installed; the bytes are the same. Everything else about the
archive is left to `zipfile`.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_ratchet._formats.base import Capture
from keras_ratchet._formats.h5_layout import Contents
from keras_ratchet._formats.weights_h5 import FrozenWeights, WeightsH5
from keras_ratchet._keras import saving
from keras_ratchet.types import Model

try:
    from zlib_ng.zlib_ng import crc32
except ImportError:
    from zlib import crc32

_WEIGHTS = "model.weights.h5"
_HAS_DESCRIPTOR = 0x08
_SIGNATURE = 0x08074B50  # of a data descriptor
_HEADER_BYTES = 30
_MEMBER_BYTES = _HEADER_BYTES + 16  # with a data descriptor, without the name
_SIZES_BYTES = 20  # of a large member, in its header
_PIECE_BYTES = 1 << 22  # in the cache for checksum and digest, and large enough for the disk


@dataclass(frozen=True, slots=True)
class FrozenArchive:
    """A model at one moment: configuration, assets (vocabularies), weights."""

    configuration: dict[str, bytes]
    assets: dict[str, bytes]
    weights: FrozenWeights


class KerasArchive:
    """Keras's own format: a zip archive of config, metadata, weights and assets."""

    suffix = ".keras"
    save_method = "save"

    def __init__(self) -> None:
        self._weights = WeightsH5()

    def freeze(self, model: Model, capture: Capture) -> FrozenArchive:
        """Return all that the file needs of the model."""
        configuration = saving.configuration(model)
        assets = saving.assets_of(self._weights.parts(model))
        head_bytes = self._head_bytes(configuration)
        return FrozenArchive(
            configuration, assets, self._weights.freeze(model, capture, head_bytes)
        )

    def _head_bytes(self, configuration: dict[str, bytes]) -> int:
        """Return how many bytes come before the weights, if these are as large as last time.

        If it were another number, the weights would be copied once more, and no harm done.
        """
        members = sum(_MEMBER_BYTES + len(n) + len(data) for n, data in configuration.items())
        large = self._weights.last_bytes > zipfile.ZIP64_LIMIT
        return members + _HEADER_BYTES + len(_WEIGHTS) + large * _SIZES_BYTES

    def write(self, frozen: FrozenArchive, file: io.RawIOBase) -> None:
        """Write the bytes of the file."""
        target = _Unseekable(file)
        with zipfile.ZipFile(target, "w") as archive:  # type: ignore[call-overload]
            for name, data in frozen.configuration.items():
                archive.writestr(name, data)
            _store(archive, _WEIGHTS, self._weights.contents(frozen.weights), target)
            for name, data in frozen.assets.items():
                archive.writestr(f"assets/{name}", data)


class _Unseekable:
    """A file that cannot seek, so that `zipfile` puts each checksum after its data.

    What comes before the weights waits in memory: it may be written together with them.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._head: bytearray | None = bytearray()
        self._instead: memoryview | None = None

    def write(self, data: Any) -> int:
        """Write `data`."""
        if self._head is not None:
            self._head += data
        else:
            self._file.write(data if self._instead is None else self._instead)
            self._instead = None
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Do nothing: the file is not buffered."""

    def pieces(self, contents: Contents) -> Iterator[memoryview]:
        """Yield the pieces of a member, each of which is to be written before the next.

        What has waited is written first, or in one piece of memory with the member's bytes.
        """
        head, self._head = bytes(self._head or b""), None
        image = contents.image(head)
        if image is None:
            self.write(head)
            yield from contents.pieces()
            return
        for start in range(0, len(image), _PIECE_BYTES):
            self._instead = image[start : start + _PIECE_BYTES]
            yield self._instead[max(len(head) - start, 0) :]


def _store(archive: Any, name: str, contents: Contents, target: _Unseekable) -> None:
    """Add a member to an archive, the first one that is large.

    Args:
        archive: The `zipfile.ZipFile`, open for writing.
        name: Name of the member.
        contents: Its bytes.
        target: What the archive writes to.
    """
    member, size = zipfile.ZipInfo(name), contents.size
    member.file_size = member.compress_size = size
    member.external_attr = 0o600 << 16  # as `ZipFile.open` gives it
    member.flag_bits |= _HAS_DESCRIPTOR
    member.header_offset = archive.fp.tell()
    large = size > zipfile.ZIP64_LIMIT
    archive.fp.write(member.FileHeader(large))
    checksum = 0
    for piece in target.pieces(contents):
        checksum = crc32(piece, checksum)
        archive.fp.write(piece)
    member.CRC = checksum
    layout = "<LLQQ" if large else "<LLLL"
    archive.fp.write(struct.pack(layout, _SIGNATURE, checksum, size, size))
    archive.filelist.append(member)
    archive.NameToInfo[name] = member
    archive.start_dir = archive.fp.tell()
