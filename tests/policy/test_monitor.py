"""What "better" means, against a ten-line oracle."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.monitor import Monitor, close_matches, missing_message

values = st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf]))
modes = st.sampled_from(["min", "max"])
monitors = st.builds(
    Monitor,
    st.just("m"),
    modes,
    st.floats(0, 10),
    st.sampled_from(["absolute", "relative"]),
)


def oracle(mode, delta, relative, value, reference):
    """Say whether value improves on reference, as one would on paper."""
    if math.isnan(value):
        return False
    if reference is None or math.isnan(reference):
        return True
    if math.isinf(reference):
        delta = 0
    elif relative:
        delta = delta * abs(reference)
    return value + delta < reference if mode == "min" else value - delta > reference


@given(monitors, values, st.none() | values)
def test_it_agrees_with_the_oracle(monitor, value, reference):
    relative = monitor.min_delta_mode == "relative"
    assert monitor.improves(value, reference) == oracle(
        monitor.mode, monitor.min_delta, relative, value, reference
    )


@given(monitors, values, values)
def test_a_value_that_is_no_better_never_improves(monitor, value, reference):
    worse = value >= reference if monitor.mode == "min" else value <= reference
    if worse:
        assert not monitor.improves(value, reference)
        assert not monitor.beats(value, reference)


@given(monitors, values)
def test_a_tie_never_improves_and_nan_never_does(monitor, value):
    assert not monitor.improves(value, value) or math.isnan(value)
    assert not monitor.beats(math.nan, value)
    assert not monitor.improves(math.nan, None)


@given(monitors, st.floats(allow_nan=False))
def test_anything_beats_nan_and_nothing(monitor, value):
    assert monitor.beats(value, math.nan)
    assert monitor.improves(value, None)


@given(monitors, values, values)
def test_an_improvement_is_always_a_lead(monitor, value, reference):
    if monitor.improves(value, reference):
        assert monitor.beats(value, reference)


@given(st.floats(0.001, 0.9), st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-6), modes)
def test_a_relative_bar_asks_for_a_gain_whatever_the_sign(delta, reference, mode):
    monitor = Monitor("m", mode, delta, "relative")
    gain = -1 if mode == "min" else 1
    bar = delta * abs(reference)
    assert monitor.improves(reference + gain * bar * 1.01, reference)
    assert not monitor.improves(reference + gain * bar * 0.99, reference)
    assert not monitor.improves(reference - gain * bar, reference)


def test_scores_that_get_worse_below_zero_are_no_gains():
    """ignite and skorch accept these (peers.md, row 4)."""
    monitor = Monitor("score", "max", 0.01, "relative")
    assert not any(monitor.improves(v, -10.0) for v in (-10.0, -10.05, -10.5, -11.0))


def test_differences_below_float32_are_seen():
    assert Monitor("m", "max").improves(1 - 2**-31, 1 - 2**-30)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "auto"},
        {"min_delta": -1},
        {"min_delta": math.nan},
        {"nan": "skip"},
        {"min_delta_mode": "percent"},
    ],
)
def test_a_wrong_argument_is_named_with_its_value(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(ConfigError, match=name) as caught:
        Monitor("m", **arguments)
    assert repr(value) in str(caught.value)


def test_a_missing_metric_is_told_with_its_near_misses():
    message = missing_message("val_acuracy", ["loss", "accuracy", "val_accuracy"])
    assert "'val_accuracy'" in message and "Available: accuracy, loss, val_accuracy" in message
    assert close_matches("qqq", ["loss"]) == ()
