"""The data sets, ready to train on, and how they are cut.

Part "A" was used for development of the benchmark; part "B" was held out.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from stopping.sources import SOURCES, Pair


@dataclass(frozen=True, slots=True)
class Task:
    """Inputs and targets.

    Attributes:
        name: Its name in the tables.
        part: "A" or "B".
        source: "real" or "synthetic".
        x: Inputs, (samples, features), float32.
        y: Labels, (samples,), int32; or targets with mean 0 and variance 1, (samples, 1), float32.
        classes: Number of classes, or 0 for a regression.
    """

    name: str
    part: str
    source: str
    x: np.ndarray
    y: np.ndarray
    classes: int


@dataclass(frozen=True, slots=True)
class Split:
    """One task cut into 50 % training, 25 % validation and 25 % test data, as (x, y) each."""

    train: Pair
    val: Pair
    test: Pair

    def joined(self) -> Split:
        """Return the same with the validation data among the training data."""
        x, y = (np.concatenate(pair) for pair in zip(self.train, self.val, strict=True))
        return replace(self, train=(x, y))


def names(*parts: str) -> list[str]:
    """Return the names of the tasks of these parts."""
    return [name for (part, _, _), makers in SOURCES.items() if part in parts for name in makers]


@functools.cache
def load(name: str) -> Task:
    """Return a task by its name."""
    (part, source, classes), make = next(
        (key, makers[name]) for key, makers in SOURCES.items() if name in makers
    )
    x, y = make()[:2]
    x = np.asarray(x, "float32")
    if classes:
        labels, y = np.unique(y, return_inverse=True)
        return Task(name, part, source, x, y.astype("int32"), len(labels))
    y = np.asarray(y, "float64").reshape(len(y), 1)
    return Task(name, part, source, x, ((y - y.mean()) / y.std()).astype("float32"), 0)


def split(task: Task, seed: int, noisy: bool = False) -> Split:
    """Cut a task at random; inputs are scaled by what the training part shows.

    Args:
        task: The task.
        seed: Of the cut and of the noise.
        noisy: Whether a fifth of the labels is drawn anew, or noise of half their standard
            deviation is added to targets; in all three parts, as in data that are noisy.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(task.x))
    x, y = task.x[order], (_noisy(task, rng) if noisy else task.y)[order]
    half, three = len(x) // 2, len(x) * 3 // 4
    mean, scale = x[:half].mean(axis=0), x[:half].std(axis=0)
    x = ((x - mean) / np.where(scale > 1e-6, scale, 1)).astype("float32")
    cuts = (slice(0, half), slice(half, three), slice(three, len(x)))
    return Split(*((x[cut], y[cut]) for cut in cuts))


def _noisy(task: Task, rng: np.random.Generator) -> np.ndarray:
    if not task.classes:
        return (task.y + 0.5 * rng.normal(size=task.y.shape)).astype("float32")
    drawn = rng.integers(0, task.classes, len(task.y)).astype("int32")
    return np.where(rng.random(len(task.y)) < 0.2, drawn, task.y)
