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
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_ratchet._formats.base import Capture
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
        return FrozenArchive(configuration, assets, self._weights.freeze(model, capture))

    def write(self, frozen: FrozenArchive, file: io.RawIOBase) -> None:
        """Write the bytes of the file."""
        with zipfile.ZipFile(_Unseekable(file), "w") as archive:  # type: ignore[call-overload]
            for name, data in frozen.configuration.items():
                archive.writestr(name, data)
            size, pieces = self._weights.pieces(frozen.weights)
            _store(archive, _WEIGHTS, size, pieces)
            for name, data in frozen.assets.items():
                archive.writestr(f"assets/{name}", data)


class _Unseekable:
    """A file that cannot seek, so that `zipfile` puts each checksum after its data."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Write `data`."""
        self._file.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Do nothing: the file is not buffered."""


def _store(archive: Any, name: str, size: int, pieces: Iterable[memoryview]) -> None:
    """Add a member to an archive that is written to an `_Unseekable`.

    Args:
        archive: The `zipfile.ZipFile`, open for writing.
        name: Name of the member.
        size: Its length in bytes.
        pieces: Its bytes.
    """
    member = zipfile.ZipInfo(name)
    member.file_size = member.compress_size = size
    member.external_attr = 0o600 << 16  # as `ZipFile.open` gives it
    member.flag_bits |= _HAS_DESCRIPTOR
    member.header_offset = archive.fp.tell()
    large = size > zipfile.ZIP64_LIMIT
    archive.fp.write(member.FileHeader(large))
    checksum = 0
    for piece in pieces:
        checksum = crc32(piece, checksum)
        archive.fp.write(piece)
    member.CRC = checksum
    layout = "<LLQQ" if large else "<LLLL"
    archive.fp.write(struct.pack(layout, _SIGNATURE, checksum, size, size))
    archive.filelist.append(member)
    archive.NameToInfo[name] = member
    archive.start_dir = archive.fp.tell()
