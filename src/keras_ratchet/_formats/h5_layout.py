"""HDF5 files drawn in memory without their arrays, then streamed to the disk in one pass.

HDF5 lays a file out by itself: it writes its structure here and there, and each array in one
piece. A `Sketch` is the file that it writes to: it keeps the structure, and of the arrays only
their places. From a drawing and the arrays the bytes of the file are known from begin to end; they
go to the disk in order, with digest and checksum computed on the way, and no second copy of an
array is made. The structure does not depend on values, so one drawing serves all later saves of
the same layout.

HDF5 itself never sees the disk. Its own driver, when a write fails, cannot close the file and
takes the process down with a SIGSEGV (measured on h5py 3.14); here a full disk is an OSError.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 12
_PIECE_BYTES = 1 << 20  # small enough to be in the processor's cache for the digest, too


@dataclass(slots=True)
class Drawing:
    """The structure of an HDF5 file, and where its arrays go.

    Attributes:
        size: Length of the file in bytes.
        whole: Whether all arrays have a place; else some are part of the structure, and the
            drawing serves only the values that it was made with.
    """

    size: int = 0
    whole: bool = True
    _blocks: dict[int, bytearray] = field(default_factory=dict)
    _places: dict[int, int] = field(default_factory=dict)

    def pieces(self, arrays: Sequence[NDArray[Any]]) -> Iterator[memoryview]:
        """Yield the bytes of the file, in order, in pieces of about 1 MB.

        Args:
            arrays: The arrays, of the shapes, dtypes and order of those that were drawn.
        """
        buffer = bytearray()
        for piece in self._parts(arrays):
            if len(buffer) + len(piece) < _PIECE_BYTES:
                buffer += piece
                continue
            if buffer:
                yield memoryview(buffer)
                buffer = bytearray()
            for start in range(0, len(piece), _PIECE_BYTES):
                yield piece[start : start + _PIECE_BYTES]
        if buffer:
            yield memoryview(buffer)

    def _parts(self, arrays: Sequence[NDArray[Any]]) -> Iterator[memoryview]:
        at = 0
        for start, index in sorted(self._places.items()):
            yield from self._structure(at, start)
            raw = raw_bytes(arrays[index])
            yield raw
            at = start + len(raw)
        yield from self._structure(at, self.size)

    def _structure(self, start: int, end: int) -> Iterator[memoryview]:
        while start < end:
            number, offset = divmod(start, _BLOCK_BYTES)
            count = min(end - start, _BLOCK_BYTES - offset)
            block = self._blocks.get(number) or bytes(_BLOCK_BYTES)
            yield memoryview(block)[offset : offset + count]
            start += count


class Sketch(io.RawIOBase):
    """The file object that HDF5 draws to."""

    def __init__(self) -> None:
        super().__init__()
        self.drawing = Drawing()
        self._expected: tuple[int, memoryview] | None = None
        self._position = 0

    def put(self, index: int, array: NDArray[Any], create: Callable[[], Any]) -> None:
        """Let a data set be written, and note where its array goes.

        Args:
            index: Number of the array.
            array: The array, contiguous.
            create: Writes it to a data set.
        """
        if array.nbytes:
            self._expected = index, raw_bytes(array)
        create()
        if self._expected is not None:
            self._expected, self.drawing.whole = None, False

    def write(self, data: Any) -> int:
        """Take some bytes of structure, or note the place of an array."""
        view = memoryview(data).cast("B")
        start, self._position = self._position, self._position + len(view)
        self.drawing.size = max(self.drawing.size, self._position)
        if self._expected is not None and _same_memory(view, self._expected[1]):
            self.drawing._places[start] = self._expected[0]
            self._expected = None
        else:
            for block, rest in self._spans(start, view):
                block[: len(rest)] = rest
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Read structure back; HDF5 asks for nothing else."""
        view = memoryview(buffer).cast("B")
        for block, rest in self._spans(self._position, view):
            rest[:] = block[: len(rest)]
        self._position += len(view)
        return len(view)

    def _spans(self, start: int, view: memoryview) -> Iterator[tuple[memoryview, memoryview]]:
        """Yield the pieces of `view`, each with the place in a block that it is for."""
        while view:
            number, offset = divmod(start, _BLOCK_BYTES)
            block = self.drawing._blocks.setdefault(number, bytearray(_BLOCK_BYTES))
            count = min(len(view), _BLOCK_BYTES - offset)
            yield memoryview(block)[offset:], view[:count]
            start, view = start + count, view[count:]

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position; return it."""
        self._position = offset + (0, self._position, self.drawing.size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        self.drawing.size = self._position if size is None else size
        return self.drawing.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True


class Drawings:
    """The last drawing, for as long as the layout stays the same."""

    def __init__(self) -> None:
        self._key: Any = None
        self._drawing = Drawing()

    def get(
        self, layout: Any, arrays: Sequence[NDArray[Any]], fill: Callable[[Any, Sketch], None]
    ) -> Drawing:
        """Return the drawing of a file.

        Args:
            layout: All that decides about the structure, beside shapes and dtypes.
            arrays: The arrays.
            fill: Fills an `h5py.File`; arrays are put into it through the sketch.
        """
        key = layout, [(array.shape, array.dtype) for array in arrays]
        if self._key != key or not self._drawing.whole:
            self._drawing = _draw(fill)
            self._key = key
        return self._drawing


def _draw(fill: Callable[[Any, Sketch], None]) -> Drawing:
    sketch = Sketch()
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)  # as h5py does
    access.set_sieve_buf_size(0)  # arrays come whole, and not through a buffer
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, sketch)
    identity = h5py.h5f.create(b"sketch", h5py.h5f.ACC_TRUNC, fapl=access)
    with h5py.File(identity) as h5:
        fill(h5, sketch)
    return sketch.drawing


def raw_bytes(array: NDArray[Any]) -> memoryview:
    """Return the memory of a contiguous array as bytes."""
    return array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")


def _same_memory(one: memoryview, other: memoryview) -> bool:
    if len(one) != len(other):
        return False
    addresses = [int(np.frombuffer(view, np.uint8).ctypes.data) for view in (one, other)]
    return addresses[0] == addresses[1]
