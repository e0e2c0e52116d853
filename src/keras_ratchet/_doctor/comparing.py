"""What two trainings ended with, compared part by part and bit by bit."""

from __future__ import annotations

import contextlib
import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from keras_ratchet._doctor.marks import FitEnd, Training
from keras_ratchet._doctor.outcome import DIFFERS, EQUAL, NOT_SAVED, Difference, PartOutcome

PARTS = (
    *("model", "optimizers", "metrics", "history", "callbacks", "decisions"),
    *("random streams", "data position", "attributes"),
)
LOST, CLOSURES = "attributes of callbacks", "variables of functions"
_VARIABLES = ("model", "optimizers", "metrics")
_TIME = re.compile(
    r"(^|[._])(saved_at|started_at|time|times|timestamp|seconds|elapsed\w*|duration|wall\w*)$"
)
_SEEDS = "seed_generator_state"
_SHOWN = 40  # characters of a value


def compare_ends(whole: Training, other: Training) -> list[PartOutcome]:
    """Return what differs between what two trainings have ended with."""
    ends, others = whole.ends(), other.ends()
    paths = {fit: mark.data.get("paths") or {} for fit, mark in whole.begins().items()}
    outcomes = []
    names = dict.fromkeys([*PARTS, *(p for end in ends.values() for p in end.parts)])
    for part in names:
        compared, found = 0, []
        for fit in ends.keys() | others.keys():
            prefix = f"fit {fit + 1}: " if len(ends) > 1 else ""
            one, two = ends.get(fit), others.get(fit)
            compared += len(_values(one, part))
            for difference in _differences(one, two, part):
                name = paths.get(fit, {}).get(difference.name, difference.name)
                by = None if name.endswith(_SEEDS) else difference.by  # which is no amount
                found.append(replace(difference, name=prefix + name, by=by))
        if compared or found:
            status = DIFFERS if found else EQUAL
            outcomes.append(PartOutcome(part, status, compared, tuple(found)))
    return [*outcomes, *_kept_elsewhere(ends, others)]


def _values(end: FitEnd | None, part: str) -> dict[str, Any]:
    """Return the values of a part, without those that are times."""
    values = end.parts.get(part, {}) if end else {}
    return {name: value for name, value in values.items() if not _TIME.search(name)}


def _differences(one: FitEnd | None, two: FitEnd | None, part: str) -> Iterator[Difference]:
    if one is None or two is None:
        yield Difference("all of it", what="one of the runs has not ended this fit")
        return
    a, b = _values(one, part), _values(two, part)
    for name in dict.fromkeys([*a, *b]):
        if name not in a or name not in b:
            what = "only the whole run has it" if name in a else "only the other run has it"
            yield Difference(name, what=what)
        elif a[name] != b[name]:
            if part in _VARIABLES:
                yield Difference(name, _distance_of_arrays(one, two, name))
            else:
                yield Difference(name, distance(a[name], b[name]), _both(a[name], b[name]))


def _both(a: Any, b: Any) -> str:
    return f"{_short(a)} in the whole run, {_short(b)} in the other"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def distance(a: Any, b: Any) -> float | None:
    """Return the largest absolute difference of two numbers or lists; None if there is none.

    Example:
        >>> distance([1.0, 2.0], [1.0, 2.5]), distance("0.25", "0.5"), distance("a", "b")
        (0.5, 0.25, None)
    """
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return None
        apart = [distance(x, y) for x, y in zip(a, b, strict=True)]
        return None if None in apart else max((d for d in apart if d is not None), default=0.0)
    with contextlib.suppress(TypeError, ValueError):
        one, two = float(a), float(b)
        if one == two or (math.isnan(one) and math.isnan(two)):
            return 0.0
        apart_by = abs(one - two)
        return math.inf if math.isnan(apart_by) else apart_by
    return None


def _distance_of_arrays(one: FitEnd, two: FitEnd, name: str) -> float | None:
    arrays = [_array(end, name) for end in (one, two)]
    return None if arrays[0] is None or arrays[1] is None else array_distance(*arrays)


def _array(end: FitEnd, name: str) -> Any:
    """Return the value of a variable; None if it is not there."""
    if end.arrays is None:
        return None
    try:
        with np.load(end.arrays, allow_pickle=False) as file:
            return file[name.replace("/", "|")]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def array_distance(a: Any, b: Any) -> float | None:
    """Return the largest absolute difference of two arrays; None if their shapes differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return None
    if a.dtype.kind == "V" and a.dtype.itemsize == 2:  # how NumPy stores bfloat16
        a, b = (x.view(ml_dtypes.bfloat16).astype(np.float32) for x in (a, b))
    if a.dtype.kind in "VSUO":
        return None
    one, two = (x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in (a, b))
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - two)
    apart = np.where((one == two) | (np.isnan(one) & np.isnan(two)), 0.0, apart)
    return float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))


def _kept_elsewhere(
    ends: Mapping[int, FitEnd], others: Mapping[int, FitEnd]
) -> Iterator[PartOutcome]:
    """Yield what is known not to be saved: it changed in the run, and has another value now."""
    labels = {name for end in ends.values() for name in end.data.get("closures") or ()}
    lost = sorted({str(n) for end in ends.values() for n in end.data.get("lost") or ()} - labels)
    if lost:
        found = tuple(Difference(name, what="changes in the run, is not saved") for name in lost)
        yield PartOutcome(LOST, NOT_SAVED, len(lost), found)
    changed, found_there = 0, []
    for fit in ends.keys() & others.keys():
        a, b = (end.data.get("closures") or {} for end in (ends[fit], others[fit]))
        changed += len(a.keys() | b.keys())
        for label in sorted(a.keys() | b.keys()):
            if a.get(label) != b.get(label):
                what = _both(a.get(label, "unchanged"), b.get(label, "unchanged"))
                by = distance(a.get(label), b.get(label))
                found_there.append(Difference(label, by, what))
    if changed:
        status = NOT_SAVED if found_there else EQUAL
        yield PartOutcome(CLOSURES, status, changed, tuple(found_there))
