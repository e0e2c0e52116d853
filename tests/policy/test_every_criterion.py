"""What holds for every criterion there is."""

import math
from dataclasses import FrozenInstanceError, fields
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.criteria import moments, verdicts

from keras_ratchet import policy
from keras_ratchet.errors import MetricError
from keras_ratchet.policy import (
    AfterEpochs,
    AfterSeconds,
    AfterSteps,
    Criterion,
    Diverges,
    Moment,
    NotFinite,
    Patience,
    Position,
    Reaches,
    Smoothed,
    experimental,
)
from keras_ratchet.policy.criterion import resolve_directions
from keras_ratchet.policy.experimental import (
    GeneralizationLoss,
    ProgressQuotient,
    SignificantImprovement,
    UpStrips,
)
from keras_ratchet.types import StopKind

KNOWN = {*get_args(StopKind), "missing", "waiting", "improved"}
modes = st.sampled_from(["min", "max"])
metric = st.just("m") | st.builds(Smoothed, st.just("m"), st.sampled_from([0.0, 0.5, 0.9]))
error = st.just("m") | st.builds(Smoothed, st.just("m"), st.sampled_from([0.0, 0.5]))
KINDS = {
    Patience: st.builds(
        Patience,
        st.integers(0, 4) | st.just("auto"),
        metric,
        mode=modes,
        min_delta=st.sampled_from([0.0, 0.1]),
        nan=st.sampled_from(["ignore", "stop"]),
        start_from_epoch=st.integers(0, 2),
    ),
    Reaches: st.builds(Reaches, metric, st.floats(0, 4), mode=modes),
    Diverges: st.builds(Diverges, metric, st.floats(0, 4), mode=modes),
    NotFinite: st.builds(NotFinite) | st.builds(NotFinite, st.just("m"), st.just("t")),
    AfterEpochs: st.builds(AfterEpochs, st.integers(1, 20)),
    AfterSteps: st.builds(AfterSteps, st.integers(1, 200)),
    AfterSeconds: st.builds(AfterSeconds, st.floats(0.1, 40)),
    GeneralizationLoss: st.builds(GeneralizationLoss, st.floats(0, 50), error),
    ProgressQuotient: st.builds(
        ProgressQuotient, st.floats(0, 3), st.integers(1, 5), st.just("m"), st.just("t")
    ),
    UpStrips: st.builds(UpStrips, st.integers(1, 3), st.integers(1, 4), error),
    SignificantImprovement: st.builds(
        SignificantImprovement, st.floats(0, 3), st.integers(1, 4), st.just("m"), mode=modes
    ),
}
leaves = st.one_of(*KINDS.values())
criteria = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a, b: a & b, inner, inner),
        inner.map(lambda a: ~a),
        st.builds(Smoothed, inner, st.sampled_from([0.0, 0.5])),
    ),
    max_leaves=5,
)
values = st.lists(
    st.none() | st.floats(0, 4) | st.sampled_from([0.0, 1.0, 0.5, math.nan, math.inf]),
    min_size=1,
    max_size=20,
)


def run(m, t=()):
    """Return moments with the batches of the validation, where there was one."""
    found = []
    for moment in moments(m, "m", t=t):
        value = moment.metrics.get("m")
        batches = {} if value is None else {"m": [value, 2 * value, value + moment.epoch % 3]}
        found.append(Moment(moment.position, moment.metrics, time_s=moment.time_s, batches=batches))
    return found


def test_every_public_criterion_is_among_those_tested_here():
    public = {getattr(module, n) for module in (policy, experimental) for n in module.__all__}
    found = {c for c in public if isinstance(c, type) and issubclass(c, Criterion)}
    assert found - {Criterion, Smoothed} == set(KINDS)


@given(criteria, values, values, st.sets(st.integers(0, 19)))
def test_the_state_through_json_at_any_moment_changes_no_verdict(rule, m, t, cuts):
    whole = run(m, t)
    assert repr(verdicts(rule, whole, cuts)) == repr(verdicts(rule, whole))


@given(criteria, values, values)
def test_settling_what_is_complete_changes_no_verdict(rule, m, t):
    resolved = resolve_directions(rule, {"m": None, "t": None}.get) if _modes_agree(rule) else rule
    whole = run(m, t)
    assert repr(verdicts(resolved, whole)) == repr(verdicts(rule, whole))


def _modes_agree(rule):
    return len({mode for _, mode in rule.monitors()}) <= 1


@given(criteria, values, values)
def test_every_verdict_says_why_in_words_and_numbers(rule, m, t):
    for verdict in verdicts(rule, run(m, t)):
        assert verdict.reason and verdict.kind == verdict.kinds[0] and {*verdict.kinds} <= KNOWN
        assert all(type(key) is str for key in verdict.values)
        assert all(type(value) in (int, float) for value in verdict.values.values())


@given(st.sampled_from(sorted(KINDS, key=lambda kind: kind.__name__)), st.data())
def test_a_moment_without_its_metric_is_undecided_and_leaves_no_trace(kind, data):
    rule = data.draw(KINDS[kind])
    assume(rule.expects())
    m, t = data.draw(values), data.draw(values)
    before = run(m, t)
    state = rule.initial()
    for moment in before:
        state, _ = rule.check(state, moment)
    empty = Moment(Position(len(before) + 1), {})
    after, verdict = rule.check(state, empty)
    assert (verdict.yes, verdict.kind) == (False, "missing")
    assert repr(after) == repr(state)
    assert (~rule).check(state, empty)[1].yes is False


@given(st.sampled_from(sorted(KINDS, key=lambda kind: kind.__name__)), st.data())
def test_a_nan_is_never_good_enough(kind, data):
    """What a NaN does: it counts (two of them), ends the run (one), or says nothing (the rest)."""
    rule = data.draw(KINDS[kind])
    nans = run([math.nan] * 12, [math.nan] * 12)
    stops = any(verdicts(rule, nans))
    if kind in (Patience, SignificantImprovement):
        limit = rule.limit if rule.limit != "auto" else 10
        start = getattr(rule, "start_from_epoch", 0)
        assert stops == (limit + start <= 12)
    elif kind is NotFinite:
        assert stops
    elif kind in (Reaches, Diverges, GeneralizationLoss, ProgressQuotient, UpStrips):
        assert not stops


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: kind.__name__))
def test_a_criterion_is_a_value(kind):
    made = {
        AfterEpochs: (3,),
        AfterSteps: (3,),
        AfterSeconds: (3,),
        NotFinite: (),
        Reaches: (0.5,),
        Diverges: (0.5,),
        GeneralizationLoss: (5,),
        ProgressQuotient: (2,),
        UpStrips: (3,),
        SignificantImprovement: (),
        Patience: (3,),
    }[kind]
    assert kind(*made) == kind(*made) and hash(kind(*made)) == hash(kind(*made))
    assert kind(*made) != AfterEpochs(99)
    for field in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(kind(*made), field.name, 1)
    assert eval(repr(kind(*made)), {kind.__name__: kind}) == kind(*made)


@pytest.mark.parametrize("rule", [GeneralizationLoss(5, "m"), UpStrips(3, 5, "m")])
def test_an_error_below_0_is_refused_by_what_divides_errors(rule):
    with pytest.raises(MetricError, match=r"'m' must not be below 0. Got: -0.5"):
        verdicts(rule, moments([0.5, -0.5]))
