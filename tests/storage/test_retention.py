"""Retention: what a plan keeps, and checkpoints under everything that can happen to them."""

import itertools
import math
import os
import shutil
import tempfile
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.faults import CRASHES, Crash, FaultDisk, reboot
from support.scenarios import content, is_ours, save

from keras_ratchet._storage import disk, single_file
from keras_ratchet._storage.listing import checkpoints, pin, unpin
from keras_ratchet._storage.verify import verify
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.retention import (
    KeepBest,
    KeepEvery,
    KeepLast,
    KeepNewer,
    Ranking,
    combined,
    plan,
)
from keras_ratchet.types import CheckpointInfo, Position

NOW = 1000.0
VALUES = st.one_of(
    st.sampled_from([0.0, 0.1, 0.2, 1.0, -1.0]), st.floats(allow_nan=True, allow_infinity=True)
)
METRICS = st.dictionaries(st.sampled_from(["val_loss", "val_accuracy"]), VALUES)
RANKINGS = st.builds(
    Ranking,
    st.lists(
        st.tuples(st.sampled_from(["val_loss", "val_accuracy"]), st.sampled_from(["min", "max"])),
        min_size=1,
        max_size=2,
    ).map(tuple),
    st.sampled_from(["earlier", "later"]),
)
RULE = st.one_of(
    st.builds(KeepBest, st.integers(1, 4)),
    st.builds(KeepLast, st.integers(1, 4)),
    st.builds(KeepEvery, st.integers(1, 5)),
    st.builds(KeepNewer, st.floats(0.1, 500)),
)


def union(rules):
    first, *rest = rules
    for another in rest:
        first = first | another
    return first


RULES = st.lists(RULE, min_size=1, max_size=4).map(union)


FACTS = st.tuples(
    st.integers(500, 1000),
    st.integers(0, 20),
    st.sampled_from([0, 0, 3]),
    METRICS,
    st.sampled_from([(True, False), (True, False), (True, True), (False, False), (False, True)]),
)


def named(facts):
    return [
        CheckpointInfo(
            f"ckpt-{number}",
            f"/runs/ckpt-{number}",
            manifest,
            position=Position(epoch, batch),
            metrics=metrics,
            saved_at=float(saved_at),
            pinned=pinned,
        )
        for number, (saved_at, epoch, batch, metrics, (manifest, pinned)) in enumerate(facts)
    ]


def snapshot_lists():
    return st.lists(FACTS, max_size=8).map(named)


def kept(decisions):
    return {decision.checkpoint.name for decision in decisions if decision.keep}


def newest(snapshots):
    """Oracle: the name of the newest of those that we saved, or None."""
    ours = [s for s in snapshots if s.has_manifest]
    order = {s.name: (s.saved_at, s.position.epoch, s.position.batch) for s in ours}
    return max(order.values(), default=None), order


def better(a, b, ranking):
    """Oracle: whether `a` is strictly better than `b`, metric by metric."""
    for name, mode in ranking.metrics:
        x, y = a.metrics.get(name), b.metrics.get(name)
        known = [v is not None and not math.isnan(v) for v in (x, y)]
        if known == [True, True]:
            if x != y:
                return x < y if mode == "min" else x > y
            continue
        if known[0] != known[1]:
            return known[0]
        if (x is None) != (y is None):
            return y is None
    when_a = (a.saved_at, a.position.epoch, a.position.batch)
    when_b = (b.saved_at, b.position.epoch, b.position.batch)
    return when_a < when_b if ranking.ties == "earlier" else when_a > when_b


@given(snapshot_lists(), RULES, RANKINGS, st.sampled_from([None, "ckpt-0", "ckpt-1", "gone"]))
def test_a_plan_decides_about_each_checkpoint_once_and_says_why(found, rules, ranking, resumed):
    decisions = plan(found, rules, ranking, NOW, resumed)
    assert sorted(d.checkpoint.name for d in decisions) == [s.name for s in found]
    assert all(decision.reason for decision in decisions)
    ages = [(d.checkpoint.saved_at, d.checkpoint.position.epoch) for d in decisions]
    assert ages == sorted(ages)


