"""Instants for kills: chosen from the marks of a whole run. Pure."""

from collections import Counter
from random import Random

import hypothesis.strategies as st
from hypothesis import given

from keras_ratchet._doctor import kills
from keras_ratchet._doctor.marks import Mark


@st.composite
def runs(draw):
    """Return the marks of a whole run, with their times."""
    has_begins, validates, saves = draw(st.tuples(*[st.booleans()] * 3))
    marks, now = [], [draw(st.floats(1, 1000))]

    def mark(kind, *place):
        now[0] += draw(st.floats(0.001, 1))
        marks.append(Mark(kind, now[0], 1, (*place, -1, -1, -1)[:3]))

    def save():
        if saves and draw(st.booleans()):
            mark("save_begin")
            mark("save_end")

    mark("fit_begin", 0)
    for epoch in range(draw(st.integers(1, 3))):
        mark("epoch_begin", 0, epoch)
        for batch in range(draw(st.integers(1, 4))):
            if has_begins:
                mark("batch_begin", 0, epoch, batch)
            mark("step", 0, epoch, batch)
            save()
        if validates:
            mark("validation_begin", 0, epoch)
            mark("validation_end", 0, epoch)
        mark("epoch_end", 0, epoch)
        save()
    mark("fit_end", 0)
    return marks


@given(runs(), st.integers())
def test_an_instant_hits_what_it_was_chosen_for(marks, seed):
    began_at = marks[0].t - 0.5
    spans = kills.spans_of(marks, began_at)
    absent = kills.missing(spans)
    chosen = zip(range(12), kills.choose(spans, Random(seed)), strict=False)
    for _, instant in chosen:
        assert instant.kind not in absent
        anchors = [mark for mark in marks if mark.kind == instant.mark]
        at = anchors[instant.number - 1].t + instant.after_s
        assert abs(at - began_at - instant.at_s) < 1e-6
        assert marks[0].t <= at <= marks[-1].t
        hit = kills.hit([mark for mark in marks if mark.t <= at - 1e-9 or mark is anchors[0]])
        if instant.kind != kills.ANYWHERE and hit != "in a save" and instant.after_s > 1e-6:
            assert hit == instant.kind


@given(runs(), st.integers())
def test_every_kind_that_a_run_has_gets_its_turn(marks, seed):
    spans = kills.spans_of(marks, marks[0].t)
    present = [kind for kind in kills.KINDS if kind not in kills.missing(spans)]
    instants = kills.choose(spans, Random(seed))
    assert [next(instants).kind for _ in present] == present
    assert kills.ANYWHERE in present and "in a batch" in present


@given(runs(), st.integers())
def test_an_instant_that_replaces_a_late_one_is_earlier_or_none(marks, seed):
    spans = kills.spans_of(marks, marks[0].t)
    late = kills.Instant("in a batch", "step", 99, 0, spans[kills.ANYWHERE][-1].begins_s)
    earlier = kills.earlier(spans, late, Random(seed))
    longest = max(span.length_s for kind in spans.values() for span in kind)
    assert earlier is None or earlier.at_s <= 0.7 * late.at_s + longest


@given(runs())
def test_anywhere_is_every_moment_of_training_once(marks):
    spans = kills.spans_of(marks, 0.0)[kills.ANYWHERE]
    first = next(mark for mark in marks if mark.kind == "epoch_begin")
    assert abs(sum(span.length_s for span in spans) - (marks[-1].t - first.t)) < 1e-6
    counts = Counter((span.mark, span.number) for span in spans)
    assert set(counts.values()) == {1}


def test_a_run_that_never_trained_has_no_instant():
    assert next(kills.choose(kills.spans_of([], 0.0), Random(1)), None) is None
    assert kills.hit([Mark("started", 1.0)]) == "before the first epoch"
