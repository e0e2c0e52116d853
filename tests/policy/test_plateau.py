"""Keras's rule for cutting the learning rate, against Keras's own code in a few lines."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.policy.plateau import Plateau, PlateauState

values = st.one_of(st.integers(-5, 5).map(float), st.sampled_from([math.inf, -math.inf]))
curves = st.lists(values, max_size=40)
rules = st.builds(
    Plateau,
    st.builds(
        Monitor, st.just("loss"), st.sampled_from(["min", "max"]), st.sampled_from([0.0, 0.5, 2.0])
    ),
    st.integers(0, 4),
    st.integers(0, 3),
)


def cuts(rule, curve, may_cut=lambda epoch: True, between=lambda state: state):
    """Return the epochs after which the rate was cut, and the last state."""
    state, found = PlateauState(), []
    for epoch, value in enumerate(curve):
        state, verdict = rule.check(between(state), epoch, value)
        if verdict and may_cut(epoch):
            state = rule.cut(state)
            found.append(epoch)
    return found, state


def as_keras_does(rule, curve):
    """keras.callbacks.ReduceLROnPlateau.on_epoch_end of 3.15.1, without its NaN trap."""
    sign = 1 if rule.monitor.mode == "min" else -1
    best, wait, cooldown, found = None, 0, 0, []
    for epoch, value in enumerate(curve):
        if cooldown > 0:
            cooldown -= 1
            wait = 0
        if best is None or sign * value + rule.monitor.min_delta < sign * best:
            best, wait = value, 0
        elif cooldown == 0:
            wait += 1
            if wait >= rule.patience:
                cooldown, wait = rule.cooldown, 0
                found.append(epoch)
    return found, best, wait, cooldown


@given(rules, curves)
def test_without_nan_it_is_keras_rule(rule, curve):
    found, state = cuts(rule, curve)
    assert (found, state.reference, state.wait, state.cooldown) == as_keras_does(rule, curve)


@given(rules, curves, st.integers(1, 5))
def test_nan_at_first_delays_nothing_that_comes_after(rule, curve, nans):
    """What `best` is afterwards does not depend on the NaN; Keras's would be NaN for ever."""
    _, clean = cuts(rule, curve, lambda epoch: False)
    _, state = cuts(rule, [math.nan] * nans + curve, lambda epoch: False)
    assert (state.reference, state.best) == (clean.reference, clean.best)


@given(rules, st.lists(st.one_of(values, st.just(math.nan)), max_size=40))
def test_a_round_trip_through_json_at_any_point_changes_nothing(rule, curve):
    def through(state):
        return PlateauState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))

    assert cuts(rule, curve) == cuts(rule, curve, between=through)


@given(rules, curves)
def test_best_is_the_first_of_the_best_values_whatever_min_delta(rule, curve):
    _, state = cuts(rule, curve)
    if curve:
        best = min(curve) if rule.monitor.mode == "min" else max(curve)
        assert (state.best, state.best_epoch) == (best, curve.index(best))


def test_a_cut_that_could_not_be_made_is_asked_for_again():
    rule = Plateau(Monitor("loss"), patience=2, cooldown=5)
    assert cuts(rule, [1.0] * 6, lambda epoch: epoch >= 4)[0] == [4]


def test_the_sentence_says_what_was_waited_for():
    rule = Plateau(Monitor("loss"), patience=1)
    state, _ = rule.check(PlateauState(), 0, 0.5)
    assert rule.check(state, 1, 0.75)[1].reason == (
        "loss has not improved on 0.5 for 1 epoch (now: 0.75)"
    )
    assert rule.check(PlateauState(), 0, math.nan)[1].reason == "loss has been NaN for 1 epoch"


def test_the_sentence_says_how_much_was_asked_for():
    rule = Plateau(Monitor("loss", min_delta=0.1), patience=1)
    state, _ = rule.check(PlateauState(), 0, 0.5)
    assert rule.check(state, 1, 0.45)[1].reason == (
        "loss has not improved on 0.5 by more than min_delta=0.1 for 1 epoch (now: 0.45)"
    )


@pytest.mark.parametrize("numbers", [{"patience": -1}, {"patience": 1.5}, {"cooldown": -1}])
def test_numbers_that_cannot_work_are_refused(numbers):
    with pytest.raises(ConfigError, match="counts epochs"):
        Plateau(Monitor("loss"), **numbers)
