"""What is compared: when to stop, and which weights to end with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from keras_ratchet.policy import AfterEpochs, Criterion, Patience, Smoothed
from keras_ratchet.policy.experimental import (
    GeneralizationLoss,
    ProgressQuotient,
    SignificantImprovement,
    UpStrips,
)
from keras_ratchet.policy.soup import Average

BUDGET = 200  # epochs
Restores = Literal["best", "best by min_delta", "last", "refit, epochs", "refit, steps"]


@dataclass(frozen=True, slots=True)
class Rule:
    """When to stop and which weights to end with.

    Attributes:
        name: Its name in the tables.
        criterion: When to stop.
        restores: Which weights to end with; an `average` comes on top of "best".
        average: "soup" or "mean" of the best epochs, or None.
        k: How many epochs may go into the average.
        front: Whether it is a point of the front that others are compared with.
        against: The name of the rule that stops in the same epoch and differs in what is restored.
    """

    name: str
    criterion: Criterion = field(repr=False)
    restores: Restores = "best"
    average: Average | None = None
    k: int = 0
    front: bool = False
    against: str = ""


def _endings(name: str, stop: Criterion) -> list[Rule]:
    """Return the ways to restore after one way to stop."""
    averages: list[tuple[Average, int]] = [("soup", 5), ("soup", 10), ("mean", 5), ("mean", 10)]
    return [
        *(Rule(f"{name}, {a} of {k}", stop, average=a, k=k, against=name) for a, k in averages),
        Rule(f"{name}, refit for as many epochs", stop, "refit, epochs", against=name),
        Rule(f"{name}, refit for as many steps", stop, "refit, steps", against=name),
        Rule(f"{name}, no restore", stop, "last", against=name),
    ]


def _with_min_delta(n: int, min_delta: float) -> list[Rule]:
    name, stop = f"min_delta {min_delta:g}, patience {n}", Patience(n, min_delta=min_delta)
    keras = f"{name}, for the weights too"
    return [Rule(name, stop, against=keras), Rule(keras, stop, "best by min_delta")]


FRONT = tuple(
    Rule(f"patience {n}", Patience(n), front=True) for n in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)
)
WHOLE = Rule("the whole budget", AfterEpochs(BUDGET), front=True)
AUTO = Rule('patience "auto"', Patience("auto"))
OTHERS = (
    AUTO,
    *_with_min_delta(10, 0.001),
    *_with_min_delta(10, 0.01),
    *_with_min_delta(20, 0.01),
    Rule("smoothed, patience 5", Patience(5, Smoothed("val_loss"))),
    Rule("smoothed, patience 10", Patience(10, Smoothed("val_loss"))),
    Rule("smoothed, patience 20", Patience(20, Smoothed("val_loss"))),
    Rule("GL 2", GeneralizationLoss(2)),
    Rule("GL 5", GeneralizationLoss(5)),
    Rule("PQ 0.5", ProgressQuotient(0.5)),
    Rule("PQ 1", ProgressQuotient(1)),
    Rule("PQ 3", ProgressQuotient(3)),
    Rule("UP 2", UpStrips(2)),
    Rule("UP 3", UpStrips(3)),
    Rule("UP 4", UpStrips(4)),
    Rule("significant by 1 error, 10", SignificantImprovement(1, 10)),
    Rule("significant by 2 errors, 10", SignificantImprovement(2, 10)),
    Rule("accuracy, patience 10", Patience(10, "val_accuracy", mode="max")),
    Rule("accuracy, patience 20", Patience(20, "val_accuracy", mode="max")),
)
ENDINGS = (
    *_endings("patience 10", Patience(10)),
    *_endings("patience 20", Patience(20)),
    *_endings(AUTO.name, AUTO.criterion),
    Rule("the whole budget, soup of 10", WHOLE.criterion, average="soup", k=10, against=WHOLE.name),
    Rule("the whole budget, no restore", WHOLE.criterion, "last", against=WHOLE.name),
)
RULES = (*FRONT, WHOLE, *OTHERS, *ENDINGS)