@given(snapshot_lists(), RULES, RANKINGS, st.sampled_from([None, "ckpt-0", "ckpt-1"]))
def test_best_newest_pinned_resumed_and_unknown_ones_always_stay(found, rules, ranking, resumed):
    stay = kept(plan(found, rules, ranking, NOW, resumed))
    assert {s.name for s in found if s.pinned or not s.has_manifest or s.name == resumed} <= stay
    latest, order = newest(found)
    assert not order or any(order[name] == latest for name in stay & order.keys())
    rated = [s for s in found if s.has_manifest and ranking.metrics[0][0] in s.metrics]
    best = [s for s in rated if not any(better(other, s, ranking) for other in rated)]
    assert not rated or {s.name for s in best} & stay


@given(snapshot_lists(), RULES, RANKINGS, st.sampled_from([None, "ckpt-0"]))
def test_planning_for_what_was_kept_keeps_all_of_it(found, rules, ranking, resumed):
    stay = kept(plan(found, rules, ranking, NOW, resumed))
    again = plan([s for s in found if s.name in stay], rules, ranking, NOW, resumed)
    assert kept(again) == stay


@given(snapshot_lists(), RULES, RULES, RANKINGS)
def test_rules_combined_keep_what_each_of_them_keeps(found, one, other, ranking):
    together = kept(plan(found, one | other, ranking, NOW))
    assert together == kept(plan(found, one, ranking, NOW)) | kept(plan(found, other, ranking, NOW))


@given(snapshot_lists(), RULES, RANKINGS, st.randoms())
def test_a_plan_does_not_depend_on_the_order_of_the_list(found, rules, ranking, rng):
    assume(len({(s.saved_at, s.position.epoch, s.position.batch) for s in found}) == len(found))
    shuffled = list(found)
    rng.shuffle(shuffled)
    assert plan(shuffled, rules, ranking, NOW) == plan(found, rules, ranking, NOW)


@given(snapshot_lists(), RANKINGS)
def test_the_order_from_best_to_worst_is_that_of_the_oracle(found, ranking):
    order = ranking.sort(found)
    assert all(not better(b, a, ranking) for a, b in itertools.pairwise(order))


@given(snapshot_lists(), st.integers(1, 4), RANKINGS)
def test_keep_best_keeps_the_k_best_and_keep_last_the_n_newest(found, k, ranking):
    ours = [replace(s, has_manifest=True, pinned=False, metrics={"val_loss": 0.0} | s.metrics)
            for s in found]  # fmt: skip
    ranking = replace(ranking, metrics=(("val_loss", "min"),))
    best = {s.name for s in ranking.sort(ours)[:k]}
    stay = kept(plan(ours, KeepBest(k), ranking, NOW))
    assert best <= stay
    assert len(stay) <= min(len(ours), k + 1)
    assert len(kept(plan(ours, KeepLast(k), ranking, NOW))) <= min(len(ours), k + 1)


def made(name, epoch, **metrics):
    return CheckpointInfo(
        name, f"/{name}", True, position=Position(epoch), metrics=metrics, saved_at=float(epoch)
    )


def test_nan_ranks_behind_every_number_and_a_missing_metric_behind_that():
    found = [
        made("missing", 1, other=0.0),
        made("nan", 2, val_loss=math.nan),
        made("infinite", 3, val_loss=math.inf),
        made("good", 4, val_loss=0.5),
    ]
    for mode, first in (("min", "good"), ("max", "infinite")):
        order = [s.name for s in Ranking((("val_loss", mode),)).sort(found)]
        assert order[0] == first
        assert order[-1] == "nan"
        assert "missing" not in order
    only_nan = plan(found[:2], KeepBest(), Ranking((("val_loss", "min"),)), NOW)
    assert kept(only_nan) == {"nan"}


def test_of_equals_the_earlier_or_the_later_is_better():
    found = [made("first", 1, val_loss=0.5), made("second", 2, val_loss=0.5), made("bad", 3)]
    metrics = (("val_loss", "min"),)
    assert Ranking(metrics, "earlier").sort(found)[0].name == "first"
    assert Ranking(metrics, "later").sort(found)[0].name == "second"
    assert not Ranking(metrics, "earlier").beats({"val_loss": 0.5}, {"val_loss": 0.5})
    assert Ranking(metrics, "later").beats({"val_loss": 0.5}, {"val_loss": 0.5})


def test_a_second_metric_decides_between_equals_in_the_first():
    found = [
        made("dull", 1, val_accuracy=0.9, val_loss=0.4),
        made("sharp", 2, val_accuracy=0.9, val_loss=0.3),
        made("worse", 3, val_accuracy=0.8, val_loss=0.1),
    ]
    ranking = Ranking((("val_accuracy", "max"), ("val_loss", "min")))
    assert [s.name for s in ranking.sort(found)] == ["sharp", "dull", "worse"]
    assert ranking.beats(found[1].metrics, found[0].metrics)
    assert not ranking.beats(found[2].metrics, found[0].metrics)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2"])
