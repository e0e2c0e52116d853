"""How a training ends does not depend on whether it was killed and resumed.

A case is a function that makes the callbacks of one run, and is listed with `@case`: what they
remember, and what they end with, has to be the same bit by bit after two kills, and the kind of
ending is given, so that a case cannot pass by not ending at all.
"""

from dataclasses import dataclass, field

import keras
import pytest
from support.models import Curve
from support.resuming import PER_EPOCH, Kill, Script, arrays
from support.sources import numpy_arrays

from keras_ratchet import EarlyStopping
from keras_ratchet.callbacks import _logs
from keras_ratchet.callbacks._stop_rule import CriterionRun
from keras_ratchet.policy import (
    AfterEpochs,
    AfterSeconds,
    AfterSteps,
    Criterion,
    NotFinite,
    Patience,
    Reaches,
    Smoothed,
    Verdict,
)
from keras_ratchet.policy.experimental import SignificantImprovement

CASES = []


@dataclass(frozen=True)
class Case:
    """One way to end a training.

    Args:
        make: Returns the callbacks of a run, given a folder of its own.
        ends: Returns what the run ended with, given those callbacks.
        expected: What `ends` has to return.
        fit: Arguments of `fit`.
        kills: After how many batches the run is killed, again and again.
    """

    make: object
    ends: object
    expected: object
    fit: dict = field(default_factory=dict)
    kills: tuple = (17, 26)

    def goes_on_after_the_kills(self, outcome):
        return PER_EPOCH * outcome.epochs[-1] > max(self.kills)

    def run(self, folder, *kills, **saves):
        """Run in a folder of its own, killed and resumed; return the outcome."""
        folder.mkdir()
        script = Script(
            str(folder / "backup"),
            numpy_arrays,
            callbacks=lambda: self.make(folder),
            fit={"epochs": 8, "validation_data": arrays(), "validation_batch_size": 8, **self.fit},
        )
        return script.chain(*map(Kill, kills), **saves)


def case(ends, expected, **options):
    """List the function as a case."""

    def register(make):
        CASES.append(pytest.param(Case(make, ends, expected, **options), id=make.__name__))
        return make

    return register


@pytest.fixture(autouse=True)
def the_clock_stands_still(monkeypatch):
    """So that what is remembered can be compared as a whole."""
    monkeypatch.setattr(_logs, "_now_s", lambda: 1e6)


SAVES = [{"save_freq": 3}, {"save_freq": "epoch"}]


@pytest.mark.parametrize("saves", SAVES, ids=["mid", "epoch"])
@pytest.mark.parametrize("case", CASES)
def test_a_killed_and_resumed_run_ends_as_the_uninterrupted_one(case, saves, tmp_path):
    whole = case.run(tmp_path / "whole", **saves)
    cut = case.run(tmp_path / "cut", *case.kills, **saves)
    assert cut.differences(whole) == []
    assert case.ends(whole.callbacks) == case.expected
    assert case.goes_on_after_the_kills(whole)
    assert memory(cut.callbacks) == memory(whole.callbacks)


def memory(callbacks):
    """Return all that the callbacks would hand to the next run."""
    return [repr(c.state_dict()) for c in callbacks if hasattr(c, "state_dict")]


# Stopping by criteria


def stop(callbacks):
    reason = next(c.stop_reason for c in callbacks if isinstance(c, EarlyStopping))
    return None if reason is None else ("+".join(reason.kinds), reason.epoch)


def stopper(criterion):
    return EarlyStopping(criterion=criterion, restore_best_weights=True)


CURVE = [1.0, 0.5, 0.7, 0.6, 0.65, 0.7, 0.8, 0.9]  # dictated: each backend trains differently


class Counts(Criterion):
    """A user's own: says yes to the fourth value above 0.6."""

    def initial(self):
        return {"high": [], "least": float("inf")}

    def check(self, state, moment):
        loss = moment.metrics["val_loss"]
        high = state["high"] + [loss] * (loss > 0.6)
        after = {"high": high, "least": min(loss, state["least"])}
        return after, Verdict(len(high) >= 4, "counts", f"{high} are above 0.6")


