"""The files that two trainings have written, compared: models by their weights, others by bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from keras_ratchet._doctor import scratch
from keras_ratchet._doctor.comparing import array_distance
from keras_ratchet._doctor.marks import Training
from keras_ratchet._doctor.outcome import DIFFERS, EQUAL, Difference, PartOutcome
from keras_ratchet._formats.readers import open_weights
from keras_ratchet._storage.atomic import LEFTOVER
from keras_ratchet._storage.single_file import METADATA
from keras_ratchet._storage.snapshot_directory import MANIFEST
from keras_ratchet.errors import LoadError

MODEL_FILES, OTHER_FILES = "model files", "other files"
ONLY = ("only the whole run has it", "only the other run has it")
_MODELS = (".keras", ".h5")
_CHANCE = re.compile(r"[0-9a-fA-F]*[0-9][0-9a-fA-F]*")
_CHUNK_BYTES = 1 << 20


def compare_files(whole: Training, other: Training) -> list[PartOutcome]:
    """Return which of the files that the two have written differ, and by how much."""
    one, two = written_by(whole), written_by(other)
    names = sorted(one.keys() | two.keys())
    outcomes = []
    for part in (MODEL_FILES, OTHER_FILES):
        chosen = [name for name in names if name.endswith(_MODELS) == (part == MODEL_FILES)]
        found = tuple(d for name in chosen for d in _differences(name, one, two))
        if chosen:
            status = DIFFERS if found else EQUAL
            outcomes.append(PartOutcome(part, status, len(chosen), found))
    return outcomes


def written_by(training: Training) -> dict[str, str]:
    """Return the paths of the files that a training has written, by name; ours left out."""
    backups = {str(mark.data.get("backup")) for mark in training.begins().values()}
    found = {}
    for root in [training.outside] if training.in_place else [training.work, training.outside]:
        for name, path in _files(root, {os.path.join(training.work, b) for b in backups}):
            if name not in training.copied or scratch.stamp_of(path) != training.copied[name]:
                found[name] = path
    return found


def family(name: str) -> str:
    """Return what the names of files have in common that have a time or a process in them.

    Example:
        >>> family("logs/events.1795830916.98.593"), family("run-20260104_9f03ab/x.csv")
        ('logs/events.*.*.*', 'run-*_*/x.csv')
    """
    return _CHANCE.sub("*", name)


def _files(root: str, backups: set[str]) -> Iterator[tuple[str, str]]:
    for place, directories, names in os.walk(root):
        directories[:] = sorted(d for d in directories if not _is_ours(place, d, backups))
        for name in names:
            path = os.path.join(place, name)
            if not os.path.islink(path) and not LEFTOVER.fullmatch(name):
                yield os.path.relpath(path, root), path


def _is_ours(place: str, name: str, backups: set[str]) -> bool:
    path = os.path.join(place, name)
    is_snapshot = os.path.isfile(os.path.join(path, MANIFEST)) and os.path.isdir(
        os.path.join(place, METADATA)
    )
    is_ours = name == METADATA or bool(LEFTOVER.fullmatch(name))
    return is_ours or is_snapshot or path in backups or name == "__pycache__"


def _differences(name: str, one: dict[str, str], two: dict[str, str]) -> Iterator[Difference]:
    if name not in one or name not in two:
        yield Difference(name, what=ONLY[0] if name in one else ONLY[1])
    elif name.endswith(_MODELS):
        yield from _of_models(name, one[name], two[name])
    elif not _same_bytes(one[name], two[name]):
        yield Difference(name, what=_of_lines(_lines(one[name]), _lines(two[name])))


def _of_models(name: str, one: str, two: str) -> Iterator[Difference]:
    """Yield how the weights differ: the bytes of an archive have times in them."""
    try:
        with open_weights(one) as left, open_weights(two) as right:
            a, b = ({weight.name: weight for weight in weights} for weights in (left, right))
            if a.keys() != b.keys():
                yield Difference(name, what="they hold other weights")
                return
            apart = {key: (a[key].read(), b[key].read()) for key in a}
            unlike = [k for k, (x, y) in apart.items() if x.tobytes() != y.tobytes()]
            if unlike:
                distances = [array_distance(*apart[key]) for key in unlike]
                by = None if None in distances else max(d for d in distances if d is not None)
                yield Difference(name, by, f"{len(unlike)} of {len(a)} weights, {unlike[0]} first")
    except LoadError:
        if not _same_bytes(one, two):
            yield Difference(name, what="it is no Keras file, and its bytes differ")


def _same_bytes(one: str, two: str) -> bool:
    if os.path.getsize(one) != os.path.getsize(two):
        return False
    with open(one, "rb") as a, open(two, "rb") as b:
        while block := a.read(_CHUNK_BYTES):
            if block != b.read(_CHUNK_BYTES):
                return False
    return True


def _lines(path: str) -> list[bytes]:
    with open(path, "rb") as file:
        return file.read(16 * _CHUNK_BYTES).splitlines()


def _of_lines(whole: Sequence[bytes], other: Sequence[bytes]) -> str:
    """Return how the lines of two files differ.

    Example:
        >>> _of_lines([b"1", b"2", b"3"], [b"1", b"2", b"2", b"3"])
        '4 lines instead of 3: lines are there twice'
        >>> _of_lines([b"1", b"2", b"3"], [b"3"])
        '1 lines instead of 3: lines are missing'
    """
    if any(b"\0" in line for line in [*whole[:50], *other[:50]]):
        return "its bytes differ"
    if len(whole) == len(other):
        first = next(i for i, (a, b) in enumerate(zip(whole, other, strict=True)) if a != b)
        return f"line {first + 1} is the first of {len(whole)} that differs"
    twice = len(other) > len(whole) and set(other) == set(whole)
    missing = len(other) < len(whole) and set(other) < set(whole)
    ending = ": lines are there twice" if twice else ": lines are missing" if missing else ""
    return f"{len(other)} lines instead of {len(whole)}{ending}"
