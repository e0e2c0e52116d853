"""Stop after a number of epochs, steps or seconds."""

from __future__ import annotations

from dataclasses import dataclass

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import whole_number
from keras_ratchet.policy.criterion import MISSING, Criterion, State
from keras_ratchet.types import Moment, Verdict


@dataclass(frozen=True, slots=True)
class AfterEpochs(Criterion):
    """Stop when this many epochs are done, those before a restart included.

    Args:
        epochs: At least 1.

    Example:
        >>> from keras_ratchet.types import Position
        >>> AfterEpochs(50).check(None, Moment(Position(49)))[1].reason
        '49 of 50 epochs are done'
    """

    epochs: int

    def __post_init__(self) -> None:
        whole_number("epochs of AfterEpochs", self.epochs, at_least=1)

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account."""
        return state, _spent("epochs", moment.position.epoch, self.epochs)


@dataclass(frozen=True, slots=True)
class AfterSteps(Criterion):
    """Stop at the end of the epoch in which this many steps (batches) are done in all.

    A moment without a count of steps is undecided; EarlyStopping counts them if this criterion is
    used.

    Args:
        steps: At least 1.

    Example:
        >>> from keras_ratchet.types import Position
        >>> AfterSteps(1000).check(None, Moment(Position(3, step=1200)))[1].reason
        '1200 of 1000 steps are done'
    """

    steps: int

    def __post_init__(self) -> None:
        whole_number("steps of AfterSteps", self.steps, at_least=1)

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account."""
        if moment.position.step is None:
            return state, Verdict(False, MISSING, "the steps are not counted")
        return state, _spent("steps", moment.position.step, self.steps)

    def needs(self) -> frozenset[str]:
        """Return "steps": they have to be counted."""
        return frozenset({"steps"})


@dataclass(frozen=True, slots=True)
class AfterSeconds(Criterion):
    """Stop at the end of the epoch in which this much time of training has passed.

    EarlyStopping counts from the start of training. After a resume the time before it counts too;
    what was lost between the last snapshot and a kill does not. A moment without a time is
    undecided.

    Args:
        seconds: Above 0.

    Example:
        >>> from keras_ratchet.types import Position
        >>> AfterSeconds(3600).check(None, Moment(Position(3), time_s=3605.5))[1].reason
        '3605.5 of 3600 s have passed'
    """

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ConfigError(f"AfterSeconds takes a number above 0. Got: {self.seconds!r}.")

    def check(self, state: State, moment: Moment) -> tuple[State, Verdict]:
        """Take one moment into account."""
        if moment.time_s is None:
            return state, Verdict(False, MISSING, "the time is not known")
        reason = f"{moment.time_s:.1f} of {self.seconds:g} s have passed"
        values = {"seconds": moment.time_s}
        return state, Verdict(moment.time_s >= self.seconds, "seconds", reason, values)


def _spent(what: str, done: int, budget: int) -> Verdict:
    reason = f"{done} of {budget} {what} are done"
    return Verdict(done >= budget, what, reason, {what: float(done)})
