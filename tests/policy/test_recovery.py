"""Which batches are incidents, which states are good, how often to go back."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.rollback import Retries, RollbackRule, RollbackState, RolledBack
from keras_ratchet.policy.spikes import RunningMean, Spikes
from keras_ratchet.types import Verdict

finite = st.floats(-1e6, 1e6)
batch_losses = st.floats(0.001, 1000.0)
anything = st.one_of(finite, st.sampled_from([math.nan, math.inf, -math.inf]))
rules = st.builds(
    RollbackRule,
    st.builds(
        Spikes,
        st.just("loss"),
        st.one_of(st.none(), st.floats(0.5, 10.0)),
        st.integers(2, 8),
        st.sampled_from(["min", "max"]),
    ),
    st.one_of(st.just("epoch"), st.integers(1, 9)),
    st.integers(0, 8),
)
steps = st.lists(st.tuples(st.integers(1, 4), anything, st.booleans(), st.booleans()), max_size=60)


def through_json(state):
    return RollbackState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))


def play(rule, script, between=lambda state: state):
    """Drive a rule as the callback does; return the verdicts and the states that were taken."""
    state, seen = rule.after_capture(RollbackState(), good=True), []
    for ended, value, running, new_epoch in script:
        if new_epoch:
            state = between(rule.start_epoch(state))
            if rule.is_due_at_epoch_start(state):
                state = rule.after_capture(state, good=rule.confirm == 0)
        state, verdict = rule.check(between(state), ended, value, running)
        seen.append((verdict.kind, verdict.reason))
        if verdict:
            state = rule.after_rollback(state, RunningMean())
        elif rule.is_due(between(state)):
            state = rule.after_capture(state, good=rule.confirm == 0)
            seen.append(("taken", ""))
    return seen


@given(rules, steps)
def test_a_round_trip_through_json_at_any_point_changes_nothing(rule, script):
    assert play(rule, script) == play(rule, script, through_json)


@given(rules, steps)
def test_a_value_that_is_not_finite_is_an_incident_and_the_others_are_never_called_so(rule, script):
    for ended, value, _, _ in script:
        _, verdict = rule.check(RollbackState(), ended, value)
        assert (verdict.kind == "not finite") == (not math.isfinite(value))
        assert bool(verdict) == (not math.isfinite(value))  # no window is full yet


@given(st.lists(st.tuples(st.integers(1, 5), batch_losses), min_size=1, max_size=30))
def test_the_values_of_batches_are_found_again_in_their_running_means(groups):
    mean, total, batches = RunningMean(), 0.0, 0
    for ended, value in groups:
        total, batches = total + ended * value, batches + ended
        later = RunningMean(batches, total / batches)
        assert mean.since(later) == pytest.approx(value, rel=1e-6, abs=1e-6)
        mean = later


def test_the_float32_of_keras_leaves_a_tenth_of_a_thousandth_after_a_thousand_batches():
    import numpy as np

    values = np.random.default_rng(0).normal(1.0, 0.1, 1000).astype("float32")
    means = np.cumsum(values, dtype="float32") / np.arange(1, 1001, dtype="float32")
    before = RunningMean(999, float(means[998]))
    assert before.since(RunningMean(1000, float(means[999]))) == pytest.approx(values[-1], abs=1e-3)


def spikes_by_hand(rule, values):
    """The definition, over a plain list."""
    recent, found = [], []
    for value in values:
        window = recent[-rule.window :]
        mean = sum(window) / max(len(window), 1)
        spread = math.sqrt(sum((x - mean) ** 2 for x in window) / max(len(window), 1))
        spread = max(spread, 0.1 * abs(mean))
        away = value - mean if rule.mode == "min" else mean - value
        full = len(window) == rule.window
        is_spike = full and away > 0 and (spread == 0 or away / spread > rule.z)
        found.append(is_spike)
        recent += [] if is_spike else [value]
    return found


@given(
    st.builds(
        Spikes,
        st.just("loss"),
        st.sampled_from([0.5, 1.0, 3.0]),
        st.integers(2, 6),
        st.sampled_from(["min", "max"]),
    ),
    st.lists(st.integers(-20, 20).map(float), max_size=40),
)
def test_spikes_are_those_of_the_definition(rule, values):
    recent, found = (), []
    for value in values:
        recent, verdict = rule.check(recent, value)
        found.append(verdict.kind == "spike")
        assert len(recent) <= rule.window
    assert found == spikes_by_hand(rule, values)


@given(st.lists(finite, max_size=30), st.integers(2, 5))
def test_the_better_side_has_no_spikes(values, window):
    rule = Spikes("loss", 0.001, window)
    values = sorted(values, reverse=True)
    recent = ()
    for value in values:
        recent, verdict = rule.check(recent, value)
        assert not verdict


def test_a_loss_that_hardly_moves_makes_no_spikes():
    rule, recent = Spikes("loss", 6.0, 5), (0.5,) * 5
    assert not rule.check(recent, 0.79)[1]
    assert rule.check(recent, 0.81)[1]


def test_huge_losses_overflow_nothing():
    rule = Spikes("loss", 3.0, 2)
    _, verdict = rule.check((1e300, 1e308), 1e308)
    assert verdict.kind == "fine"


def test_an_infinity_is_no_spike_but_not_finite_and_enters_no_window():
    rule = Spikes("loss", 3.0, 2)
    for value in (math.inf, -math.inf, math.nan):
        recent, verdict = rule.check((1.0, 1.0), value)
        assert recent == (1.0, 1.0) and verdict.kind == "not finite"


def drive(rule, losses):
    """Return for each loss what became of the candidate, after a first state was taken."""
    state, kinds = rule.after_capture(RollbackState(), good=True), []
    for loss in losses:
        state, verdict = rule.check(state, 1, loss)
        kinds.append(verdict.kind)
        if rule.is_due(state):
            state = rule.after_capture(state, good=False)
    return kinds


def test_a_state_is_good_after_so_many_batches():
    assert drive(RollbackRule(Spikes("loss"), every=3, confirm=2), [1.0] * 10) == [
        *["fine"] * 4,
        "good",  # the state after batch 3, by batches 4 and 5
        *["fine"] * 2,
        "good",  # the state after batch 6 (the count began at the third)
        *["fine"] * 2,
    ]


def test_an_incident_takes_the_candidate_away():
    rule = RollbackRule(Spikes("loss"), every=2, confirm=3)
    state = rule.after_capture(RollbackState(), good=True)
    for loss in (1.0, 1.0):
        state, _ = rule.check(state, 1, loss)
    state = rule.after_capture(state, good=False)
    _, incident = rule.check(state, 1, math.nan)
    state = rule.after_rollback(state, RunningMean())
    assert incident and state.candidate is None and state.pending == 0
    assert [rule.check(state, 1, 1.0)[1].kind for _ in range(9)] == ["fine"] * 9


def test_a_state_on_the_way_up_does_not_become_good():
    rising = [1.2**i for i in range(200)]  # finite, and no spike
    kinds = drive(RollbackRule(Spikes("loss"), every=20, confirm=10), rising)
    assert "good" not in kinds and kinds.count("refused") == 9
    falling = drive(RollbackRule(Spikes("loss"), every=20, confirm=10), rising[::-1])
    assert "refused" not in falling and falling.count("good") == 9


def test_the_way_up_is_the_way_down_for_a_metric_that_should_be_large():
    rising = [1.2**i for i in range(200)]
    rule = RollbackRule(Spikes("reward", mode="max"), every=20, confirm=10)
    assert drive(rule, rising).count("good") == 9
    assert drive(rule, rising[::-1]).count("refused") == 9


def test_noise_around_one_level_is_hardly_ever_refused():
    import random

    noise = random.Random(0)
    losses = [noise.lognormvariate(0.0, 1.0) for _ in range(20_000)]
    kinds = drive(RollbackRule(Spikes("loss"), every=20, confirm=10), losses)
    assert kinds.count("good") > 600 and kinds.count("refused") <= 1


def test_the_first_state_has_its_own_loss_only_for_those_after_it_may_be_on_a_bad_way():
    rule = RollbackRule(Spikes("loss"), every=10, confirm=5)
    away = [2.0, *[1e20] * 9, *[1e10] * 9, 1.9, *[1e10] * 5]
    assert "good" not in drive(rule, away[:18])
    assert drive(rule, away).count("good") == 0
    back = [2.0, *[1e20] * 9, *[1e10] * 3, 1.9, *[1e10] * 5]
    assert drive(rule, back).count("good") == 1


def test_with_confirm_0_a_state_is_good_at_once():
    rule = RollbackRule(Spikes("loss"), every=1, confirm=0)
    state, verdict = rule.check(rule.after_capture(RollbackState(), good=True), 1, 1.0)
    assert verdict.kind == "fine" and rule.is_due(state)
    assert rule.after_capture(state, good=True).candidate is None


def test_with_epochs_a_state_is_due_when_an_epoch_begins_and_none_waits():
    rule = RollbackRule(Spikes("loss"), every="epoch", confirm=2)
    state = rule.after_capture(RollbackState(), good=True)
    for _ in range(1000):
        state, _ = rule.check(state, 1, 1.0)
        assert not rule.is_due(state)
    assert rule.is_due_at_epoch_start(state)
    assert not rule.is_due_at_epoch_start(rule.after_capture(state, good=False))


def test_batches_that_end_at_once_count_as_many():
    rule = RollbackRule(Spikes("loss"), every=4, confirm=1)
    state, _ = rule.check(RollbackState(), 4, 2.0, running=True)
    assert rule.is_due(state)
    state, _ = rule.check(state, 4, 3.0, running=True)
    assert state.good == (2.0,)
    assert state.mean == RunningMean(8, 3.0)
    state, _ = rule.check(rule.after_capture(state, good=False), 2, 3.0, running=True)
    assert state.good == (3.0,)


def test_the_running_mean_begins_anew_with_an_epoch_and_after_going_back():
    rule = RollbackRule(Spikes("loss", 1.0, 2), every=9, confirm=1)
    state, _ = rule.check(RollbackState(), 5, 10.0, running=True)
    state, _ = rule.check(rule.start_epoch(state), 1, 2.0, running=True)
    assert state.recent == (10.0, 2.0)
    state = rule.after_rollback(state, RunningMean(3, 1.0))
    state, _ = rule.check(state, 1, 1.5, running=True)
    assert state.recent == (2.0, 3.0)


def test_there_are_so_many_retries_and_no_more():
    rule, nan = Retries(0.5, 2), Verdict(True, "not finite", "loss is nan")
    assert [bool(rule.check(done, nan)) for done in range(4)] == [True, True, False, False]
    assert rule.check(1, nan).reason == "loss is nan"
    assert rule.check(2, nan).reason == (
        "loss is nan, and training has rolled back 2 times (max_rollbacks)"
    )
    stuck = rule.check(2, nan, stuck=True).reason
    assert stuck.endswith("Try a smaller every or confirm") and "each time to the same" in stuck
    assert rule.check(0, nan, known=False).reason == "loss is nan, and no good state is known"
    assert not Retries(1.0, 0).check(0, nan)


def test_a_record_reads_as_a_sentence():
    record = RolledBack(3, 6, "not finite", "loss is nan", 3, 5, 0.05)
    assert str(record) == (
        "loss is nan: back to the state after 3 epochs and 5 batches, learning rate 0.05"
    )


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RollbackRule(Spikes("loss"), every=0), "every is 'epoch' or a number of batches"),
        (lambda: RollbackRule(Spikes("loss"), every=1.5), "every"),
        (lambda: RollbackRule(Spikes("loss"), every="batch"), "every"),
        (lambda: RollbackRule(Spikes("loss"), confirm=-1), "confirm"),
        (lambda: RollbackRule(Spikes("loss"), confirm=True), "confirm"),
        (lambda: Spikes("loss", z=0.0), "spike_z"),
        (lambda: Spikes("loss", z=math.nan), "spike_z"),
        (lambda: Spikes("loss", window=1), "window"),
        (lambda: Spikes("loss", mode="auto"), "mode"),
        (lambda: Retries(0.0, 1), "factor"),
        (lambda: Retries(-1.0, 1), "factor"),
        (lambda: Retries(1.1, 1), "factor"),
        (lambda: Retries(math.nan, 1), "factor"),
        (lambda: Retries(0.5, -1), "max_rollbacks"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, match):
    with pytest.raises(ConfigError, match=match):
        make()