def test_a_count_that_cannot_work_is_an_error_when_it_is_given(wrong):
    for name in ("keep_best", "keep_last", "keep_every"):
        with pytest.raises(ConfigError, match=name):
            combined(**{name: wrong})


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan])
def test_an_age_that_cannot_work_is_an_error_when_it_is_given(wrong):
    with pytest.raises(ConfigError, match="keep_for_s"):
        combined(keep_for_s=wrong)


NAMES = [f"ckpt-{number}.keras" for number in range(4)]


class Checkpoints(RuleBasedStateMachine):
    """Save, pin, unpin, delete, drop; crash or lose power at any call of any of them; reopen.

    `versions` and `pinned` are what must be there.
    """

    def __init__(self):
        super().__init__()
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.root = tempfile.mkdtemp(dir=place)
        self.disk = disk.current = FaultDisk(self.root)
        self.versions, self.pinned, self.next = {}, set(), 1

    def teardown(self):
        disk.current = disk.Disk()
        reboot(self.root)
        shutil.rmtree(self.root)

    @rule(name=st.sampled_from(NAMES))
    def save(self, name):
        version, self.next = self.next, self.next + 1
        self._do(lambda: save(self.root, name, version), self.versions | {name: version})

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def delete(self, data):
        name = data.draw(st.sampled_from(sorted(self.versions)))
        after = {n: v for n, v in self.versions.items() if n != name}
        self._do(lambda: single_file.delete_file(self._path(name)), after)

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def pin(self, data):
        name = data.draw(st.sampled_from(sorted(self.versions)))
        self._do(lambda: pin(self._path(name)), self.versions, self.pinned | {name})

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data):
        name = data.draw(st.sampled_from(sorted(self.pinned)))
        self._do(lambda: unpin(self._path(name)), self.versions, self.pinned - {name})

    @precondition(lambda self: self.versions)
    @rule(n=st.integers(1, 3))
    def drop(self, n):
        """Drop what KeepLast does not keep, oldest first."""
        decisions = plan(checkpoints(self.root), KeepLast(n), Ranking(()), NOW)
        for decision in decisions:
            if not decision.keep and decision.checkpoint.name in self.versions:
                assert decision.checkpoint.name not in self.pinned
                name = decision.checkpoint.name
                after = {k: v for k, v in self.versions.items() if k != name}
                self._do(lambda name=name: single_file.delete_file(self._path(name)), after)

    @rule(mode=st.sampled_from(CRASHES), at=st.integers(1, 24))
    def arm(self, mode, at):
        """Let one of the next calls be the last one."""
        self.disk.arm(mode, at)

    @rule()
    def reopen(self):
        self._do(lambda: single_file.sweep(self.root, is_ours), self.versions)

    @invariant()
    def what_is_there_is_what_was_saved(self):
        assert self._actual() == (self.versions, self.pinned)
        for name in self.versions:
            assert verify(self._path(name)), verify(self._path(name)).problem

    def _path(self, name):
        return os.path.join(self.root, name)

    def _do(self, act, versions, pinned=None):
        """Do something; after a crash, either it or nothing has happened."""
        pinned = {n for n in self.pinned if n in versions} if pinned is None else pinned
        possible = [(versions, pinned)]
        try:
            act()
        except Crash:
            possible.append((self.versions, self.pinned))
            self._start_again()
        assert self._actual() in possible
        self.versions, self.pinned = self._actual()

    def _start_again(self):
        self.disk.restart()
        reboot(self.root)
        single_file.sweep(self.root, is_ours)
        names = [name for _, _, found in os.walk(self.root) for name in found]
        assert not [name for name in names if name.startswith((".draft-", ".trash-"))]

    def _actual(self):
        by_content = {content(v): v for v in range(1, self.next)}
        found = {}
        for name in filter(is_ours, os.listdir(self.root)):
            with open(self._path(name), "rb") as file:
                found[name] = by_content.get(file.read(), "?")
        return found, {
            name for name in found if os.path.exists(single_file.pin_path(self._path(name)))
        }


Checkpoints.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestCheckpointsUnderCrashes = Checkpoints.TestCase
