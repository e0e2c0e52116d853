"""`|`, `&`, `~`: logic with three values over parts that do not know of one another."""

import itertools
import json
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.criteria import first_yes, moments, round_trip, verdicts

from keras_ratchet.policy import (
    AfterEpochs,
    Criterion,
    Diverges,
    Moment,
    NotFinite,
    Patience,
    Position,
    Reaches,
    Smoothed,
    Verdict,
)
from keras_ratchet.policy.criterion import (
    AnyOf,
    Not,
    from_json,
    ranking_metric_of,
    resolve_directions,
    to_json,
)

YES, NO, UNKNOWN = "yes", "no", "missing"


@dataclass(frozen=True)
class Scripted(Criterion):
    """Says what it was told to, and remembers how often it was asked."""

    answers: tuple[str, ...]
    name: str = "s"

    def initial(self):
        return 0

    def check(self, state, moment):
        answer = self.answers[state % len(self.answers)]
        kind = "missing" if answer == UNKNOWN else self.name
        return state + 1, Verdict(answer == YES, kind, f"{self.name}{state} {answer}")


def answer(verdict):
    assert isinstance(verdict.reason, str) and verdict.reason
    return YES if verdict else UNKNOWN if verdict.kind == "missing" else NO


answers = st.lists(st.sampled_from([YES, NO, UNKNOWN]), min_size=1, max_size=4).map(tuple)
scripted = st.builds(Scripted, answers, st.sampled_from("abc"))
trees = st.recursive(
    scripted,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a, b: a & b, inner, inner),
        inner.map(lambda a: ~a),
    ),
    max_leaves=6,
)


def oracle(criterion, index):
    """Return what Kleene's logic says of the moment with this index."""
    if isinstance(criterion, Scripted):
        return criterion.answers[index % len(criterion.answers)]
    if isinstance(criterion, Not):
        return {YES: NO, NO: YES, UNKNOWN: UNKNOWN}[oracle(criterion.criterion, index)]
    strong, weak = (YES, NO) if isinstance(criterion, AnyOf) else (NO, YES)
    found = {oracle(part, index) for part in criterion.parts}
    return strong if strong in found else UNKNOWN if UNKNOWN in found else weak


FIVE = list(moments([1.0] * 5))


@given(trees)
def test_every_tree_says_what_logic_says(tree):
    assert [answer(v) for v in verdicts(tree, FIVE)] == [oracle(tree, i) for i in range(5)]


@given(trees, st.sets(st.integers(0, 4)))
def test_json_at_any_moment_changes_no_verdict(tree, cuts):
    assert verdicts(tree, FIVE, cuts) == verdicts(tree, FIVE)


@given(trees, trees)
def test_de_morgan(a, b):
    for left, right in [(~(a | b), ~a & ~b), (~(a & b), ~a | ~b)]:
        assert list(map(answer, verdicts(left, FIVE))) == list(map(answer, verdicts(right, FIVE)))


@given(trees, trees, trees)
def test_the_brackets_of_equal_operators_do_not_matter(a, b, c):
    assert (a | b) | c == a | (b | c)
    assert (a & b) & c == a & (b & c)
    assert ~~a == a


@given(trees, trees)
def test_or_is_never_later_and_and_never_earlier_than_a_part(a, b):
    def stop(criterion):
        found = first_yes(verdicts(criterion, FIVE))
        return math.inf if found is None else found

    assert stop(a | b) == min(stop(a), stop(b))
    assert stop(a & b) >= max(stop(a), stop(b))


@given(scripted, scripted)
def test_a_part_sees_every_moment_whatever_the_others_say(a, b):
    for whole in (a | b, a & b):
        state = whole.initial()
        for count, moment in enumerate(FIVE, 1):
            state, _ = whole.check(state, moment)
            assert state == [count, count]


def test_check_never_changes_a_state_in_place():
    rule = Smoothed(Patience(2, "m", mode="min")) | Reaches("m", 0, mode="min")
    state = rule.initial()
    for moment in moments([3.0, 2.0, math.nan, 5.0, None, 1.0]):
        before = json.dumps(to_json(state))
        after, _ = rule.check(state, moment)
        assert json.dumps(to_json(state)) == before
        state = after


def said(rule, value):
    return rule.check(rule.initial(), Moment(Position(1), {"m": value}))[1]


A, B = Reaches("m", 1, mode="min"), Diverges("m", 5, mode="min")


