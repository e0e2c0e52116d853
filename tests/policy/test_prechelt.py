"""Prechelt's rules: tables worked by hand, and his definitions written down once more."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.criteria import first_yes, moments, stops_at, verdicts

from keras_ratchet.errors import ConfigError, MetricError
from keras_ratchet.policy.criterion import resolve_directions
from keras_ratchet.policy.experimental import GeneralizationLoss, ProgressQuotient, UpStrips

positive = st.floats(0.125, 8) | st.sampled_from([1.0, 0.5])
errors = st.lists(positive, min_size=1, max_size=30)
alphas = st.floats(0, 100)


def gl(error, t):
    """Return GL(t) as on page 58; `error` is indexed from 1."""
    return 100 * (error[t] / min(error[1 : t + 1]) - 1)


def progress(train, t, k):
    strip = train[t - k + 1 : t + 1]
    return 1000 * (sum(strip) / (k * min(strip)) - 1)


def from_one(values):
    return [None, *values]


# E_va(t), E_opt(t), and GL(t) = 100 (E_va / E_opt - 1), each by hand
GL_TABLE = [
    (0.50, 0.50, 0.0),
    (0.40, 0.40, 0.0),
    (0.41, 0.40, 2.5),
    (0.43, 0.40, 7.5),
    (0.38, 0.38, 0.0),
    (0.40, 0.38, 5.263158),
    (0.46, 0.38, 21.052632),
]


def test_generalization_loss_by_hand():
    found = verdicts(GeneralizationLoss(99, "m"), moments([row[0] for row in GL_TABLE]))
    for verdict, (error, _, loss) in zip(found, GL_TABLE, strict=True):
        assert verdict.values["value"] == error
        assert verdict.values["generalization_loss"] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize(("alpha", "epoch"), [(1, 3), (3, 4), (10, 7), (30, None)])
def test_generalization_loss_stops_by_hand(alpha, epoch):
    stop = stops_at(GeneralizationLoss(alpha, "m"), [row[0] for row in GL_TABLE])
    assert stop == (None if epoch is None else epoch - 1)


def test_a_loss_of_exactly_alpha_does_not_stop():
    assert stops_at(GeneralizationLoss(25, "m"), [64.0, 80.0]) is None
    assert stops_at(GeneralizationLoss(25, "m"), [64.0, 80.1]) == 1


@given(errors, alphas)
def test_generalization_loss_is_its_definition(values, alpha):
    error = from_one(values)
    expected = [gl(error, t) > alpha for t in range(1, len(error))]
    assert [bool(v) for v in verdicts(GeneralizationLoss(alpha, "m"), moments(values))] == expected


@pytest.mark.parametrize(
    ("curve", "loss"),
    [
        ([0.0, 0.0], 0.0),  # still perfect
        ([0.0, 0.1], math.inf),  # any loss is infinitely more than none
        ([math.inf, math.inf], 0.0),
        ([0.5, math.inf], math.inf),
        ([0.5, math.nan], math.nan),
        ([math.nan, math.nan], math.nan),
        ([math.nan, 0.5], 0.0),  # a NaN is never the least error
        ([0.5, None, 1.0], 100.0),
    ],
)
def test_generalization_loss_at_the_edges(curve, loss):
    verdict = verdicts(GeneralizationLoss(5, "m"), moments(curve))[-1]
    assert repr(verdict.values["generalization_loss"]) == repr(loss)
    assert bool(verdict) == (loss > 5)


TRAIN = [0.50, 0.45, 0.42, 0.40, 0.38] + [0.37, 0.37, 0.36, 0.36, 0.36] + [0.36] * 5
VAL = [0.60, 0.55, 0.50, 0.48, 0.47] + [0.48, 0.49, 0.50, 0.52, 0.54] + [0.54] * 5
# end of strip t: sum of E_tr, k min E_tr, P_k(t), GL(t), their quotient, each by hand
PQ_TABLE = [
    (5, 2.15, 1.90, 131.578947, 0.0, 0.0),
    (10, 1.82, 1.80, 11.111111, 14.893617, 1.340426),
    (15, 1.80, 1.80, 0.0, 14.893617, math.inf),
]


def test_progress_quotient_by_hand():
    found = verdicts(ProgressQuotient(9, 5, "m", "t"), moments(VAL, "m", t=TRAIN))
    for t, total, least, p, loss, quotient in PQ_TABLE:
        assert 1000 * (total / least - 1) == pytest.approx(p, abs=1e-6)
        values = found[t - 1].values
        assert values["progress"] == pytest.approx(p, abs=1e-6)
        assert values["generalization_loss"] == pytest.approx(loss, abs=1e-6)
        assert f"= {quotient:.3g}," in found[t - 1].reason
    strip_ends = [i + 1 for i, verdict in enumerate(found) if "progress" in verdict.values]
    assert strip_ends == [5, 10, 15]


@pytest.mark.parametrize(("alpha", "epoch"), [(0.5, 10), (1, 10), (2, 15)])
def test_progress_quotient_stops_by_hand(alpha, epoch):
    assert stops_at(ProgressQuotient(alpha, 5, "m", "t"), VAL, t=TRAIN) == epoch - 1


@given(errors, errors, st.floats(0, 3), st.integers(1, 6))
def test_progress_quotient_is_its_definition(val, train, alpha, k):
    length = min(len(val), len(train))
    val, train = val[:length], train[:length]
    expected = None
    for t in range(k, length + 1, k):
        p, loss = progress(from_one(train), t, k), gl(from_one(val), t)
        if abs(p) < 1e-9 or (loss > 0 and abs(loss / p - alpha) < 1e-6):
            return  # rounding decides
        if loss / p > alpha:
            expected = t - 1
            break
    assert stops_at(ProgressQuotient(alpha, k, "m", "t"), val, t=train) == expected


@pytest.mark.parametrize(
    ("train", "val", "stops"),
    [
        ([0.0, 0.0], [0.5, 0.6], True),  # no progress at all, and a loss
        ([0.0, 0.0], [0.5, 0.5], False),  # no progress, and none was lost
        ([1.0, 0.0], [0.5, 9.0], False),  # infinite progress
        ([math.nan, 1.0], [0.5, 9.0], False),
        ([1.0, math.nan], [0.5, 9.0], False),
        ([math.inf, 1.0], [0.5, 9.0], False),
        ([math.inf, math.inf], [0.5, 9.0], False),
        ([1.0, 0.9], [0.5, math.nan], False),
        ([1.0, 0.9], [math.nan, 0.5], False),
        ([1.0, 0.9], [0.5, math.inf], True),
    ],
)
def test_progress_quotient_at_the_edges(train, val, stops):
    assert bool(verdicts(ProgressQuotient(1, 2, "m", "t"), moments(val, "m", t=train))[-1]) == stops


def test_epochs_without_the_training_error_belong_to_no_strip():
    rule = ProgressQuotient(0, 2, "m", "t")
    found = verdicts(rule, moments([1, 1, 1, 3], "m", t=[1.0, None, 1.0]))
    assert [v.kind for v in found] == [
        "progress quotient",
        "missing",
        "progress quotient",
        "missing",
    ]
    assert "1 of the 2 epochs" in found[0].reason and "progress" in found[2].values


def test_the_end_of_a_strip_without_validation_is_undecided_and_the_next_strip_begins():
    found = verdicts(ProgressQuotient(0, 2, "m", "t"), moments([1.0, None, 2.0, 2.0], t=[1.0] * 4))
    assert [bool(v) for v in found] == [False, False, False, True]
    assert found[1].kind == "missing"


# E_va at the ends of strips of 5: 0.50 0.52 0.51 0.53 0.55, so it rises at 10, 20 and 25
UP = [9.0] * 4 + [0.50] + [9.0] * 4 + [0.52] + [0.1] * 4 + [0.51] + [0.1] * 4 + [0.53]
UP += [9.0] * 4 + [0.55] + [9.0] * 4


@pytest.mark.parametrize(("s", "epoch"), [(1, 10), (2, 25), (3, None)])
def test_up_strips_by_hand(s, epoch):
    assert stops_at(UpStrips(s, 5, "m"), UP) == (None if epoch is None else epoch - 1)


def up(s, error, t, k):
    """Return whether UP_s stops after epoch t, by the recursion on page 58."""
    if t % k or t - k < 1:
        return False
    return error[t] > error[t - k] and (s == 1 or up(s - 1, error, t - k, k))


@given(errors, st.integers(1, 4), st.integers(1, 4))
def test_up_strips_is_its_definition(values, s, k):
    error = from_one(values)
    expected = [up(s, error, t, k) for t in range(1, len(error))]
    assert [bool(v) for v in verdicts(UpStrips(s, k, "m"), moments(values))] == expected


def test_a_strip_with_a_nan_at_an_end_has_not_risen_and_a_missing_epoch_is_none():
    assert stops_at(UpStrips(2, 1, "m"), [1.0, 2.0, math.nan, 3.0, 4.0, 5.0]) == 5
    assert stops_at(UpStrips(2, 2, "m"), [9.0, 1.0, None, 9.0, 2.0, None, 9.0, 3.0]) == 7


@given(errors, alphas, alphas)
def test_a_larger_alpha_never_stops_earlier(values, a, b):
    low, high = sorted([a, b])
    train = [1.0 + 0.5 / t for t in range(1, len(values) + 1)]
    for make in (
        lambda alpha: GeneralizationLoss(alpha, "m"),
        lambda alpha: ProgressQuotient(alpha, 3, "m", "t"),
    ):
        early, late = (
            first_yes(verdicts(make(alpha), moments(values, "m", t=train))) for alpha in (low, high)
        )
        assert late is None or (early is not None and early <= late)


@given(errors, st.integers(1, 4), st.integers(1, 4))
def test_more_strips_never_stop_earlier(values, s, k):
    early, late = stops_at(UpStrips(s, k, "m"), values), stops_at(UpStrips(s + 1, k, "m"), values)
    assert late is None or (early is not None and early + k <= late)


@given(errors, st.sampled_from([0.25, 2.0, 1024.0]))
def test_the_unit_of_the_error_does_not_matter(values, unit):
    scaled = [unit * value for value in values]
    for rule in (GeneralizationLoss(5, "m"), UpStrips(2, 2, "m")):
        assert stops_at(rule, scaled) == stops_at(rule, values)


def test_a_metric_that_should_be_large_is_refused_when_the_model_says_so():
    def ask(name):
        return "max" if "acc" in name else None

    for rule in (
        GeneralizationLoss(5, "val_acc"),
        UpStrips(3, monitor="val_acc"),
        ProgressQuotient(2, monitor="val_acc"),
        ProgressQuotient(2, train="acc"),
    ):
        with pytest.raises(ConfigError, match=r"compares errors, but '(val_)?acc' should be large"):
            resolve_directions(rule, ask)
        resolve_directions(rule, lambda name: None)


def test_an_error_below_0_is_refused():
    with pytest.raises(MetricError, match=r"'t' must not be below 0\. Got: -1\.0"):
        verdicts(ProgressQuotient(2, 5, "m", "t"), moments([1.0], "m", t=[-1.0]))


@pytest.mark.parametrize("kind", [GeneralizationLoss, ProgressQuotient])
@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "5", True, None])
def test_alpha_is_a_number(kind, wrong):
    with pytest.raises(ConfigError, match=f"{kind.__name__} takes a finite alpha"):
        kind(wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "5", True, None])
def test_strips_are_counted_in_whole_numbers(wrong):
    for make in (UpStrips, lambda n: UpStrips(1, n), lambda n: ProgressQuotient(1, n)):
        with pytest.raises(ConfigError, match="must be a whole number, at least 1"):
            make(wrong)
