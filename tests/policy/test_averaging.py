"""Averages of weights: which epochs are kept, what a soup takes in, and why."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.policy.soup import (
    Candidate,
    check_average,
    choose,
    distinct,
    order,
    place_for,
    refused,
    unmeasured,
)
from keras_ratchet.types import CheckpointInfo, Position

VALUES = st.one_of(st.floats(allow_nan=True), st.integers(-3, 3).map(float))
MODES = st.sampled_from(["min", "max"])


def signed(mode, value):
    return value if mode == "min" else -value


@given(st.lists(VALUES, max_size=30), st.integers(1, 6), MODES)
def test_the_places_hold_what_a_stable_sort_puts_first(values, k, mode):
    monitor = Monitor("m", mode)
    kept, ages = [], []
    for age, value in enumerate(values):
        place = place_for(value, kept, ages, k, monitor)
        if place is not None:
            kept[place : place + 1] = [value]
            ages[place : place + 1] = [age]
        assert len(kept) <= k
    usable = [age for age, value in enumerate(values) if not math.isnan(value)]
    oracle = sorted(usable, key=lambda age: signed(mode, values[age]))[:k]
    assert [ages[i] for i in order(kept, ages, monitor)] == oracle


def means_of(numbers):
    """Return a score that is a function of the mean of numbers: weights and their value."""

    def score(members):
        calls.append(members)
        return abs(sum(numbers[i] for i in members) / len(members))

    calls = []
    return score, calls


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=8), MODES)
def test_a_soup_is_what_the_paper_says(numbers, mode):
    monitor = Monitor("m", mode)
    numbers.sort(key=lambda n: signed(mode, abs(n)))
    candidates = [Candidate(f"epoch {i}", abs(n)) for i, n in enumerate(numbers)]
    score, calls = means_of(numbers)
    record = choose("soup", candidates, candidates[0].value, score, monitor)

    weights, members, value = numbers[0], [0], abs(numbers[0])  # the recipe, word for word
    for i, number in enumerate(numbers[1:], 1):
        attempt = (len(members) * weights + number) / (len(members) + 1)
        if signed(mode, abs(attempt)) < signed(mode, value) - 1e-9:
            weights, value = attempt, abs(attempt)
            members.append(i)
        elif abs(abs(attempt) - value) <= 1e-9:
            return  # a tie up to rounding: either answer is right
    assert record.indices == tuple(members)
    assert record.members == tuple(candidates[i].name for i in members)
    assert record.value == pytest.approx(value)
    assert len(calls) == len(numbers) - 1 == len(record.trials)
    assert record.accepted == (len(members) > 1)


@given(
    st.sampled_from(["soup", "mean"]),
    st.integers(1, 8),
    MODES,
    st.floats(allow_nan=False),
    st.lists(VALUES, min_size=8, max_size=8),
)
def test_the_value_is_never_worse_and_nan_never_accepted(kind, count, mode, best, scores):
    monitor = Monitor("m", mode)
    candidates = [Candidate(str(i), best) for i in range(count)]
    found = iter(scores)
    record = choose(kind, candidates, best, lambda members: next(found), monitor)
    assert record.value == best or monitor.beats(record.value, best)
    assert len(record.trials) <= max(count - 1, 0)
    assert not any(math.isnan(trial.value) and trial.accepted for trial in record.trials)
    accepted = [trial for trial in record.trials if trial.accepted]
    if accepted:
        assert record.members == accepted[-1].members and record.value == accepted[-1].value
    else:
        assert record.members == ("0",) and not record.accepted
    assert all(trial.reason for trial in record.trials) and record.reason == str(record)


def test_a_mean_is_tried_once_and_is_of_all():
    candidates = [Candidate(f"epoch {i}", float(i)) for i in range(1, 5)]
    record = choose("mean", candidates, 1.0, lambda members: 0.5, Monitor("val_loss"))
    assert record.indices == (0, 1, 2, 3) and len(record.trials) == 1
    assert str(record) == (
        "the mean of epoch 1, epoch 2, epoch 3, epoch 4 has val_loss 0.5, epoch 1 alone has 1"
    )
    record = choose("mean", candidates, 1.0, lambda members: 1.0, Monitor("val_loss"))
    assert str(record) == "the average is not better than epoch 1 alone (val_loss 1)"


def test_an_equal_value_is_no_improvement():
    candidates = [Candidate("a", 1.0), Candidate("b", 1.0), Candidate("c", 1.0)]
    record = choose("soup", candidates, 1.0, lambda members: 1.0, Monitor("acc", "max"))
    assert not record.accepted and "none of 2 averages is better than a alone" in str(record)
    assert [t.reason for t in record.trials] == ["1 is no better than 1"] * 2


def test_a_refusal_says_whose_weights_the_model_has_and_why():
    record = refused("soup", Monitor("val_loss"), Candidate("epoch 3", 0.5), "it was cut short")
    assert not record.accepted and record.value == record.best == 0.5 and not record.trials
    assert "epoch 3: it was cut short" in str(record)
    assert "only a is kept" in str(choose("soup", [Candidate("a", 1.0)], 1.0, None, Monitor("m")))


@pytest.mark.parametrize(
    ("average", "k", "match"),
    [
        ("soups", 5, "'soup', 'mean'.*'soups'"),
        (True, 5, "True"),
        ("soup", 1, "at least 2.*1"),
        ("soup", True, "True"),
        ("mean", 2.5, "whole number"),
    ],
)
def test_arguments_that_cannot_work_are_refused(average, k, match):
    with pytest.raises(ConfigError, match=match):
        check_average(average, k)


def test_arguments_that_can_work_are_taken():
    for average in (None, "soup", "mean"):
        check_average(average, 2)


def test_one_moment_under_two_names_has_one_vote():
    def info(name, epoch, value, **more):
        position = Position(epoch, 0, epoch * 10)
        fields = {"has_manifest": True, "position": position, "metrics": {"val_loss": value}}
        return CheckpointInfo(name, f"/runs/{name}", **{**fields, **more})

    files = [
        info("best.keras", 3, 0.1),
        info("epoch-03.keras", 3, 0.1),
        info("other-model.keras", 3, 0.1, fingerprint="f"),
        info("epoch-02.keras", 2, 0.1),
        info("plain-a.keras", 0, 0, has_manifest=False, metrics={}),
        info("plain-b.keras", 0, 0, has_manifest=False, metrics={}),
    ]
    names = [info.name for info in distinct(files)]
    assert names == [f.name for f in files if f.name != "epoch-03.keras"]


def test_a_mean_that_nobody_measured_says_so():
    record = unmeasured("mean", "val_loss", [Candidate("a", 1.0), Candidate("b", 2.0)])
    assert math.isnan(record.value) and record.accepted and record.best == 1.0
    assert str(record) == "the mean of a, b, not measured"
