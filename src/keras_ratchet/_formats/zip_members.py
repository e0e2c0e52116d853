"""A member of a zip archive, opened so that seeking in it is cheap.

HDF5 reads a file in many places. `zipfile` seeks backwards by reading from the start again, and
computes the checksum of what it skips: seconds for a model of 200 layers. The members of a `.keras`
file are not compressed, so their bytes are a range of the file itself.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from typing import Any

_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 1


def open_member(archive: zipfile.ZipFile, name: str, stack: contextlib.ExitStack) -> Any:
    """Return a member of a zip archive, opened for reading; `stack` closes it.

    Args:
        archive: The archive, opened by its path.
        name: The member; if it is compressed, `zipfile` reads it.
        stack: Closes the member.

    Raises:
        zipfile.BadZipFile: If the archive's directory and the member do not agree.
    """
    member = archive.getinfo(name)
    inner = stack.enter_context(archive.open(member))  # refuses a member of another name
    is_plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED
    if not is_plain or member.compress_size != member.file_size or archive.filename is None:
        return inner
    file = stack.enter_context(io.FileIO(archive.filename))
    start = _start_of(file, member.header_offset)
    if start + member.file_size > file.seek(0, io.SEEK_END):
        raise zipfile.BadZipFile(f"its member {name!r} ends after the file.")
    return stack.enter_context(io.BufferedReader(_Range(file, start, member.file_size)))


def _start_of(file: io.FileIO, header: int) -> int:
    """Return where the bytes of a member start, after its name and extra fields."""
    file.seek(header)
    lengths = file.read(_LOCAL_HEADER_BYTES)[26:]
    name, extra = struct.unpack("<HH", lengths)
    return header + _LOCAL_HEADER_BYTES + int(name) + int(extra)


class _Range(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {0: 0, 1: self._at, 2: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(count)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
