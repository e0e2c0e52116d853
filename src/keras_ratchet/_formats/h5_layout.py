"""HDF5 files laid out in memory without their arrays, then streamed to the disk in one pass.

HDF5 decides on the layout of a file: it writes the structure in many small pieces, and each array
in one piece. A `Sketch` is the file object that it writes to; it stores the structure, and of each
array only its offset. The layout and the arrays together give the bytes of the file from start to
end. They go to the disk in order, digest and checksum are computed on the way, and no array is
copied. The structure does not depend on values, so one layout serves all later saves.

HDF5 itself never uses the disk: when a write of its own driver fails, it cannot close the file and
ends the process with a SIGSEGV (measured on h5py 3.14). Here a full disk is an OSError.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from keras_ratchet._formats.base import Captured
from keras_ratchet._formats.image import Image, Places, raw_bytes

_BLOCK_BYTES = 1 << 12
_PIECE_BYTES = 1 << 20  # small enough to be in the processor's cache for the digest, too


@dataclass(slots=True)
class Layout:
    """The structure of an HDF5 file, and the offsets of its arrays.

    Attributes:
        size: Length of the file in bytes.
        complete: Whether all arrays have an offset; if not, some are part of the structure, and
            the layout serves only the values that it was made with.
    """

    size: int = 0
    complete: bool = True
    _blocks: dict[int, bytearray] = field(default_factory=dict)
    _offsets: dict[int, int] = field(default_factory=dict)
    _structures: dict[int, _Structure] = field(default_factory=dict)

    def pieces(self, arrays: Sequence[NDArray[Any]]) -> Iterator[memoryview]:
        """Yield the bytes of the file, in order, in pieces of about 1 MB.

        Args:
            arrays: The arrays, with the shapes, dtypes and order of those of the layout.
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
        for start, index in sorted(self._offsets.items()):
            yield from (piece for _, piece in self._between(at, start))
            raw = raw_bytes(arrays[index]).data
            yield raw
            at = start + len(raw)
        yield from (piece for _, piece in self._between(at, self.size))

    def _between(self, start: int, end: int) -> Iterator[tuple[int, memoryview]]:
        while start < end:
            number, offset = divmod(start, _BLOCK_BYTES)
            count = min(end - start, _BLOCK_BYTES - offset)
            block = self._blocks.get(number) or bytes(_BLOCK_BYTES)
            yield start, memoryview(block)[offset : offset + count]
            start += count

    def places(self, sizes: Sequence[int], head_bytes: int) -> Places:
        """Return where the arrays are in a file that begins with something else.

        Args:
            sizes: Of the arrays, in bytes.
            head_bytes: Length of what comes before.
        """
        first = {index: start for start, index in sorted(self._offsets.items(), reverse=True)}
        offsets = tuple(head_bytes + first.get(index, 0) for index in range(len(sizes)))
        return Places(offsets, tuple(sizes), head_bytes + self.size)

    def complete_image(
        self, image: Image, head: bytes, arrays: Sequence[NDArray[Any]]
    ) -> memoryview:
        """Fill in the structure of an image whose places are those of this layout."""
        sizes = image.places.sizes
        if len(head) not in self._structures:
            self._structures = {len(head): self._structure(len(head), sizes)}
        structure = self._structures[len(head)]
        return image.complete(head, structure.pieces, structure.copies, arrays)

    def _structure(self, shift: int, sizes: Sequence[int]) -> _Structure:
        pieces: list[tuple[int, memoryview]] = []
        copies: list[tuple[int, int]] = []
        at, seen = 0, set[int]()
        for start, index in sorted(self._offsets.items()):
            pieces += self._between(at, start)
            at = start + sizes[index]
            if index in seen:
                copies.append((start + shift, index))
            seen.add(index)
        pieces += self._between(at, self.size)
        return _Structure([(start + shift, piece) for start, piece in pieces], copies)


@dataclass(frozen=True, slots=True)
class _Structure:
    """What an image lacks: the bytes between its arrays, and arrays that the file has twice."""

    pieces: list[tuple[int, memoryview]]
    copies: list[tuple[int, int]]


