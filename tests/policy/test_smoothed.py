"""Smoothed, against the average written down in three lines."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.criteria import moments, stops_at, verdicts

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy import (
    Criterion,
    Diverges,
    NotFinite,
    Patience,
    Reaches,
    Smoothed,
    Verdict,
)
from keras_ratchet.policy.experimental import GeneralizationLoss, ProgressQuotient, UpStrips

numbers = st.floats(0, 4) | st.sampled_from([1.0, 0.5, math.nan, math.inf])
curves = st.lists(st.none() | numbers, max_size=20)
emas = st.sampled_from([0.0, 0.3, 0.5, 0.9])


class Sees(Criterion):
    """Tells what it sees."""

    def initial(self):
        return []

    def check(self, state, moment):
        return state, Verdict(False, "sees", "it sees", moment.metrics)


def averages(values, ema):
    """Return what a criterion should see."""
    seen, average = [], None
    for value in values:
        if value is None or not math.isfinite(value):
            seen.append(value)
            continue
        average = value if average is None else ema * average + (1 - ema) * value
        seen.append(average)
    return seen


@given(curves, curves, emas)
def test_each_metric_is_averaged_by_itself(m, t, ema):
    found = verdicts(Smoothed(Sees(), ema), moments(m, "m", t=t))
    for name, curve in (("m", m), ("t", t)):
        expected = averages(curve, ema) + [None] * (len(found) - len(curve))
        assert repr([v.values.get(name) for v in found]) == repr(expected)


@given(curves, emas)
def test_a_smoothed_metric_is_a_smoothed_criterion(values, ema):
    monitor = Smoothed("m", ema)
    for inside, outside in [
        (Patience(2, monitor, mode="min"), Patience(2, "m", mode="min")),
        (Reaches(monitor, 1, mode="min"), Reaches("m", 1, mode="min")),
        (Diverges(monitor, 1, mode="min"), Diverges("m", 1, mode="min")),
        (UpStrips(1, 2, monitor), UpStrips(1, 2, "m")),
        (GeneralizationLoss(5, monitor), GeneralizationLoss(5, "m")),
    ]:
        steps = list(moments(values))
        assert repr(verdicts(inside, steps)) == repr(verdicts(Smoothed(outside, ema), steps))


@given(curves)
def test_no_weight_of_the_past_is_no_smoothing(values):
    rule = Patience(2, "m", mode="min") | Reaches("m", 0.5, mode="min")
    steps = list(moments(values))
    assert repr(verdicts(Smoothed(rule, 0), steps)) == repr(verdicts(rule, steps))


def test_smoothing_twice_smooths_twice():
    inside = Smoothed(Smoothed("m", 0.5), 0.5)
    steps = list(moments([8.0, 4.0, 0.0]))
    assert verdicts(Reaches(inside, 5, mode="min"), steps) == verdicts(
        Smoothed(Smoothed(Reaches("m", 5, mode="min"), 0.5), 0.5), steps
    )


def test_by_hand():
    assert averages([8.0, 4.0, 2.0], 0.5) == [8.0, 6.0, 4.0]
    assert stops_at(Reaches(Smoothed("m", 0.5), 4, mode="min"), [8.0, 4.0, 2.0]) == 2
    assert stops_at(Reaches("m", 4, mode="min"), [8.0, 4.0, 2.0]) == 1


def test_a_single_outlier_neither_stops_nor_is_forgotten():
    curve = [1.0, 0.9, 5.0, 0.7, 0.6, 0.5]
    assert stops_at(Diverges("m", 4, mode="min"), curve) == 2
    assert stops_at(Diverges(Smoothed("m"), 4, mode="min"), curve) is None


def test_what_is_not_finite_is_seen_and_does_not_spoil_the_average():
    found = verdicts(Smoothed(Sees(), 0.5), moments([4.0, math.nan, math.inf, 2.0]))
    assert repr([v.values["m"] for v in found]) == "[4.0, nan, inf, 3.0]"
    assert stops_at(Smoothed(NotFinite()), [4.0, math.nan]) == 1


@pytest.mark.parametrize("wrong", [-0.1, 1, 1.5, math.nan])
def test_the_weight_of_the_past_is_a_share(wrong):
    with pytest.raises(ConfigError, match="ema, the weight of the past"):
        Smoothed("m", wrong)


def test_only_a_metric_or_a_criterion_is_smoothed():
    with pytest.raises(ConfigError, match="Smoothed takes a criterion or the name"):
        Smoothed(3)
    with pytest.raises(ConfigError, match="monitor must be the name of one metric"):
        Patience(3, Smoothed(Patience(3)))
    with pytest.raises(ConfigError, match=r"write Smoothed\(ProgressQuotient"):
        ProgressQuotient(2, monitor=Smoothed("val_loss"))
    with pytest.raises(ConfigError, match="is a metric, not yet a criterion"):
        Smoothed("m").initial()
