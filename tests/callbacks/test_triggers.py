"""What saves by the clock cost, on a clock of our own: steps that vary, and saves of known cost.

While a save is written, training progresses more slowly by a known share. So the true cost of all
saves is known here, and the schedule, which only sees when steps end, must find it out.
"""

import random
from dataclasses import dataclass
from statistics import fmean, median
from types import SimpleNamespace

import pytest

from keras_ratchet.callbacks import _schedule
from keras_ratchet.callbacks._schedule import Schedule
from keras_ratchet.policy.schedule import Interval, daly

STEPS_S = [0.003, 0.03, 0.3]
VALIDATION = 100  # steps long, after each 200 steps

# how long step number i takes, in seconds; s: the usual time, part: how much of the run is done
STEPS = {
    "all alike": lambda rng, i, s, part: s,
    "a little noise": lambda rng, i, s, part: s * rng.gauss(1, 0.05),
    "much noise": lambda rng, i, s, part: s * rng.lognormvariate(0, 0.3),
    "lengths differ": lambda rng, i, s, part: s * rng.choice([0.5, 1.0, 1.5, 2.0]),
    "garbage is collected": lambda rng, i, s, part: s + 0.02 * (rng.random() < 0.05),
    "the first compiles": lambda rng, i, s, part: s * rng.gauss(1, 0.05) + 5 * (i == 0),
    "two compile": lambda rng, i, s, part: s * rng.gauss(1, 0.05) + 5 * (i in {0, 40}),
    "slower by and by": lambda rng, i, s, part: s * rng.gauss(1, 0.05) * (1 + part),
    "faster by and by": lambda rng, i, s, part: s * rng.gauss(1, 0.05) * (1 - part / 2),
    "fast and slow": lambda rng, i, s, part: s * rng.gauss(1, 0.05) * (1 + 0.3 * (i // 50 % 2)),
    "epochs with validation": lambda rng, i, s, part: s * rng.gauss(1, 0.05),
}


@dataclass(frozen=True)
class Save:
    """What a save does: hold training up, then be written while training is slower by a share."""

    hook_s: float
    write_s: float = 0.0
    slower: float = 0.0

    @property
    def cost_s(self):
        return self.hook_s + self.write_s * self.slower


SAVES = {
    "all in the hook": Save(0.12),
    "most in the hook": Save(0.1, 0.1, 0.2),
    "most in slower steps": Save(0.02, 0.3, 0.3),
    "slow disk": Save(0.05, 1.2, 0.2),
    "as if nothing ran but the write": Save(0.002, 0.2, 0.9),
}


class Training:
    """A run with saves by the clock; its first save is at its start, as that of BackupAndRestore.

    Attributes:
        lost_s: What saves have truly cost so far.
        saved_at: When each save began.
    """

    def __init__(self, interval, step_s, steps, save, seed=0):
        self.now = self.lost_s = 0.0
        self.written_at = -1.0
        self.saved_at = []
        self.save = save
        self.step_s = step_s
        self.steps = steps
        self.rng = random.Random(seed)
        self.schedule = Schedule(None, interval, lambda: self.now)

    def run(self, seconds):
        n = round(seconds / self.step_s)
        self._save()
        for i in range(n):
            if self.steps == "epochs with validation" and i and i % 200 == 0:
                self.now += VALIDATION * self.step_s
                self.schedule.start_epoch()
            self._step(STEPS[self.steps](self.rng, i, self.step_s, i / n))
            if self.schedule.check(1):
                self._save()
        return self

    def _writer(self):
        busy = self.now < self.written_at
        return SimpleNamespace(busy=busy, is_saving=busy)

    def _step(self, work_s):
        left_s = max(0.0, self.written_at - self.now)
        took_s = work_s / (1 - self.save.slower)
        if took_s > left_s:
            took_s = work_s + left_s * self.save.slower
        self.lost_s += took_s - work_s
        was_busy = self.now < self.written_at
        self.now += took_s
        self.schedule.step(self._writer())
        if was_busy and self.now >= self.written_at:
            self.schedule.persisted(self.save.hook_s + self.save.write_s)

    def _save(self):
        assert self.now >= self.written_at, "a save was due while the one before was being written"
        began = self.schedule.start_save()
        self.saved_at.append(began)
        self.now += self.save.hook_s
        self.lost_s += self.save.hook_s
        self.written_at = self.now + self.save.write_s if self.save.write_s else -1.0
        self.schedule.saved(began, self._writer())

    @property
    def overhead(self):
        return self.lost_s / self.now

    @property
    def gaps(self):
        return [b - a for a, b in zip(self.saved_at, self.saved_at[1:], strict=False)]


def overhead(step_s, steps, save):
    """Return the mean overhead of runs at 3.5 %; where steps are short, with smaller saves."""
    scale, runs = {0.003: (0.25, 1), 0.03: (1.0, 2), 0.3: (1.0, 10)}[step_s]
    save = Save(save.hook_s * scale, save.write_s * scale, save.slower)
    found = []
    for seed in range(runs):
        training = Training(Interval(overhead=0.035), step_s, steps, save, seed)
        training.run(50 * save.cost_s / 0.035)
        assert min(training.gaps) >= save.hook_s + save.write_s
        found.append(training.overhead)
    return fmean(found)


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("steps", STEPS)
def test_saves_cost_about_what_was_asked_for(steps, step_s):
    found = {name: overhead(step_s, steps, save) / 0.035 for name, save in SAVES.items()}
    assert {name: share for name, share in found.items() if not 0.5 <= share <= 1.15} == {}


def ignores_slower_steps(took_s, steps, others_s, longest_s):
    return 0.0


def adds_up_the_longer_ones(took_s, steps, others_s, longest_s):
    usual_s = fmean(others_s)
    return sum(max(0.0, s - usual_s) for s in others_s) * steps / len(others_s)


def cuts_nothing_off(took_s, steps, others_s, longest_s):
    return took_s - steps * fmean(others_s)


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ("all alike", ignores_slower_steps),
        ("lengths differ", adds_up_the_longer_ones),
        ("two compile", cuts_nothing_off),
    ],
)
def test_a_schedule_that_measures_wrongly_is_found_out(steps, wrong, monkeypatch):
    monkeypatch.setattr(_schedule, "slowdown", wrong)
    shares = [overhead(0.003, steps, save) / 0.035 for save in SAVES.values()]
    assert not all(0.5 <= share <= 1.15 for share in shares)


