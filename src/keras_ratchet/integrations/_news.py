"""What a tracker is told at once: metrics, decisions in words, best values, arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_ratchet.callbacks.base import RatchetCallback

_SENTENCES = {
    "save": "saved {name}: {reason}",
    "skip": "not saved: {reason}",
    "drop": "deleted {name}: {reason}",
    "aside": "kept an earlier file as {name}: {reason}",
    "save_error": "could not save {name}: {problem}",
    "upload": "uploaded {name}",
    "upload_error": "could not upload {name}: {problem}",
    "resume": "resumed from {name}",
    "rollback": "rolled back: {reason}",
    "reduce_lr": "cut the learning rate: {reason}",
    "average": "average: {reason}",
    "preempted": "interrupted: {reason}",
}


@dataclass(frozen=True)
class Decision:
    """One decision of a callback.

    Attributes:
        event: Its word in the journal.
        sentence: What was done, and why.
        values: All members of the journal's line.
    """

    event: str
    sentence: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class News:
    """What a tracker is told at once.

    Attributes:
        number: How many times the run has told before.
        epoch: The number of completed epochs.
        metrics: Of the epoch that has ended; empty if none has.
        decisions: Since the last time.
        best: The best values so far, by name of the metric.
    """

    number: int
    epoch: int
    metrics: Mapping[str, float]
    decisions: tuple[Decision, ...]
    best: Mapping[str, float]

    @property
    def text(self) -> str:
        """All decisions, one in a line."""
        return "\n".join(decision.sentence for decision in self.decisions)

    @property
    def save_seconds(self) -> dict[str, float]:
        """How long saves have taken: the means since the last time."""
        found: dict[str, list[float]] = {}
        for decision in self.decisions:
            for name in ("blocked_s", "written_s"):
                if decision.event == "save" and name in decision.values:
                    found.setdefault(name, []).append(decision.values[name])
        return {name: sum(values) / len(values) for name, values in found.items()}


def sentence_of(event: Mapping[str, Any]) -> str:
    """Return a line of a journal in words."""
    fields = {name: event.get(name, "") for name in ("name", "reason", "problem")}
    if template := _SENTENCES.get(event["event"]):
        return template.format(**fields)
    return ": ".join(filter(None, (event["event"], fields["name"], fields["reason"])))


def best_values(callbacks: list[Any]) -> dict[str, float]:
    """Return the best values so far by the names of their metrics."""
    found: dict[str, float] = {}
    for callback in callbacks:
        name, best = getattr(callback, "monitor", None), getattr(callback, "best", None)
        is_number = isinstance(best, (int, float)) and math.isfinite(best)
        if isinstance(callback, RatchetCallback) and isinstance(name, str) and is_number:
            found.setdefault(name, float(best or 0))
    return found


def arguments_of(callbacks: list[Any]) -> dict[str, Any]:
    """Return what the callbacks of ours were made with, as plain values by `Class.argument`."""
    found: dict[str, Any] = {}
    for callback in (c for c in callbacks if isinstance(c, RatchetCallback)):
        for name in inspect.signature(type(callback).__init__).parameters:
            value = getattr(callback, name, None)
            if isinstance(value, (str, int, float)):
                found.setdefault(f"{type(callback).__name__}.{name}", value)
    return found