class Sources:
    """The variables and arrays of a file, each once, in a fixed order."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._index: dict[int, int] = {}

    def add(self, item: Any) -> int:
        """Return the number of a variable or array; add it if it is new."""
        if id(item) not in self._index:
            self._index[id(item)] = len(self.items)
            self.items.append(item)
        return self._index[id(item)]


class Sketch(io.RawIOBase):
    """The file object that HDF5 writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = Layout()
        self._expected: tuple[int, memoryview] | None = None
        self._position = 0

    def put(self, index: int, array: NDArray[Any], create: Callable[[], Any]) -> None:
        """Call a function that writes a data set, and note the offset of its array.

        Args:
            index: Number of the array.
            array: The array, contiguous.
            create: Writes it to a data set.
        """
        if array.nbytes:
            self._expected = index, raw_bytes(array).data
        create()
        if self._expected is not None:
            self._expected, self.layout.complete = None, False

    def write(self, data: Any) -> int:
        """Store some bytes of structure, or note the offset of an array."""
        view = memoryview(data).cast("B")
        start, self._position = self._position, self._position + len(view)
        self.layout.size = max(self.layout.size, self._position)
        if self._expected is not None and _same_memory(view, self._expected[1]):
            self.layout._offsets[start] = self._expected[0]
            self._expected = None
        else:
            for block, rest in self._spans(start, view):
                block[: len(rest)] = rest
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """Read structure; HDF5 asks for nothing else."""
        view = memoryview(buffer).cast("B")
        for block, rest in self._spans(self._position, view):
            rest[:] = block[: len(rest)]
        self._position += len(view)
        return len(view)

    def _spans(self, start: int, view: memoryview) -> Iterator[tuple[memoryview, memoryview]]:
        """Yield the pieces of `view`, each with the part of a block that it belongs to."""
        while view:
            number, offset = divmod(start, _BLOCK_BYTES)
            block = self.layout._blocks.setdefault(number, bytearray(_BLOCK_BYTES))
            count = min(len(view), _BLOCK_BYTES - offset)
            yield memoryview(block)[offset:], view[:count]
            start, view = start + count, view[count:]

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position; return it."""
        self._position = offset + (0, self._position, self.layout.size)[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        self.layout.size = self._position if size is None else size
        return self.layout.size

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True, slots=True)
class Contents:
    """The bytes of a file that is about to be written."""

    _layout: Layout
    _arrays: list[NDArray[Any]]
    _image: Image | None
    _places: Callable[[int], Places | None]

    @property
    def size(self) -> int:
        """Their number."""
        return self._layout.size

    def pieces(self) -> Iterator[memoryview]:
        """Yield them in order, in pieces of about 1 MB."""
        return self._layout.pieces(self._arrays)

    def image(self, head: bytes = b"") -> memoryview | None:
        """Return them in one piece if they were captured so.

        Args:
            head: What comes before them, and is in the piece too.
        """
        if self._image is None or self._image.places != self._places(len(head)):
            return None
        return self._layout.complete_image(self._image, head, self._arrays)

    def write(self, file: io.RawIOBase) -> None:
        """Write them."""
        image = self.image()
        for piece in self.pieces() if image is None else (image,):
            file.write(piece)


class LastLayout:
    """The layout of the last save, which serves the next one unless something has changed."""

    def __init__(self) -> None:
        self._key: Any = None
        self._layout = Layout()
        self._sizes: list[int] = []
        self._places: tuple[int, Places] | None = None  # by the length of what comes before

    def get(
        self, structure: Any, arrays: Sequence[NDArray[Any]], fill: Callable[[Any, Sketch], None]
    ) -> Layout:
        """Return the layout of a file.

        Args:
            structure: Everything that the structure depends on, apart from shapes and dtypes.
            arrays: The arrays.
            fill: Fills an `h5py.File`; puts arrays into it through the sketch.
        """
        key = structure, [(array.shape, array.dtype) for array in arrays]
        if self._key != key or not self._layout.complete:
            self._layout, self._places = _lay_out(fill), None
            self._key = key
            self._sizes = [array.nbytes for array in arrays]
        return self._layout

    def places(self, structure: Any, head_bytes: int = 0) -> Places | None:
        """Return where a file will have its arrays if their shapes and dtypes are as before.

        Args:
            structure: As for `get`.
            head_bytes: Length of what comes before in the file.
        """
        if self._key is None or self._key[0] != structure or not self._layout.complete:
            return None
        if self._places is None or self._places[0] != head_bytes:
            self._places = head_bytes, self._layout.places(self._sizes, head_bytes)
        return self._places[1]

    @property
    def size(self) -> int:
        """Length of the last file in bytes."""
        return self._layout.size

    def contents(
        self, structure: Any, values: Captured, fill: Callable[[Any, Sketch, list[Any]], None]
    ) -> Contents:
        """Return the bytes of a file.

        Args:
            structure: As for `get`.
            values: The captured arrays.
            fill: Fills an `h5py.File` with the arrays; puts them into it through the sketch.
        """
        arrays = values.arrays()
        layout = self.get(structure, arrays, lambda h5, sketch: fill(h5, sketch, arrays))
        return Contents(layout, arrays, values.image, lambda head: self.places(structure, head))


def _lay_out(fill: Callable[[Any, Sketch], None]) -> Layout:
    sketch = Sketch()
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)  # as h5py does
    access.set_sieve_buf_size(0)  # arrays are written whole, not through a buffer
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, sketch)
    identity = h5py.h5f.create(b"sketch", h5py.h5f.ACC_TRUNC, fapl=access)
    with h5py.File(identity) as h5:
        fill(h5, sketch)
    return sketch.layout


def _same_memory(one: memoryview, other: memoryview) -> bool:
    if len(one) != len(other):
        return False
    addresses = [int(np.frombuffer(view, np.uint8).ctypes.data) for view in (one, other)]
    return addresses[0] == addresses[1]