@pytest.mark.parametrize("step_s", STEPS_S)
@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_every_s_is_kept_within_a_step(save, step_s):
    training = Training(Interval(every_s=10.0), step_s, "a little noise", save).run(150)
    late = [gap - 10.0 for gap in training.gaps]
    assert len(late) > 10 and min(late) >= 0
    assert max(late) <= 1.3 * step_s


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
@pytest.mark.parametrize("step_s", STEPS_S)
def test_mtbf_s_saves_at_dalys_interval_for_the_true_cost(step_s, save):
    training = Training(Interval(mtbf_s=3600), step_s, "a little noise", save)
    training.run(10 * daly(save.cost_s, 3600))
    expected = save.cost_s + daly(save.cost_s, 3600)
    assert median(training.gaps) == pytest.approx(expected, rel=0.1, abs=1.5 * step_s)


@pytest.mark.parametrize("interval", [Interval(overhead=0.05), Interval(mtbf_s=100)])
def test_an_upload_that_hangs_keeps_no_save_from_the_disk(interval):
    training = Training(interval, 0.1, "even", Save(0.1, 0.2, 0.1))
    training._writer = lambda: SimpleNamespace(
        busy=True, is_saving=training.now < training.written_at
    )
    training._save()
    for _ in range(1000):
        training._step(0.1)
        if training.schedule.check(1):
            training._save()
    assert len(training.saved_at) > 5
