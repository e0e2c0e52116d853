"""Which of several callbacks of one class a saved state belongs to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from keras_ratchet._warn import warn

Identity = dict[str, Any]
_METRIC = "monitor"
_MAX_LENGTH = 4096


def identity(callback: Any) -> Identity:
    """Return what identifies a callback: its strings, such as a path and a metric.

    The last part of a path counts once more, since directories often contain the time.
    """
    strings = {
        name: value
        for name, value in vars(callback).items()
        if isinstance(value, str) and len(value) <= _MAX_LENGTH and name[0] != "_"
    }
    return strings | {f"{name}, file": os.path.basename(text) for name, text in strings.items()}


def matched(present: Mapping[str, Identity], saved: Mapping[str, Identity]) -> dict[str, str]:
    """Return, for the keys of callbacks, the keys of the states that were saved of them.

    A warning names callbacks of one class that are not as they were saved and cannot be told apart.

    Args:
        present: The identities of the callbacks that are there, by key (`Class#number`).
        saved: Those of the callbacks that were there; those without one go by their number.
    """
    found = {}
    for kind in dict.fromkeys(map(_class_of, present)):
        mine = [key for key in present if _class_of(key) == kind]
        theirs = [key for key in saved if _class_of(key) == kind]
        for key in mine:
            same = [other for other in theirs if saved[other] == present[key]]
            if same:
                found[key] = same[0]
                theirs.remove(same[0])
        _match_changed([key for key in mine if key not in found], theirs, present, saved, found)
    return found


def _match_changed(
    mine: list[str],
    theirs: list[str],
    present: Mapping[str, Identity],
    saved: Mapping[str, Identity],
    found: dict[str, str],
) -> None:
    guessed = []
    scores = {
        (key, other): _in_common(present[key], saved[other])
        for key in mine
        for other in theirs
        if present[key].get(_METRIC) == saved[other].get(_METRIC)
    }
    while scores:
        best = max(scores, key=lambda pair: scores[pair])  # the first of equals: by their order
        rivals = [p for p in scores if p != best and (p[0] == best[0] or p[1] == best[1])]
        if any(scores[rival] == scores[best] for rival in rivals):
            guessed.append(best[0])
        found[best[0]] = best[1]
        theirs.remove(best[1])
        scores = {p: n for p, n in scores.items() if p[0] != best[0] and p[1] != best[1]}
    forgotten = [key for key in mine if key not in found and theirs]
    if guessed:
        warn(
            "These callbacks differ from those of the interrupted run, and there is more than "
            f"one of a class: {_names(guessed, present)}. They are matched by their order; if "
            "that is wrong, give them their previous arguments."
        )
    if forgotten:
        warn(
            "These callbacks monitor another metric than when training was interrupted, so "
            f"they start without saved state: {_names(forgotten, present)}."
        )


def _in_common(one: Identity, other: Identity) -> int:
    return sum(other.get(name) == value for name, value in one.items())


def _names(keys: Iterable[str], present: Mapping[str, Identity]) -> str:
    metrics = {key: present[key].get(_METRIC) for key in keys}
    names = {key: _class_of(key).rpartition(".")[2] for key in metrics}
    return ", ".join(f"{names[k]}({m!r})" if m else names[k] for k, m in metrics.items())


def _class_of(key: str) -> str:
    return key.rpartition("#")[0]
