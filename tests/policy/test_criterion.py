"""Patience, against Keras's own rule written down in ten lines."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.criterion import Patience, PatienceState
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.types import Moment, Position

numbers = st.one_of(
    st.floats(-4, 4), st.sampled_from([1.0, 0.5, math.nan, math.inf, -math.inf, None])
)
rules = st.builds(
    Patience,
    st.integers(0, 4),
    st.builds(Monitor, st.just("m"), st.sampled_from(["min", "max"]), st.floats(0, 1)),
    st.none() | st.floats(-2, 2),
    st.integers(0, 3),
)


def moment(epoch, value):
    return Moment(Position(epoch=epoch + 1), {} if value is None else {"m": value})


def run(rule, values, state=None, start=0, through_json=False):
    """Return the verdicts and the last state; stop at the first yes."""
    verdicts, state = [], state or PatienceState()
    for epoch, value in enumerate(values, start):
        state, verdict = rule.check(state, moment(epoch, value))
        if through_json:
            state = PatienceState.from_json(
                json.loads(json.dumps(state.to_json(), allow_nan=False))
            )
        verdicts.append(bool(verdict))
        if verdict:
            break
    return verdicts, state


def keras_stops_at(rule, values):
    """Return the epoch after which Keras's EarlyStopping stops (its code, NaN aside)."""
    sign = 1 if rule.monitor.mode == "max" else -1
    better = lambda a, b: b is None or sign * a - rule.monitor.min_delta > sign * b  # noqa: E731
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
    choose = min if rule.monitor.mode == "min" else max
    best = choose(value for value, _ in seen)
    assert state.best == best
    assert state.best_epoch == next(epoch for value, epoch in seen if value == best)


@given(rules, st.lists(numbers, max_size=25), st.data())
def test_cutting_a_run_anywhere_and_passing_the_state_through_json_changes_nothing(
    rule, values, data
):
    whole, end = run(rule, values)
    cut = data.draw(st.integers(0, len(whole)))
    first, state = run(rule, values[:cut])
    state = PatienceState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
    rest = [] if True in first else run(rule, values[cut:], state, start=cut)
    if rest:
        assert first + rest[0] == whole and rest[1] == end
    else:
        assert first == whole
    assert run(rule, values, through_json=True) == (whole, end)


@given(st.integers(0, 5), st.lists(st.just(math.nan), min_size=1, max_size=10))
def test_nan_counts_toward_patience_and_never_stops_the_first_epoch(limit, values):
    verdicts, state = run(Patience(limit, Monitor("m")), values)
    expected = max(limit - 1, 1)
    assert verdicts.index(True) == expected if len(values) > expected else True not in verdicts
    assert state.best is None


def test_a_nan_first_does_not_poison_the_run():
    verdicts, state = run(Patience(3, Monitor("m")), [math.nan, 1, 0.5, 0.4, 0.3, 0.35])
    assert True not in verdicts
    assert (state.best, state.best_epoch) == (0.3, 4)


@pytest.mark.parametrize("rule", ["stop", "raise"])
def test_a_nan_can_stop_at_once(rule):
    patience = Patience(3, Monitor("m", nan=rule))
    _, verdict = patience.check(PatienceState(), moment(0, math.nan))
    assert verdict and verdict.kind == "nan" and verdict.reason == "m is NaN"


def test_small_gains_move_the_best_but_not_the_patience():
    patience = Patience(3, Monitor("m", min_delta=0.1))
    verdicts, state = run(patience, [1, 0.5, 0.45, 0.41, 0.42])
    assert verdicts[-1] and (state.best, state.best_epoch, state.reference) == (0.41, 3, 0.5)


def test_a_stop_explains_itself():
    state = PatienceState()
    for epoch, value in enumerate([10.0, 0.5, 0.7, math.inf]):
        state, verdict = Patience(2, Monitor("m")).check(state, moment(epoch, value))
    assert verdict.reason == (
        "m has not improved on 0.5 for 2 checks (best: 0.5 in epoch 2, now: inf)"
    )
    assert verdict.values == {"value": math.inf, "wait": 2.0, "best": 0.5}


@pytest.mark.parametrize("limit", [-1, 1.5, "3", True, None])
def test_a_patience_that_is_no_count_is_refused(limit):
    with pytest.raises(ConfigError, match="patience"):
        Patience(limit, Monitor("m"))
