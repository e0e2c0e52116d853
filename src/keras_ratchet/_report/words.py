"""What the page says about events, outcomes and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from keras_ratchet._numbers import count
from keras_ratchet._storage.space import readable

Event = Mapping[str, Any]
MARKS = ("reduce_lr", "rollback", "stop", "preempted", "save_error", "gone_bad", "average")
BAD = ("save_error", "upload_error", "gone_bad", "hang", "give_up", "rollback", "preempted")
LABELS = {
    "reduce_lr": "learning rate cut",
    "rollback": "rolled back",
    "preempted": "interrupted",
    "save_error": "save failed",
    "upload_error": "upload failed",
    "gone_bad": "gone bad",
    "check_load": "load check",
    "drop": "deleted",
    "aside": "kept aside",
    "begin": "started",
    "resume": "resumed",
    "stop": "stopped",
    "end": "ended",
    "skip": "skipped",
    "give_up": "gave up",
    "save": "saved",
}
_SENTENCES = {
    "begin": "training started",
    "upload": "on the store, too",
    "resume": "training resumed from this snapshot",
}
_MOST_LETTERS = 2000
_MOST_EPOCHS = 10**9
_MOST_BYTES = 1 << 63


def clean(value: Any) -> str:
    """Return text without control characters: it may come from a stranger's file."""
    text = str(value)[:_MOST_LETTERS]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def label(kind: str) -> str:
    """Return the name of a kind of event."""
    return LABELS.get(kind, kind.replace("_", " "))


def said(event: Event) -> str:
    """Return what an event says, in a sentence."""
    kind = event["event"]
    parts = [str(event[key]) for key in ("status", "reason", "problem") if event.get(key)]
    if not parts and kind in _SENTENCES:
        parts.append(_SENTENCES[kind])
    if kind == "begin" and isinstance(event.get("epochs"), int):
        parts.append(f"({count(event['epochs'], 'epoch')} asked for)")
    size = event.get("bytes", event.get("size_bytes"))
    if isinstance(size, int) and 0 <= size < _MOST_BYTES:
        parts.append(f"({readable(size)})")
    return clean(" ".join(parts))


def at_epoch(event: Event) -> float | None:
    """Return how many epochs were done, a half more for a moment within the next one."""
    epoch = event.get("epoch")
    if isinstance(epoch, bool) or not isinstance(epoch, int) or not 0 <= epoch < _MOST_EPOCHS:
        return None
    return epoch + (0.5 if event.get("batch") else 0.0)


def place(event: Event) -> str:
    """Return the epoch of an event, and the batch within the next one."""
    batch = event.get("batch")
    if at_epoch(event) is None:
        return ""
    return f"{event['epoch']}+{batch}" if isinstance(batch, int) and batch else f"{event['epoch']}"


def duration(seconds: float | None) -> str:
    """Return a length of time.

    Example:
        >>> duration(0.00012), duration(0.0123), duration(7), duration(75), duration(7260)
        ('0.12 ms', '12 ms', '7 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.2g} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clock(at_s: Any, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a moment in UTC; "-" if it is none."""
    if not isinstance(at_s, int | float) or not at_s:
        return "-"
    try:
        return datetime.fromtimestamp(at_s, UTC).strftime(form)
    except (OverflowError, ValueError, OSError):
        return "-"
