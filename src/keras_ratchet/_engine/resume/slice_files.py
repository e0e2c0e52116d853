"""Slices of arrays that are split over processes: each rank writes its own into one snapshot.

Rank 0 makes the draft of the snapshot, and tells the others where it is. Then each other rank

1. writes and syncs `slices-<rank>.safetensors`: the slices that it owns, one array each;
2. writes and syncs `slices-<rank>.json`, under another name: what is in that file, and its digest;
3. gives that its name, and syncs the directory.

Rank 0 waits for these `.json` files, which its own writer finds by looking: no messages are sent
between threads in the background. When it has all, and they make whole arrays together, it commits.
The manifest lists all files, so a slice that is damaged is found like any other file. A rank that
cannot write leaves a file `failed-<rank>-<errno>`, which needs no space.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from keras_ratchet._backends.slices import Bounds, SavedSlices, Slices, shape_of
from keras_ratchet._formats.safetensors import dtype_named, map_arrays, write_arrays
from keras_ratchet._storage import disk
from keras_ratchet._storage.atomic import HashingFile
from keras_ratchet._storage.manifest import FileEntry
from keras_ratchet._storage.snapshot_directory import SnapshotDraft
from keras_ratchet.errors import LoadError, RankError

TIMEOUT_S = 1800.0
_POLL_S = 0.02
_FRAGMENT = re.compile(r"slices-\d{5}\.json")
_FAILED = re.compile(r"failed-(\d{5})-(\d+)")
_MAX_BYTES = 1 << 28
Arrays = Mapping[str, Slices]


def split_off(arrays: dict[str, NDArray[Any]]) -> dict[str, Slices]:
    """Remove the arrays that are split over processes, and return them."""
    found = {name: array for name, array in arrays.items() if isinstance(array, Slices)}
    for name in found:
        del arrays[name]
    return found


def size_bytes(arrays: Arrays) -> int:
    """Return how much this rank writes."""
    return sum(part.nbytes for _, part in _owned(arrays).values())


def _owned(arrays: Arrays) -> dict[str, tuple[tuple[str, Bounds], NDArray[Any]]]:
    """Return the slices that this rank owns, by their names in its file."""
    return {
        _key(name, bounds): ((name, bounds), part)
        for name, array in arrays.items()
        for bounds, part in array.owned_parts()
    }


def _key(name: str, bounds: Bounds) -> str:
    return f"{name}[{','.join(f'{start}:{stop}' for start, stop in bounds)}]"


def write_fragment(directory: str, rank: int, arrays: Arrays) -> None:
    """Write the slices that a rank other than 0 owns into rank 0's draft, durably.

    Args:
        directory: The draft.
        rank: Which rank this is.
        arrays: All arrays that are split.

    Raises:
        OSError: If the disk refuses; rank 0 then does not commit.
    """
    try:
        name, data = _names(rank)
        with contextlib.closing(HashingFile(os.path.join(directory, name))) as file:
            _write(file, arrays)
            file.sync()
            entry = file.entry()
        assert entry is not None
        draft = os.path.join(directory, f"{data}.part")
        with contextlib.closing(HashingFile(draft)) as file:
            file.write(json.dumps(_described(arrays, entry)).encode())
            file.sync()
        disk.current.rename(draft, os.path.join(directory, data))
        disk.current.sync_directory(directory)
    except OSError as error:
        mark = os.path.join(directory, f"failed-{rank:05d}-{error.errno or errno.EIO}")
        with contextlib.suppress(OSError):
            os.close(disk.current.open(mark, os.O_RDWR | os.O_CREAT))
        raise


def _names(rank: int) -> tuple[str, str]:
    return f"slices-{rank:05d}.safetensors", f"slices-{rank:05d}.json"


def _write(file: HashingFile, arrays: Arrays) -> None:
    write_arrays({key: part for key, (_, part) in _owned(arrays).items()}, file)


def _described(arrays: Arrays, entry: FileEntry) -> dict[str, Any]:
    return {
        "file": {"bytes": entry.size_bytes, "xxh3_128": entry.digest},
        "arrays": {
            name: {"shape": list(array.whole), "dtype": array.dtype.name}
            for name, array in arrays.items()
        },
        "slices": {
            key: {"array": name, "bounds": [list(pair) for pair in bounds]}
            for key, ((name, bounds), _) in _owned(arrays).items()
        },
    }


def complete(draft: SnapshotDraft, arrays: Arrays, ranks: Any) -> None:
    """Write rank 0's slices into its draft, wait for those of the others, and add all of them.

    Args:
        draft: The draft.
        arrays: All arrays that are split.
        ranks: The coordinator.

    Raises:
        OSError: If a rank could not write its slices.
        RankError: If one does not write them, or if they are not whole arrays together.
    """
    name, data = _names(0)
    draft.write(name, lambda file: _write(file, arrays))
    written = _described(arrays, draft.entry(name))
    draft.write(data, lambda file: _put(file, json.dumps(written).encode()))
    fragments = [written]
    left = getattr(ranks, "who_left", lambda: None)  # a user's coordinator does not know
    for rank in range(1, ranks.world_size):
        name, data = _names(rank)
        path = os.path.join(draft.path, data)
        _wait(path, rank, left)
        with open(path, "rb") as file:
            text = file.read(_MAX_BYTES)
        fragment = json.loads(text)
        draft.add(data)
        draft.add(name, FileEntry(fragment["file"]["bytes"], fragment["file"]["xxh3_128"]))
        fragments.append(fragment)
    _check_whole(fragments)


def _put(file: HashingFile, text: bytes) -> None:
    file.write(text)


def _wait(path: str, rank: int, left: Callable[[], Any]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not os.path.exists(path):
        for match in map(_FAILED.fullmatch, os.listdir(os.path.dirname(path))):
            if match:
                number = int(match[2])
                what = f"rank {int(match[1])} could not write its slices: {os.strerror(number)}"
                raise OSError(number, what)
        gone = left()
        if gone is not None and not os.path.exists(path):
            raise RankError(f"rank {gone[0]} has left the run ({gone[1]}) during a save.")
        if time.monotonic() > end:
            raise RankError(f"rank {rank} has not written its slices within {TIMEOUT_S:g} s.")
        time.sleep(_POLL_S)


def _check_whole(fragments: list[dict[str, Any]]) -> None:
    """Raise unless every array is there, each element of it once."""
    shapes = {n: a["shape"] for fragment in fragments for n, a in fragment["arrays"].items()}
    missing = {name: math.prod(shape) for name, shape in shapes.items()}
    slices = {key: one for fragment in fragments for key, one in fragment["slices"].items()}
    for one in slices.values():
        missing[one["array"]] -= math.prod(stop - start for start, stop in one["bounds"])
    wrong = [name for name, count in missing.items() if count]
    if wrong:
        raise RankError(
            f"the ranks' slices are not whole arrays together: {wrong[0]!r} ({len(wrong)} in "
            "total). All ranks must lay out the model alike."
        )


def read_slices(path: str) -> dict[str, SavedSlices]:
    """Return the arrays of a snapshot that were split; their slices are read when they are needed.

    Raises:
        LoadError: If the files do not fit together.
    """
    shapes: dict[str, Any] = {}
    parts: dict[str, list[tuple[Bounds, Callable[[], NDArray[Any]]]]] = {}
    for name in sorted(filter(_FRAGMENT.fullmatch, os.listdir(path))):
        try:
            with open(os.path.join(path, name), "rb") as file:
                fragment = json.loads(file.read(_MAX_BYTES))
            mapped = map_arrays(os.path.join(path, name.replace(".json", ".safetensors")))
            for array, known in fragment["arrays"].items():
                shapes[array] = tuple(known["shape"]), dtype_named(known["dtype"])
            for key, one in fragment["slices"].items():
                bounds = tuple((int(start), int(stop)) for start, stop in one["bounds"])
                read = functools.partial(mapped.read, key, shape_of(bounds))
                parts.setdefault(one["array"], []).append((bounds, read))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadError(
                f"{name!r} in {path!r} cannot be read: {error!r}", see="unreadable"
            ) from error
    return {n: SavedSlices(shape, dtype, parts[n]) for n, (shape, dtype) in shapes.items()}
