"""`.safetensors`: named arrays, streamed to a file and read from it.

Eight bytes give the length of a JSON header with dtype, shape and offsets of each array; the raw
bytes follow, from the start of a page on. Any safetensors reader opens the file; nothing is
pickled.
Format: https://github.com/huggingface/safetensors (the layout only; this is our own writer).
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from keras_ratchet.errors import LoadError

_MAX_HEADER_BYTES = 100_000_000
_ALIGNMENT = 4096  # the arrays begin a page, so that they can go past the page cache
_CODES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_NAMES = {np.dtype(dtype): code for code, dtype in _CODES.items()}


def can_hold(dtype: Any) -> bool:
    """Return whether the format can store arrays of a dtype."""
    return dtype in _NAMES


def write_arrays(arrays: Mapping[str, NDArray[Any]], file: io.RawIOBase) -> None:
    """Write arrays to an open file, one after the other, without copying them.

    Those that lie one after the other in memory, too, are written at once.

    Raises:
        ValueError: If the format cannot store an array's dtype.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        if array.dtype not in _NAMES:
            raise ValueError(f"array {name!r} has dtype {array.dtype}, which cannot be saved")
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    dense = [np.ascontiguousarray(array) for array in arrays.values() if array.nbytes]
    for start, size in _spans(dense):
        file.write((ctypes.c_char * size).from_address(start))  # `dense` holds the memory


def _spans(arrays: Iterable[NDArray[Any]]) -> Iterator[tuple[int, int]]:
    """Yield address and size of each piece of memory that contiguous arrays fill, in order."""
    start = size = 0
    for array in arrays:
        address = array.__array_interface__["data"][0]
        if address != start + size:
            if size:
                yield start, size
            start, size = address, 0
        size += array.nbytes
    if size:
        yield start, size


def read_arrays(path: str) -> dict[str, NDArray[Any]]:
    """Read all arrays of a file; sizes are checked before memory is allocated.

    Raises:
        LoadError: If the file is not of this format.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length > min(size, _MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            start = 8 + length
            return {n: _read(file, start, size, entry) for n, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(f"{path!r} is not a state file: {error}", see="unreadable") from error


def map_arrays(path: str) -> MappedArrays:
    """Return a file's arrays, each of which is read when it is needed.

    Raises:
        LoadError: If the file is not of this format.
    """
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        length = int.from_bytes(data[:8], "little")
        if length > min(len(data), _MAX_HEADER_BYTES):
            raise ValueError(f"its header claims {length} bytes")
        return MappedArrays(data, json.loads(data[8 : 8 + length]), 8 + length)
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path!r} is not a state file: {error}", see="unreadable") from error


class MappedArrays:
    """The arrays of a file that is mapped into memory: it may be deleted meanwhile.

    Args:
        data: The file.
        header: Where each array is in it.
        start: Where the header ends.
    """

    def __init__(self, data: mmap.mmap, header: dict[str, Any], start: int) -> None:
        self._data, self._header, self._start = data, header, start

    def read(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return a view of one array.

        Raises:
            LoadError: If there is no such array of that shape.
        """
        try:
            entry = self._header[name]
            dtype = np.dtype(_CODES[entry["dtype"]])
            begin, end = (self._start + int(offset) for offset in entry["data_offsets"])
            if (end - begin, tuple(entry["shape"])) != (math.prod(shape) * dtype.itemsize, shape):
                raise ValueError(f"its shape is not {shape}")
            found = np.frombuffer(self._data, dtype, math.prod(shape), begin)
            return found.reshape(shape)
        except (ValueError, KeyError, TypeError) as error:
            raise LoadError(
                f"the array {name!r} cannot be read: {error!r}", see="unreadable"
            ) from error


def dtype_named(name: str) -> np.dtype[Any]:
    """Return a dtype that the format can hold, by NumPy's name.

    Raises:
        ValueError: If there is none.
    """
    found: np.dtype[Any] | None = next((d for d in _NAMES if d.name == name), None)
    if found is None:
        raise ValueError(f"{name!r} is no dtype of this format")
    return found


def _read(file: io.BufferedReader, start: int, size: int, entry: Any) -> NDArray[Any]:
    dtype = np.dtype(_CODES[entry["dtype"]])
    shape = tuple(int(d) for d in entry["shape"])
    begin, end = (int(offset) for offset in entry["data_offsets"])
    count = math.prod(shape)
    if min((begin, *shape), default=0) < 0 or count * dtype.itemsize != end - begin:
        raise ValueError(f"an array's shape {shape} does not fit its {end - begin} bytes")
    if start + end > size:
        raise ValueError("an array lies beyond the end of the file")
    file.seek(start + begin)
    return np.frombuffer(file.read(end - begin), dtype).reshape(shape)
