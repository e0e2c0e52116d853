"""A large member of a zip archive, stored uncompressed and in one pass.

`zipfile` takes its checksum with zlib, at 3 to 5 GB/s where the file itself is written at about
as much; zlib-ng does so at 67 GB/s (measured, with the bytes in the processor's cache), so the
member goes past it. All that is decided about the archive is still decided by `zipfile`.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable
from typing import Any

from zlib_ng import zlib_ng

_HAS_DESCRIPTOR = 0x08
_SIGNATURE = 0x08074B50  # of a data descriptor


class Forward:
    """A file that can only be written on: so checksums stand behind what they are for."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Write `data`."""
        self._file.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Do nothing: the file is not buffered."""


def store(archive: Any, name: str, size: int, pieces: Iterable[memoryview]) -> None:
    """Add a member to an archive that is written on a `Forward`.

    Args:
        archive: The `zipfile.ZipFile`, open for writing.
        name: Of the member.
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
        checksum = zlib_ng.crc32(piece, checksum)
        archive.fp.write(piece)
    member.CRC = checksum
    layout = "<LLQQ" if large else "<LLLL"
    archive.fp.write(struct.pack(layout, _SIGNATURE, checksum, size, size))
    archive.filelist.append(member)
    archive.NameToInfo[name] = member
    archive.start_dir = archive.fp.tell()
