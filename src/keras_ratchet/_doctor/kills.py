"""When to kill: instants chosen from what a whole run has noted. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from keras_ratchet._doctor.marks import Mark

ANYWHERE = "anywhere"
KINDS = ("in a save", "in a batch", "in validation", "between epochs", ANYWHERE)
_EARLIER = 0.7


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time, and the mark that begins it.

    Attributes:
        kind: Which kind of instant it is.
        mark: Kind of the mark at its begin.
        number: How many such marks there were up to then, itself included.
        begins_s: When, in seconds since the process was started.
        length_s: How long it took.
        unsaved: How many steps had been done since the last save: a kill makes them done again.
    """

    kind: str
    mark: str
    number: int
    begins_s: float
    length_s: float
    unsaved: int = 0


@dataclass(frozen=True, slots=True)
class Instant:
    """When to kill: so long after the n-th mark of a kind.

    Attributes:
        kind: One of `KINDS`.
        mark: Kind of the mark.
        number: Which of them, from 1 on.
        after_s: Seconds from that mark.
        at_s: When that was in the whole run, in seconds since the process was started.
    """

    kind: str
    mark: str
    number: int
    after_s: float
    at_s: float


def spans_of(marks: Sequence[Mark], began_at: float) -> dict[str, list[Span]]:
    """Return what a kill can hit in a run, by kind.

    Args:
        marks: Those of a whole run.
        began_at: When its process was started.
    """
    spans: dict[str, list[Span]] = {kind: [] for kind in KINDS}
    counts: Counter[str] = Counter()
    open_spans: dict[str, tuple[str, int, float, int]] = {}
    unsaved = 0
    has_begins = any(mark.kind == "batch_begin" for mark in marks)

    def close(kind: str, at: float) -> None:
        if begun := open_spans.pop(kind, None):
            what, number, since, steps = begun
            spans[kind].append(Span(kind, what, number, since - began_at, at - since, steps))

    def begin(kind: str, mark: Mark) -> None:
        open_spans[kind] = (mark.kind, counts[mark.kind], mark.t, unsaved)

    for mark in marks:
        counts[mark.kind] += 1
        unsaved = 0 if mark.kind == "save_end" else unsaved + (mark.kind == "step")
        if closes := _CLOSES.get(mark.kind):
            for kind in closes:
                close(kind, mark.t)
        if mark.kind in _BEGINS:
            begin(_BEGINS[mark.kind], mark)
        elif not has_begins and mark.kind in ("epoch_begin", "step"):
            begin("in a batch", mark)
    spans[ANYWHERE] = _all_of_training(marks, began_at)
    return spans


_BEGINS = {
    "save_begin": "in a save",
    "batch_begin": "in a batch",
    "validation_begin": "in validation",
    "epoch_end": "between epochs",
}
_CLOSES = {
    "save_end": ("in a save",),
    "step": ("in a batch",),
    "validation_begin": ("in a batch",),
    "validation_end": ("in validation",),
    "epoch_end": ("in a batch",),
    "epoch_begin": ("between epochs",),
    "fit_end": ("between epochs",),
}
_ANCHORS = ("epoch_begin", "step", "validation_begin", "validation_end", "epoch_end")


def _all_of_training(marks: Sequence[Mark], began_at: float) -> list[Span]:
    """Return the time from the first epoch's begin to the last fit's end, in pieces."""
    counts: Counter[str] = Counter()
    spans = []
    since: Mark | None = None
    for mark in marks:
        counts[mark.kind] += 1
        if mark.kind not in (*_ANCHORS, "fit_end"):
            continue
        if since is not None:
            number = counts[since.kind] - (mark.kind == since.kind)
            length_s = mark.t - since.t
            spans.append(Span(ANYWHERE, since.kind, number, since.t - began_at, length_s))
        since = mark if mark.kind in _ANCHORS else None
    return spans


def missing(spans: Mapping[str, Sequence[Span]]) -> list[str]:
    """Return the kinds of which a run has none."""
    return [kind for kind in KINDS if not spans.get(kind)]


def choose(spans: Mapping[str, Sequence[Span]], random: Random) -> Iterator[Instant]:
    """Yield instants, endlessly: the kinds in rotation, each at random.

    Args:
        spans: What a kill can hit; nothing is yielded if that is nothing.
        random: The source of chance.
    """
    present = [kind for kind in KINDS if spans.get(kind)]
    while present:
        for kind in present:
            yield _within(spans[kind], random)


def earlier(spans: Mapping[str, Sequence[Span]], missed: Instant, random: Random) -> Instant | None:
    """Return an instant for one that came too late; None if there is no earlier one."""
    for kind in dict.fromkeys((missed.kind, ANYWHERE)):
        early = [s for s in spans.get(kind, ()) if s.begins_s <= _EARLIER * missed.at_s]
        if early:
            return _within(early, random)
    return None


def _within(spans: Sequence[Span], random: Random) -> Instant:
    """Return an instant in one of the spans; `ANYWHERE` is uniform in time.

    In a batch it is one after which steps have to be done again, if there is one: what was not
    saved shows then only.
    """
    first = spans[0]
    if first.kind == "in a batch":
        spans = [s for s in spans if s.unsaved] or spans
    weights = [max(s.length_s, 0.0) for s in spans]
    if first.kind == ANYWHERE and sum(weights) > 0:
        span = random.choices(spans, weights)[0]
    else:
        span = random.choice(spans)
    after_s = random.random() * max(span.length_s, 0.0)
    return Instant(span.kind, span.mark, span.number, after_s, span.begins_s + after_s)


def hit(marks: Sequence[Mark]) -> str:
    """Return what a killed process was doing, from the marks that it left.

    Example:
        >>> hit([Mark("epoch_begin", 1.0), Mark("batch_begin", 1.1)])
        'in a batch'
    """
    if not any(mark.kind in ("epoch_begin", "step") for mark in marks):
        return "before the first epoch"
    if _is_open(marks, "save_begin", "save_end"):
        return "in a save"
    if _is_open(marks, "validation_begin", "validation_end"):
        return "in validation"
    last = [mark.kind for mark in marks if mark.kind in _SAYS][-1]
    return _SAYS[last]


_SAYS = {
    "epoch_begin": "in a batch",
    "batch_begin": "in a batch",
    "step": "in a batch",
    "validation_end": "between epochs",
    "epoch_end": "between epochs",
    "fit_end": "after training",
}


def _is_open(marks: Sequence[Mark], begin: str, end: str) -> bool:
    counts = Counter(mark.kind for mark in marks)
    return counts[begin] > counts[end]
