"""Intervals between saves: the longest of what is asked for; Daly's figures; a clock of our own."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet.callbacks._schedule import Schedule
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.schedule import Cost, EveryBatches, Interval, daly, interval_of

seconds = st.floats(0.01, 1e6)
costs = st.builds(Cost, st.floats(0, 1e4), st.floats(0, 1e4))


@pytest.mark.parametrize(("hours", "minutes"), [(24, 117), (6, 57), (0.25, 9.1)])
def test_dalys_interval_is_the_published_one_for_a_save_of_five_minutes(hours, minutes):
    assert daly(5, hours * 60) == pytest.approx(minutes, abs=0.5)
    assert daly(300, hours * 3600) == pytest.approx(60 * daly(5, hours * 60))


def expected_cost(interval, save, mtbf):
    """Return wall time over useful time when failures come at random (Daly's equation 20)."""
    return mtbf / interval * (math.exp((interval + save) / mtbf) - 1)


@given(save=st.floats(0.01, 10), mtbf=st.floats(30, 1e5))
def test_no_other_interval_is_much_better_than_dalys(save, mtbf):
    best = expected_cost(daly(save, mtbf), save, mtbf)
    others = [expected_cost(daly(save, mtbf) * f, save, mtbf) for f in (0.25, 0.5, 2, 4)]
    assert best <= min(others)


@given(
    every=st.none() | seconds,
    share=st.none() | st.floats(0.001, 0.9),
    mtbf=st.none() | seconds,
    cost=costs,
)
def test_the_interval_is_the_longest_of_what_is_asked_for(every, share, mtbf, cost):
    if every is share is mtbf is None:
        with pytest.raises(ConfigError, match="one of every_s"):
            Interval()
        assert interval_of(None, None, None) is None
        return
    wanted = [cost.persist_s, every or 0, cost.blocked_s / share if share else 0]
    wanted += [cost.blocked_s + daly(cost.blocked_s, mtbf)] if mtbf else []  # from start to start
    interval = Interval(every, share, mtbf)
    assert interval.seconds(cost) == max(wanted)
    assert interval.check(max(wanted), cost)
    assert not interval.check(max(wanted) * 0.999 - 1e-9, cost)


@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, True, "600"])
@pytest.mark.parametrize("name", ["every_s", "mtbf_s"])
def test_seconds_that_are_none_are_refused_with_the_value(name, bad):
    with pytest.raises(
        ConfigError, match=f"{name} must be a number of seconds above 0. Got: {bad!r}"
    ):
        Interval(**{name: bad})


@pytest.mark.parametrize("bad", [0, 1, 3.5, -0.1, math.nan, True, "3%"])
def test_a_share_that_is_none_is_refused_with_the_value(bad):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Interval(overhead=bad)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def writer(busy):
    return SimpleNamespace(busy=busy, is_saving=busy)


class Training:
    """Steps of one second, and saves that cost what is said, on a clock of their own."""

    def __init__(self, interval, batches=None):
        self.clock = Clock()
        self.pace = Schedule(batches and EveryBatches(batches), interval, self.clock)
        self.saved_at = []
        self.lost_s = 0.0

    def run(self, steps, hook_s=0.0, slower_s=0.0, slow_steps=0, persist_s=0.0):
        """Train; a save holds training up for `hook_s`, and slows the steps after it down."""
        slow = 0
        for _ in range(steps):
            self.clock.now += 1 + (slower_s if slow else 0)
            self.lost_s += slower_s if slow else 0
            slow -= slow > 0
            self.pace.step(writer(slow > 0))
            if self.pace.check(1):
                began = self.pace.start_save()
                self.saved_at.append(began)
                self.clock.now += hook_s
                self.lost_s += hook_s
                self.pace.saved(began, writer(slow_steps > 0))
                self.pace.persisted(max(persist_s, hook_s + slow_steps))
                slow = slow_steps


def test_every_s_saves_when_so_many_seconds_have_passed():
    training = Training(Interval(every_s=10))
    training.run(100)
    assert training.saved_at == [10.0 * i for i in range(1, 11)]


def test_no_two_saves_are_closer_than_one_takes_to_reach_the_disk():
    training = Training(Interval(every_s=3))
    training.run(100, persist_s=20)
    gaps = [b - a for a, b in zip(training.saved_at, training.saved_at[1:], strict=False)]
    assert training.saved_at[0] == 3 and min(gaps) == 20


@pytest.mark.parametrize("cost", [{"hook_s": 2.0}, {"slower_s": 0.5, "slow_steps": 4}])
def test_saves_cost_no_more_than_the_share_that_was_allowed(cost):
    training = Training(Interval(overhead=0.05))
    training.run(2000, **cost)
    assert len(training.saved_at) >= 20
    assert training.lost_s / training.clock.now <= 0.055  # the first save's cost is not known


def test_the_share_is_kept_when_saves_become_dearer_and_cheaper():
    training = Training(Interval(overhead=0.05))
    counts = []
    for hook_s in (0.5, 5.0, 0.5):
        before = len(training.saved_at)
        training.run(1000, hook_s=hook_s)
        counts.append(len(training.saved_at) - before)
    assert counts[1] < counts[0] / 5 and counts[2] > counts[1] * 5


def test_batches_and_seconds_may_both_ask_for_saves():
    training = Training(Interval(every_s=7), batches=10)
    training.run(20)
    assert training.saved_at == [7, 10, 17, 20]