@case(stop, ("patience+goal", 6))
def a_composed_criterion(folder):
    """The averages are 1, 0.75, 0.725, 0.663, 0.656, 0.678, 0.739: the fifth is the least."""
    rule = Patience(2, Smoothed("val_loss", 0.5)) & ~Reaches("val_accuracy", 2.0)
    return [Curve(val_loss=CURVE), stopper(rule | NotFinite() | AfterEpochs(99))]


@case(stop, ("steps", 4))
def a_number_of_steps(folder):
    return [stopper(AfterSteps(4 * PER_EPOCH + 3) | Patience("auto"))]


@case(stop, ("significance", 4))
def the_noise_of_the_validation(folder):
    """So many standard errors no improvement is, whatever the backend makes of the training."""
    return [stopper(SignificantImprovement(c=1e6, limit=4) | AfterEpochs(99))]


@case(stop, ("counts", 5))
def a_criterion_of_ones_own(folder):
    return [Curve(val_loss=CURVE), stopper(Counts() | Patience(9))]


class Clock(keras.callbacks.Callback):
    """A second passes with each batch; each process begins at another time."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.now_s = 1e6
        monkeypatch.setattr(_logs, "_now_s", lambda: self.now_s)

    def on_train_begin(self, logs=None):
        self.now_s += 5e5

    def on_train_batch_end(self, batch, logs=None):
        self.now_s += 1.0

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("saves", SAVES, ids=["mid", "epoch"])
def test_the_time_before_the_kill_counts(saves, tmp_path, monkeypatch):
    """With saves at epochs' ends the lost batches are trained, and take their time, again."""
    rule = AfterSeconds(3 * PER_EPOCH + 4.0) | Patience(9)
    timed = Case(lambda folder: [Clock(monkeypatch), stopper(rule)], stop, ("seconds", 3))
    whole = timed.run(tmp_path / "whole", **saves)
    cut = timed.run(tmp_path / "cut", *timed.kills, **saves)
    assert cut.differences(whole) == []
    for outcome in (whole, cut):
        reason = outcome.callbacks[1].stop_reason
        assert (reason.kind, reason.epoch) == ("seconds", 3)
        assert str(reason) == "40.0 of 34 s have passed"


@pytest.mark.parametrize("part", ["criterion", "measures"])
def test_without_its_memory_a_criterion_ends_the_run_elsewhere(part, tmp_path, monkeypatch):
    """The negative control: what the state holds is what makes the runs equal."""
    load = CriterionRun.load_state_dict

    def forgetful(self, state):
        before = self._state
        if part == "measures":
            fresh = self._progress.state_dict()
            return load(self, {**state, "measures": fresh})
        load(self, state)
        self._state = before

    chosen = {"criterion": a_composed_criterion, "measures": a_number_of_steps}[part]
    found = next(c.values[0] for c in CASES if c.values[0].make is chosen)
    monkeypatch.setattr(CriterionRun, "load_state_dict", forgetful)
    cut = found.run(tmp_path / "cut", *found.kills, save_freq=3)
    assert found.ends(cut.callbacks) != found.expected


def test_a_criterion_that_is_put_together_differently_begins_without_memory(tmp_path):
    def stopper(criterion):
        return EarlyStopping(criterion=criterion)

    script = Script(str(tmp_path / "b"), numpy_arrays, callbacks=lambda: [stopper(before)])
    before, after = Patience(9, "accuracy"), Patience(9, "accuracy") | AfterEpochs(2)
    script.run(Kill(15), save_freq=3)
    script.callbacks = lambda: [stopper(after)]
    with pytest.warns(UserWarning, match=r"is AnyOf\(Patience, AfterEpochs\) and was Patience"):
        outcome = script.run(save_freq=3)
    assert stop(outcome.callbacks) == ("epochs", 1)


@pytest.mark.filterwarnings("ignore:EarlyStopping. no .val_loss. yet")
def test_the_numbers_of_a_criterion_are_the_scripts_to_decide(tmp_path):
    late = {"validation_data": arrays(), "validation_freq": 9}
    script = Script(str(tmp_path / "b"), numpy_arrays, fit=late)
    script.callbacks = lambda: [stopper(AfterSteps(99))]
    script.run(Kill(15), save_freq=3)
    script.callbacks = lambda: [stopper(AfterSteps(20))]
    with pytest.warns(UserWarning, match="restore_best_weights: val_loss never came"):
        outcome = script.run(save_freq=3)
    assert str(outcome.callbacks[0].stop_reason) == "20 of 20 steps are done"
