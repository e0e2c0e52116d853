"""The first step at which two trainings part. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from keras_ratchet._doctor.marks import Mark, Place, Training
from keras_ratchet._doctor.outcome import Parting

METRICS = "metrics/"


def part_of(whole: Training, other: Training) -> Parting | None:
    """Return where two trainings part first; None if all their steps are the same.

    Only variables and data count: a random stream that differs and is not used changes nothing.
    """
    begins, steps = _begins_of(whole), whole.steps()
    other_begins, other_steps = _begins_of(other), other.steps()
    streams: tuple[str, ...] = ()
    for place in sorted({*begins, *steps, *other_steps}):
        is_begin = place in begins
        a = begins.get(place) if is_begin else steps.get(place)
        b = other_begins.get(place) if is_begin else other_steps.get(place)
        if is_begin and b is None:  # killed before it began
            continue
        if a is None or b is None:
            return Parting(place, streams=streams, data="unknown")
        one, two = a.data, b.data
        streams = unlike(one.get("streams"), two.get("streams")) or streams
        variables = unlike(one.get("variables"), two.get("variables"))
        is_other_data = one.get("data") != two.get("data")
        if variables or is_other_data:
            data = _data(one, two, place, steps, other_steps) if not is_begin else "unknown"
            return Parting(place, variables, streams, data, one.get("rate") != two.get("rate"))
    return None


def first_other_data(whole: Training, other: Training) -> tuple[Place, str] | None:
    """Return the first step with other data, and whether only the order is another."""
    steps, others = whole.steps(), other.steps()
    for place in sorted(steps.keys() & others.keys()):
        one, two = steps[place].data, others[place].data
        if one.get("data") != two.get("data"):
            return place, _data(one, two, place, steps, others)
    return None


def _begins_of(training: Training) -> dict[Place, Mark]:
    """Return how the first process began each fit: before any resume."""
    begins: dict[Place, Mark] = {}
    for start in training.starts[:1]:
        for mark in start.of("fit_begin"):
            begins.setdefault((mark.place[0], -1, -1), mark)
    return begins


def unlike(one: Mapping[str, Any] | None, two: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names whose values differ, or that only one of two has."""
    a, b = one or {}, two or {}
    return tuple(name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name))


def _data(
    one: Mapping[str, Any],
    two: Mapping[str, Any],
    place: Place,
    steps: Mapping[Place, Mark],
    others: Mapping[Place, Mark],
) -> str:
    if one.get("data") is None or two.get("data") is None:
        return "unknown"
    if one["data"] == two["data"]:
        return "same"
    a, b = (_samples_of_epoch(found, place) for found in (steps, others))
    return "order" if a == b or _are_of_one_set(a, b) else "content"


def _samples_of_epoch(steps: Mapping[Place, Mark], place: Place) -> Counter[str]:
    samples: Counter[str] = Counter()
    for (fit, epoch, _), mark in steps.items():
        if (fit, epoch) == place[:2]:
            samples.update(mark.data.get("samples") or ())
    return samples


def _are_of_one_set(a: Counter[str], b: Counter[str]) -> bool:
    """Return whether most samples are in both, as when a few come twice after a resume.

    Augmented samples, or noise, are new ones each time.
    """
    shared = (a & b).total()
    return shared >= 0.5 * max(a.total(), b.total(), 1)


def restored_otherwise(whole: Training, other: Training) -> tuple[str, ...]:
    """Return the variables that the last start began with in another state than the whole run had.

    Those of metrics are reset at the begin of an epoch and restored later, so they do not count.
    """
    steps = whole.steps()
    for mark in other.starts[-1].of("fit_begin"):
        data = mark.data
        resumed = data.get("resumed")
        done = _last_before(steps, mark.place[0], resumed) if resumed else None
        if done is not None:
            names = unlike(steps[done].data.get("variables"), data.get("variables"))
            if found := tuple(name for name in names if not name.startswith(METRICS)):
                return found
    return ()


def _last_before(steps: Mapping[Place, Mark], fit: int, resumed: Any) -> Place | None:
    """Return the last step that a resumed position includes."""
    done = (fit, int(resumed["epoch"]), int(resumed["batch"]))
    return max((p for p in steps if p[0] == fit and p < done), default=None)