@pytest.mark.parametrize(
    ("rule", "value", "yes", "reason"),
    [
        (A | B, 0, True, "m has reached 1 (now: 0)"),
        (A | B, 9, True, "m is worse than 5 (now: 9)"),
        (A | B, 3, False, "m has not reached 1 (now: 3); m is not worse than 5 (now: 3)"),
        (A & B, 3, False, "m has not reached 1 (now: 3); m is not worse than 5 (now: 3)"),
        (A & B, 0, False, "m is not worse than 5 (now: 0)"),
        (A & ~B, 0, True, "m has reached 1 (now: 0); m is not worse than 5 (now: 0)"),
        (~A, 3, True, "m has not reached 1 (now: 3)"),
        (A | NotFinite("other"), 3, False, "other is not in the logs"),
        (A & NotFinite("other"), 3, False, "m has not reached 1 (now: 3)"),
        (A & NotFinite("other"), 0, False, "other is not in the logs"),
        (~NotFinite("other"), 0, False, "other is not in the logs"),
    ],
)
def test_the_sentences_are_those_of_the_parts_that_decided(rule, value, yes, reason):
    verdict = said(rule, value)
    assert (verdict.yes, verdict.reason) == (yes, reason)


def test_kinds_and_values_of_several_parts_are_told_apart():
    verdict = said(A | Reaches("m", 2, mode="min") | AfterEpochs(1), 0)
    assert (verdict.kind, verdict.kinds) == ("goal", ("goal", "epochs"))
    assert dict(verdict.values) == {
        "goal.value": 0,
        "goal.goal": 1,
        "goal.value#2": 0,
        "goal.goal#2": 2,
        "epochs.epochs": 1,
    }


@pytest.mark.parametrize("other", [None, 3, "Patience", lambda state, moment: None])
def test_only_criteria_combine(other):
    for operator in (lambda a, b: a | b, lambda a, b: a & b):
        with pytest.raises(TypeError):
            operator(A, other)
        with pytest.raises(TypeError):
            operator(other, A)


def test_a_criterion_is_written_as_it_was_made():
    rule = ~((Patience(10) | Reaches("val_acc", 0.5)) & ~AfterEpochs(3)) | NotFinite("loss", "mae")
    names = {c.__name__: c for c in (Patience, Reaches, AfterEpochs, NotFinite)}
    assert eval(repr(rule), names) == rule
    assert repr(NotFinite() | AfterEpochs(3) & AfterEpochs(4)) == (
        "NotFinite() | (AfterEpochs(epochs=3) & AfterEpochs(epochs=4))"
    )


def test_an_outline_tells_what_a_state_fits_to():
    a, b = Patience(3), Patience(9, "val_acc", mode="max")
    assert (a | ~AfterEpochs(3)).outline() == (b | ~AfterEpochs(9)).outline()
    forms = [a, a | a, a & a, ~a, a | a | a, (a & a) | a, Smoothed(a), AfterEpochs(3)]
    for one, other in itertools.combinations(forms, 2):
        assert one.outline() != other.outline()
    assert Patience(3, Smoothed("val_loss")).outline() == Smoothed(a).outline()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain)
def test_plain_data_survives_strict_json(data):
    assert repr(round_trip(data)) == repr(data)


@pytest.mark.parametrize("bad", [{1, 2}, {1: 2}, [object()], {"$float": "nan"}, b"x", 1j])
def test_what_json_cannot_hold_is_refused(bad):
    with pytest.raises(TypeError, match="criterion's state is made of"):
        to_json({"inner": bad})


def test_a_tuple_comes_back_as_a_list_and_numbers_keep_their_kind():
    assert from_json(to_json((1, 2.0, True))) == [1, 2.0, True]


def ask(name):
    return {"val_acc": "max", "val_mae": "min"}.get(name)


@pytest.mark.parametrize(
    ("rule", "metric", "mode"),
    [
        (Patience(3), "val_loss", "auto"),
        (AfterEpochs(3), "val_loss", "auto"),
        (NotFinite("loss") | Reaches(0.1), "val_loss", "auto"),
        (Reaches(0.1) | Patience(3, "val_mae"), "val_mae", "auto"),
        (Reaches(0.1, mode="max") | Patience(3, "val_x"), "val_x", "max"),
        (~Smoothed(Reaches("val_x", 1, mode="max")) & Patience(3), "val_x", "max"),
        (Patience(3, Smoothed("val_x"), mode="max"), "val_x", "max"),
    ],
)
def test_the_first_named_metric_decides_what_is_best(rule, metric, mode):
    judge = ranking_metric_of(rule)
    assert (judge.metric, judge.mode) == (metric, mode)


def test_settling_fills_in_every_name_and_mode():
    rule = Reaches(0.9) | ~(Patience(3, "val_acc") & Smoothed(Diverges("val_mae", 3)))
    assert resolve_directions(rule, ask) == (
        Reaches("val_acc", 0.9, mode="max")
        | ~(Patience(3, "val_acc", mode="max") & Smoothed(Diverges("val_mae", 3, mode="min")))
    )
