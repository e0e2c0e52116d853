"""Arrays that have not changed since an older snapshot, which are not written again.

A run that fine-tunes a large base would write the base into every snapshot. So what is frozen goes
into a file of its own, `unchanged.safetensors`, and the next snapshots have that file as a second
name of the same bytes (a hard link; where there are none, a copy). A snapshot remains a directory
that is whole by itself: its manifest names the file with its digest, each snapshot can be deleted
or copied without the others, and the bytes go with the last name. `state.json` tells which of the
file's arrays count, with the digest of each.

`trainable` tells only where it is worth to look: an array counts as unchanged if the digest of its
value is that of the one in the file. So a base that a callback changes, and statistics of a
BatchNormalization, are found whatever has changed them. Values in the host's memory are digested in
the hook (300 MB in 10 ms), and if they have not changed they are not even copied; those on an
accelerator are captured like the rest, and digested where they are written.

The file is written anew when a quarter of it no longer counts, or when as much again has stopped
changing.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._engine.resume import rank_states
from keras_ratchet._formats.safetensors import read_arrays, write_arrays
from keras_ratchet._storage.manifest import FileEntry
from keras_ratchet._storage.snapshot_directory import SnapshotDraft, snapshot_manifest
from keras_ratchet.errors import LoadError

NAME = "unchanged.safetensors"
# "0" writes everything into each snapshot; "all" looks at every variable, for tests
MODE = os.environ.get("RATCHET_UNCHANGED", "1")
_MIN_SIZE = 1 << 12  # elements; smaller arrays are not worth a look
_MIN_FILE_BYTES = 1 if MODE == "all" else 1 << 20
_TRAINED = ("optimizer/", "metrics/")
Arrays = Mapping[str, NDArray[Any]]


def digest(array: NDArray[Any]) -> str:
    """Return 32 hexadecimal digits that tell an array from others; it is read, not copied."""
    return rank_states.digest(array).hex()


def _candidates(named: Mapping[str, Any]) -> list[str]:
    """Return the names of the variables at which it is worth to look: frozen ones, their slots.

    Args:
        named: All variables, by their names in a snapshot.
    """
    if MODE != "1":
        return list(named) if MODE == "all" else []
    found = [
        name
        for name, variable in named.items()
        if not name.startswith(_TRAINED) and not variable.trainable and _is_large(variable)
    ]
    if not found:
        return found
    paths = {str(named[name].path).replace("/", "_") for name in found}
    slots = (name for name in named if name.startswith("optimizer/"))
    return found + [n for n in slots if _is_large(named[n]) and _is_of_one(named[n], paths)]


def _is_large(variable: Any) -> bool:
    return math.prod(map(int, variable.shape)) >= _MIN_SIZE


def _is_of_one(slot: Any, paths: Container[str]) -> bool:
    """Return whether an optimizer's variable is named after one of these weights, as by Keras."""
    name = str(slot.path).rpartition("/")[2]
    while "_" in name:
        name = name.rpartition("_")[0]
        if name in paths:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found at the moment of a save.

    Attributes:
        captured: The variables whose values the snapshot needs.
        candidates: Names of all that may not have changed.
        unchanged: Those that have not, by the digests of their values: they are not captured.
    """

    captured: Mapping[str, Any]
    candidates: Collection[str]
    unchanged: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _File:
    """The file in the newest snapshot.

    Attributes:
        path: Where it is.
        entry: Its size and digest.
        identity: Which file that is, and when it was changed.
        digests: Of each of its arrays.
        sizes: Likewise, in bytes.
    """

    path: str
    entry: FileEntry
    identity: tuple[int, ...]
    digests: Mapping[str, str]
    sizes: Mapping[str, int]

    @property
    def is_there(self) -> bool:
        """Whether it is still the file that was written or verified."""
        return _identity(self.path) == self.identity

    def is_worth_it(self, used: Iterable[str], more_bytes: int) -> bool:
        """Return whether the file is used again, rather than written anew.

        Args:
            used: Its arrays that count.
            more_bytes: Size of other arrays that do not change.
        """
        used_bytes = sum(self.sizes[name] for name in used)
        return used_bytes >= 0.75 * self.entry.size_bytes and more_bytes <= 0.25 * used_bytes


def _identity(path: str) -> tuple[int, ...]:
    try:
        info = os.stat(path)
    except OSError:
        return ()
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Plan:
    """How a snapshot is written.

    Attributes:
        written: The arrays of the snapshot itself.
        unchanged: The arrays that are in the file, by their digests.
        new: What is in a file that is written now; None if there is none.
        older: The file of an older snapshot that is used again.
        digests: Of all arrays that may not have changed.
        opened: That older file, if it was opened when the state was captured.
    """

    written: Arrays
    unchanged: Mapping[str, str] = field(default_factory=dict)
    new: Arrays | None = None
    older: _File | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    opened: io.FileIO | None = None

    @property
    def size_bytes(self) -> int:
        """About how many bytes are written."""
        arrays = [*self.written.values(), *(self.new or {}).values()]
        return sum(array.nbytes for array in arrays)

    @property
    def reused_bytes(self) -> int:
        """How many bytes an older snapshot has."""
        return 0 if self.older is None else self.older.entry.size_bytes

    def write(self, draft: SnapshotDraft) -> None:
        """Add the file to a snapshot."""
        new, older = self.new, self.older
        if new is not None:
            draft.write(NAME, lambda file: write_arrays(new, file))
        elif older is not None:
            with self.opened or open(older.path, "rb", buffering=0) as opened:
                draft.link(NAME, older.path, older.entry, opened)


class UnchangedArrays:
    """What the snapshots of one run share, from one save to the next."""

    def __init__(self) -> None:
        self._file: _File | None = None
        self._last: Mapping[str, str] = {}
        self._opened: io.FileIO | None = None  # by `look`: what is not captured is in it only

    def release(self) -> None:
        """Close what `look` has opened for a save."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def resume_from(self, snapshot: str, digests: Mapping[str, str], arrays: Arrays) -> None:
        """Share the file of a snapshot that was just verified.

        Args:
            snapshot: Its path.
            digests: Those of the arrays in the file.
            arrays: The values of these, and others.
        """
        self._file, self._last = None, digests
        if digests:
            entry = snapshot_manifest(snapshot).files[NAME]
            sizes = {name: arrays[name].nbytes for name in digests}
            self._share(snapshot, entry, digests, sizes)

    def _share(
        self,
        snapshot: str,
        entry: FileEntry,
        digests: Mapping[str, str],
        sizes: Mapping[str, int],
    ) -> None:
        path = os.path.join(snapshot, NAME)
        self._file = _File(path, entry, _identity(path), digests, sizes)

    def look(self, named: Mapping[str, Any], captures_all: bool) -> Looked:
        """Find the variables that have not changed since the last snapshot.

        Args:
            named: All variables, with their values of this moment.
            captures_all: Whether all values are needed in any case.
        """
        candidates = _candidates(named)
        unchanged: dict[str, str] = {}
        self.release()
        if self._file is not None and not captures_all and self._open(self._file):
            backend, known = _backends.current(), self._file.digests
            unchanged = {
                name: known[name]
                for name in candidates
                if name in known
                and backend.is_on_host(named[name])
                and digest(backend.view(named[name])) == known[name]
            }
        captured = {name: v for name, v in named.items() if name not in unchanged}
        return Looked(captured, candidates, unchanged)

    def _open(self, file: _File) -> bool:
        """Open the file for a save, during which it may be deleted; return whether it is there."""
        if not file.is_there:
            return False
        try:
            self._opened = open(file.path, "rb", buffering=0)  # noqa: SIM115  closed by `release`
        except OSError:
            return False
        return True

    def plan(self, arrays: Arrays, candidates: Iterable[str], left_out: Mapping[str, str]) -> Plan:
        """Return how a snapshot is written.

        Args:
            arrays: The arrays that were captured.
            candidates: Names of those that may not have changed.
            left_out: Those that were not captured, by their digests.

        Raises:
            LoadError: If arrays were left out, and the file that has them is damaged.
        """
        digests = {name: digest(arrays[name]) for name in candidates if name in arrays}
        digests |= left_out
        file = self._file
        if file is not None and not left_out and not file.is_there:
            file = None
        known = file.digests if file is not None else {}
        same = {name for name, found in digests.items() if known.get(name) == found}
        still = {name for name, found in digests.items() if self._last.get(name, found) == found}
        more_bytes = sum(arrays[name].nbytes for name in still - same)
        if file is not None and file.is_worth_it(same, more_bytes):
            written = {name: array for name, array in arrays.items() if name not in same}
            used = {name: digests[name] for name in same}
            return Plan(written, used, None, file, digests, self._opened)
        whole = {**arrays, **(_read(file, left_out) if file is not None else {})}
        new = {name: whole[name] for name in still}
        if sum(array.nbytes for array in new.values()) < _MIN_FILE_BYTES:
            return Plan(whole, digests=digests)
        written = {name: array for name, array in whole.items() if name not in new}
        return Plan(written, {name: digests[name] for name in new}, new, None, digests)

    def committed(self, plan: Plan, snapshot: str, files: Mapping[str, FileEntry]) -> None:
        """Remember what a snapshot has, now that it counts.

        Args:
            plan: How it was written.
            snapshot: Its path.
            files: What its manifest tells of its files.
        """
        self._last = plan.digests
        if plan.older is not None:
            self._share(snapshot, files[NAME], plan.older.digests, plan.older.sizes)
        elif plan.new is not None:
            sizes = {name: array.nbytes for name, array in plan.new.items()}
            self._share(snapshot, files[NAME], plan.unchanged, sizes)
        else:
            self._file = None


def _read(file: _File, digests: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Return arrays of the older file, compared with their digests."""
    found = read_unchanged(os.path.dirname(file.path), digests)
    for name, array in found.items():
        if digest(array) != digests[name]:
            raise LoadError(
                f"{file.path!r} is damaged: {name!r} is not what was saved.", see="corrupt"
            )
    return found


def read_unchanged(snapshot: str, digests: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a snapshot that are in its file of unchanged arrays.

    Args:
        snapshot: Its path; it verifies.
        digests: By name, as `state.json` has them.

    Raises:
        LoadError: If an array is missing.
    """
    if not digests:
        return {}
    found = read_arrays(os.path.join(snapshot, NAME))
    if missing := digests.keys() - found.keys():
        raise LoadError(f"{snapshot!r} lacks {min(missing)!r} in {NAME}.", see="corrupt")
    return {name: found[name] for name in digests}
