"""HDF5 through a Python file, so that a full disk is an OSError.

When HDF5's own driver meets a failed write it cannot close the file and takes the process
down with a SIGSEGV (measured on h5py 3.14). Here HDF5 never learns of the failure: after the
first OSError the stream swallows what follows, and raises that error when HDF5 is done.
The bytes go straight to the file: no second copy of it in memory.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import h5py


class H5Stream(io.BytesIO):
    """A file object for h5py that keeps the first OSError to itself.

    It is a BytesIO by type only, since that is what Keras's `H5IOStore` accepts beside a path;
    every byte goes to `file`.
    """

    def __init__(self, file: io.RawIOBase) -> None:
        super().__init__()
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write `data`, or pretend to once a write has failed."""
        size = len(memoryview(data).cast("B"))
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return size

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; what was never written reads as zeros."""
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view)
        view[count:] = bytes(len(view) - count)
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position; return it."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file, or pretend to once a write has failed."""
        if self.error is None:
            try:
                return self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0

    def flush(self) -> None:
        """Do nothing: the file is not buffered."""


@contextlib.contextmanager
def guarded(file: io.RawIOBase) -> Iterator[H5Stream]:
    """Yield a stream for HDF5; at the end raise the OSError that HDF5 was spared, if any."""
    stream = H5Stream(file)
    try:
        yield stream
    except Exception as error:
        if stream.error is not None:
            raise stream.error from error
        raise
    if stream.error is not None:
        raise stream.error


@contextlib.contextmanager
def h5_file(file: io.RawIOBase) -> Iterator[Any]:
    """Yield an `h5py.File` that writes to `file`; raise an OSError if that failed."""
    with guarded(file) as stream, h5py.File(stream, "w") as h5:
        yield h5
