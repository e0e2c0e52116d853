"""Patience, against Keras's own rule written down in ten lines."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.criteria import stops_at

from keras_ratchet.errors import ConfigError, NonFiniteError
from keras_ratchet.policy.patience import Patience, PatienceState
from keras_ratchet.types import Moment, Position

numbers = st.one_of(
    st.floats(-4, 4), st.sampled_from([1.0, 0.5, math.nan, math.inf, -math.inf, None])
)
rules = st.builds(
    Patience,
    st.integers(0, 4),
    st.just("m"),
    mode=st.sampled_from(["min", "max"]),
    min_delta=st.floats(0, 1),
    baseline=st.none() | st.floats(-2, 2),
    start_from_epoch=st.integers(0, 3),
)


def patience(limit, **options):
    return Patience(limit, "m", mode="min", **options)


def moment(epoch, value):
    return Moment(Position(epoch=epoch + 1), {} if value is None else {"m": value})


def run(rule, values):
    """Return the verdicts and the last state; stop at the first yes."""
    verdicts, state = [], rule.initial()
    for epoch, value in enumerate(values):
        state, verdict = rule.check(state, moment(epoch, value))
        verdicts.append(bool(verdict))
        if verdict:
            break
    return verdicts, PatienceState(**state)


def keras_stops_at(rule, values):
    """Return the epoch after which Keras's EarlyStopping stops (its code, NaN aside)."""
    sign = 1 if rule.mode == "max" else -1
    better = lambda a, b: b is None or sign * a - rule.min_delta > sign * b  # noqa: E731
    wait, best = 0, None
    for epoch, value in enumerate(values):
        if value is None or epoch < rule.start_from_epoch:
            continue
        wait += 1
        if better(value, best):
            best = value
            wait = 0 if rule.baseline is None or better(value, rule.baseline) else wait
        elif wait >= rule.limit and epoch > 0:
            return epoch
    return None


plain = st.one_of(st.none(), st.floats(-4, 4), st.sampled_from([1.0, 0.5]))


@given(rules, st.lists(plain, max_size=25))
def test_it_stops_where_keras_stops(rule, values):
    verdicts, _ = run(rule, values)
    stop = verdicts.index(True) if True in verdicts else None
    assert stop == keras_stops_at(rule, values)


@given(rules, st.lists(numbers, max_size=25))
def test_the_best_is_the_first_of_the_best_values_and_never_nan(rule, values):
    verdicts, state = run(rule, values)
    seen = [
        (value, epoch)
        for epoch, value in enumerate(values[: len(verdicts)])
        if value is not None and not math.isnan(value) and epoch >= rule.start_from_epoch
    ]
    if not seen:
        assert state.best is None and state.best_epoch is None
        return
    choose = min if rule.mode == "min" else max
    best = choose(value for value, _ in seen)
    assert state.best == best
    assert state.best_epoch == next(epoch for value, epoch in seen if value == best)


@given(st.integers(0, 5), st.lists(st.just(math.nan), min_size=1, max_size=10))
def test_nan_counts_toward_patience_and_never_stops_the_first_epoch(limit, values):
    verdicts, state = run(patience(limit), values)
    expected = max(limit - 1, 1)
    assert verdicts.index(True) == expected if len(values) > expected else True not in verdicts
    assert state.best is None


def test_a_nan_first_does_not_poison_the_run():
    verdicts, state = run(patience(3), [math.nan, 1, 0.5, 0.4, 0.3, 0.35])
    assert True not in verdicts
    assert (state.best, state.best_epoch) == (0.3, 4)


def test_a_nan_can_stop_at_once():
    rule = patience(3, nan="stop")
    _, verdict = rule.check(rule.initial(), moment(0, math.nan))
    assert verdict and verdict.kind == "nan" and verdict.reason == "m is NaN"


def test_a_nan_can_raise():
    rule = patience(3, nan="raise")
    with pytest.raises(NonFiniteError, match=r"m is NaN in epoch 5 \(nan='raise'\)"):
        rule.check(rule.initial(), moment(4, math.nan))


def test_small_gains_move_the_best_but_not_the_patience():
    verdicts, state = run(patience(3, min_delta=0.1), [1, 0.5, 0.45, 0.41, 0.42])
    assert verdicts[-1] and (state.best, state.best_epoch, state.reference) == (0.41, 3, 0.5)


def test_a_stop_explains_itself():
    rule = patience(2)
    state = rule.initial()
    for epoch, value in enumerate([10.0, 0.5, 0.7, math.inf]):
        state, verdict = rule.check(state, moment(epoch, value))
    assert verdict.reason == (
        "m has not improved on 0.5 for 2 checks (best: 0.5 in epoch 2, now: inf)"
    )
    assert verdict.values == {"value": math.inf, "wait": 2.0, "best": 0.5}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_delta": 10}, "min_delta=10"),
        ({"min_delta": 0.5, "min_delta_mode": "relative"}, "min_delta=0.5 (relative)"),
    ],
)
def test_a_stop_says_how_much_better_a_value_had_to_be(given, said):
    rule = patience(2, **given)
    state = rule.initial()
    for epoch, value in enumerate([4.0, 3.5, 3.0]):
        state, verdict = rule.check(state, moment(epoch, value))
    assert verdict.reason == (
        f"m has not improved on 4 by more than {said} for 2 checks (best: 3 in epoch 3, now: 3)"
    )


@given(st.lists(st.none() | st.floats(0, 4) | st.just(math.nan), max_size=80))
def test_auto_waits_for_half_the_checks_before_the_last_improvement(values):
    best, best_check, checks, expected = math.inf, 0, 0, None
    for epoch, value in enumerate(values):
        if value is None:
            continue
        checks += 1
        if value < best:
            best, best_check = value, checks
        elif checks - best_check >= max(10, math.ceil(best_check / 2)):
            expected = epoch
            break
    assert stops_at(patience("auto"), values) == expected


@pytest.mark.parametrize(("best", "stop"), [(1, 11), (20, 30), (21, 32), (60, 90), (61, 92)])
def test_auto_by_hand(best, stop):
    """`best` and `stop` are epochs from 1: the limit is max(10, ceil(best / 2))."""
    curve = [-min(epoch, best) for epoch in range(1, 200)]
    assert stops_at(patience("auto"), curve) == stop - 1


@given(rules, st.lists(numbers, max_size=25), st.integers(0, 5))
def test_more_patience_never_stops_earlier(rule, values, more):
    longer = replace(rule, limit=rule.limit + more)
    first, later = stops_at(rule, values), stops_at(longer, values)
    assert later is None or (first is not None and first <= later)


@pytest.mark.parametrize("limit", [-1, 1.5, "3", True, None, "Auto"])
def test_a_patience_that_is_no_count_is_refused(limit):
    with pytest.raises(ConfigError, match="patience"):
        patience(limit)
