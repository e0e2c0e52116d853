"""SignificantImprovement, against the paired test in NumPy and a table worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.criteria import stops_at, verdicts

from keras_ratchet.errors import ConfigError, MetricError
from keras_ratchet.policy import Moment, Patience, Position
from keras_ratchet.policy.experimental import SignificantImprovement

batch = st.floats(-8, 8) | st.sampled_from([1.0, 0.5, math.nan, math.inf])
validations = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.none() | st.lists(batch, min_size=n, max_size=n), max_size=15)
)
whole = st.integers(2, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 9), min_size=n, max_size=n), max_size=15)
)


def epochs(validations):
    for epoch, losses in enumerate(validations, 1):
        if losses is None:
            yield Moment(Position(epoch))
        else:
            metrics = {"m": sum(losses) / len(losses)}
            yield Moment(Position(epoch), metrics, batches={"m": losses})


def rule(c=1.0, limit=10, mode="min"):
    return SignificantImprovement(c, limit, "m", mode=mode)


def oracle(c, limit, mode, validations):
    reference, wait = None, 0
    for epoch, losses in enumerate(validations):
        if losses is None:
            continue
        now, improved = np.array(losses), False
        if np.isfinite(now).all():
            if reference is None:
                improved = True
            else:
                d = (reference - now) * (1 if mode == "min" else -1)
                error = d.std(ddof=1) / np.sqrt(len(d))
                if abs(d.mean() - c * error) < 1e-9:
                    return "rounding decides"
                improved = d.mean() > c * error
        reference, wait = (now, 0) if improved else (reference, wait + 1)
        if wait >= limit and epoch > 0:
            return epoch
    return None


@given(validations, st.floats(0, 3), st.integers(1, 4), st.sampled_from(["min", "max"]))
def test_it_is_the_paired_test(validations, c, limit, mode):
    expected = oracle(c, limit, mode, validations)
    if expected != "rounding decides":
        found = verdicts(rule(c, limit, mode), epochs(validations))
        assert next((i for i, v in enumerate(found) if v), None) == expected


# gains over the reference, their mean, their standard error (s / sqrt 4), each by hand
TABLE = [
    ([2.0, 4.0, 6.0, 8.0], None),
    ([1.0, 3.0, 5.0, 8.0], (0.75, 0.25)),  # gains 1 1 1 0: s = 0.5
    ([1.0, 1.0, 6.0, 8.0], (0.25, 0.629153)),  # over the one before: 0 2 -1 0, s = 1.258306
    ([0.5, 2.5, 4.5, 7.5], (0.5, 0.0)),  # 0.5 each: no noise at all
]


def test_by_hand():
    found = verdicts(rule(c=2, limit=1), epochs([losses for losses, _ in TABLE]))
    for verdict, (_, expected) in zip(found[1:], TABLE[1:], strict=True):
        gain, error = expected
        assert verdict.values["gain"] == pytest.approx(gain)
        assert verdict.values["standard_error"] == pytest.approx(error, abs=1e-6)
    assert [bool(v) for v in found] == [False, False, True, False]
    assert found[0].reason == "m is the first value to compare with"
    assert found[1].reason == "m improved by 0.75 (standard error: 0.25)"
    assert found[2].reason == (
        "m has not improved by 2 standard errors (0.629 each) for 1 of 1 checks (gain: 0.25)"
    )


@given(whole, st.integers(1, 4))
def test_without_a_margin_it_is_patience_on_the_mean(validations, limit):
    means = [sum(losses) for losses in validations]
    found = verdicts(rule(0, limit), epochs(validations))
    stop = next((i for i, v in enumerate(found) if v), None)
    assert stop == stops_at(Patience(limit, "m", mode="min"), means)


@given(validations, st.floats(0, 3), st.integers(1, 4))
def test_a_larger_limit_never_stops_earlier(validations, c, limit):
    def stop(limit):
        found = verdicts(rule(c, limit), epochs(validations))
        return next((i for i, v in enumerate(found) if v), math.inf)

    assert stop(limit) <= stop(limit + 1)


@given(whole, st.floats(0, 3), st.sampled_from([0.25, 2.0, 1024.0]))
def test_the_unit_of_the_loss_does_not_matter(validations, c, unit):
    scaled = [[unit * loss for loss in losses] for losses in validations]
    plain = verdicts(rule(c, 2), epochs(validations))
    assert [bool(v) for v in verdicts(rule(c, 2), epochs(scaled))] == [bool(v) for v in plain]


@given(whole, st.lists(st.integers(0, 99), min_size=6, max_size=6))
def test_what_makes_some_batches_harder_each_time_cancels_out(validations, hard):
    harder = [[a + b for a, b in zip(losses, hard, strict=False)] for losses in validations]
    for easy, difficult in zip(
        verdicts(rule(1, 2), epochs(validations)), verdicts(rule(1, 2), epochs(harder)), strict=True
    ):
        assert easy.values.get("gain") == difficult.values.get("gain")
        assert bool(easy) == bool(difficult)


def test_a_larger_gain_in_the_mean_can_be_less_certain():
    steady = [[1.0, 2.0, 3.0, 4.0], [0.9, 1.9, 2.9, 3.9]]
    lucky = [[1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 0.0]]
    assert verdicts(rule(2), epochs(steady))[1].kind == "improved"
    assert verdicts(rule(2), epochs(lucky))[1].kind == "significance"


def test_batches_that_cannot_be_paired_are_an_error():
    with pytest.raises(MetricError, match="had 3 batches before and has 2 now"):
        verdicts(rule(), epochs([[1.0, 2.0, 3.0], [1.0, 2.0]]))
    with pytest.raises(MetricError, match=r"'m' has 1\. Use smaller validation batches"):
        verdicts(rule(), epochs([[1.0]]))


def test_without_the_batches_it_says_who_records_them():
    with pytest.raises(ConfigError, match="needs the values of 'm' batch by batch"):
        verdicts(rule(), [Moment(Position(1), {"m": 1.0})])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"c": -1}, "c is a number of standard errors"),
        ({"c": math.nan}, "c is a number of standard errors"),
        ({"limit": 0}, "limit counts checks"),
        ({"limit": 1.5}, "limit counts checks"),
        ({"monitor": None}, "monitor must be a name"),
        ({"mode": "up"}, "mode must be one of"),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_when_it_is_given(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SignificantImprovement(**arguments)
