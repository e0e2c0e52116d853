"""Reaches, Diverges, NotFinite, AfterEpochs, AfterSteps, AfterSeconds, each against one line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.criteria import moments, stops_at, verdicts

from keras_ratchet.errors import ConfigError, UnknownDirectionError
from keras_ratchet.policy import (
    AfterEpochs,
    AfterSeconds,
    AfterSteps,
    Diverges,
    Moment,
    NotFinite,
    Position,
    Reaches,
    Smoothed,
)

numbers = st.floats(-4, 4) | st.sampled_from([1.0, 0.5, math.nan, math.inf, -math.inf])
curves = st.lists(st.none() | numbers, max_size=20)
modes = st.sampled_from(["min", "max"])


def first(condition, values):
    return next((i for i, v in enumerate(values) if v is not None and condition(v)), None)


@given(curves, st.floats(-4, 4) | st.sampled_from([math.inf, -math.inf]), modes)
def test_reaches_stops_at_the_first_value_as_good_as_the_goal(values, goal, mode):
    good = (lambda v: v <= goal) if mode == "min" else (lambda v: v >= goal)
    assert stops_at(Reaches("m", goal, mode=mode), values) == first(good, values)


@given(curves, st.floats(-4, 4) | st.sampled_from([math.inf, -math.inf]), modes)
def test_diverges_stops_at_the_first_value_worse_than_the_limit(values, limit, mode):
    bad = (lambda v: v > limit) if mode == "min" else (lambda v: v < limit)
    assert stops_at(Diverges("m", limit, mode=mode), values) == first(bad, values)


@given(curves, st.floats(-4, 4), st.floats(0, 2))
def test_an_easier_goal_is_never_reached_later(values, goal, easier):
    hard = stops_at(Reaches("m", goal, mode="min"), values)
    easy = stops_at(Reaches("m", goal + easier, mode="min"), values)
    assert hard is None or (easy is not None and easy <= hard)


@given(curves, curves)
def test_not_finite_stops_at_the_first_value_that_is_not(m, t):
    def bad(moment):
        return any(not math.isfinite(v) for v in moment.metrics.values())

    steps = list(moments(m, "m", t=t))
    expected = next((i for i, moment in enumerate(steps) if bad(moment)), None)
    assert stops_at(NotFinite(), m, t=t) == expected
    assert stops_at(NotFinite("m"), m, t=t) == first(lambda v: not math.isfinite(v), m)


def test_not_finite_names_each_value():
    moment = Moment(Position(1), {"loss": math.nan, "val_loss": -math.inf, "mae": 1.0})
    verdict = NotFinite().check(None, moment)[1]
    assert verdict.reason == "loss is nan, val_loss is -inf"
    assert verdict.values["val_loss"] == -math.inf


def test_not_finite_with_nothing_to_look_at_says_no():
    verdict = NotFinite().check(None, Moment(Position(1)))[1]
    assert (verdict.yes, verdict.kind, verdict.reason) == (
        False,
        "not finite",
        "no metric is in the logs",
    )


@pytest.mark.parametrize("kind", [Reaches, Diverges])
def test_a_threshold_is_a_number_with_or_without_a_name(kind):
    assert kind(0.5) == kind(None, 0.5) == kind(value=0.5)
    assert kind(0.5).metric == "val_loss"
    assert kind(Smoothed("val_mae"), 1).metric == "val_mae"
    for wrong in [("val_loss",), (), ("m", "0.5"), (math.nan,), (True,), ("m", None)]:
        with pytest.raises(ConfigError, match=f"{kind.__name__} takes a number, or the name"):
            kind(*wrong)
    with pytest.raises(ConfigError, match="monitor must be the name of one metric"):
        kind(Smoothed(Reaches(0.5)), 0.5)
    with pytest.raises(ConfigError, match="mode must be one of"):
        kind(0.5, mode="up")


def test_a_direction_that_nobody_gave_is_an_error_and_a_loss_has_one():
    assert verdicts(Reaches("a_loss", 1), moments([0.5], "a_loss"))[0]
    with pytest.raises(UnknownDirectionError, match="'val_acc' should be minimized or maximized"):
        verdicts(Reaches("val_acc", 1), moments([0.5], "val_acc"))


def test_no_names_but_strings():
    with pytest.raises(ConfigError, match="NotFinite takes names"):
        NotFinite(["loss"])


@given(st.integers(1, 12), st.integers(1, 120), st.floats(0.5, 30))
def test_budgets_stop_when_so_much_is_done_and_go_on_saying_so(epochs, steps, seconds):
    """`moments` gives 10 steps and 2 seconds to each epoch."""
    limits = {
        AfterEpochs(epochs): epochs,
        AfterSteps(steps): math.ceil(steps / 10),
        AfterSeconds(seconds): math.ceil(seconds / 2),
    }
    for rule, needed in limits.items():
        found = [bool(v) for v in verdicts(rule, moments([1.0] * 20))]
        assert found == [epoch >= needed for epoch in range(1, 21)]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [(AfterSteps(3), "the steps are not counted"), (AfterSeconds(3), "the time is not known")],
)
def test_what_was_not_measured_is_undecided(rule, reason):
    for criterion in (rule, ~rule):
        verdict = criterion.check(None, Moment(Position(9)))[1]
        assert (verdict.yes, verdict.kind, verdict.reason) == (False, "missing", reason)


@pytest.mark.parametrize("kind", [AfterEpochs, AfterSteps])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3", True, None])
def test_a_count_is_a_whole_number(kind, wrong):
    with pytest.raises(ConfigError, match=f"of {kind.__name__} must be a whole number"):
        kind(wrong)


@pytest.mark.parametrize("wrong", [0, -1, math.nan])
def test_a_time_is_above_0(wrong):
    with pytest.raises(ConfigError, match="AfterSeconds takes a number above 0"):
        AfterSeconds(wrong)
