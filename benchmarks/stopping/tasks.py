"""The data sets: what ships inside scikit-learn and matplotlib, and synthetic ones.

Those of part "A" were looked at while the benchmark was written, those of part "B" were not.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn import datasets

REAL, SYNTHETIC = "real", "synthetic"


@dataclass(frozen=True, slots=True)
class Task:
    """Inputs and targets.

    Attributes:
        name: What it is called in the tables.
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

    train: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    def joined(self) -> Split:
        """Return the same with the validation data among the training data."""
        x, y = (np.concatenate(pair) for pair in zip(self.train, self.val, strict=True))
        return replace(self, train=(x, y))


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


@functools.cache
def load(name: str) -> Task:
    """Return a task by its name."""
    part, source, regression, make = _MAKERS[name]
    x, y = make()
    x = np.asarray(x, "float32").reshape(len(x), -1)
    if regression:
        y = np.asarray(y, "float64").reshape(len(y), 1)
        return Task(name, part, source, x, ((y - y.mean()) / y.std()).astype("float32"), 0)
    labels, y = np.unique(y, return_inverse=True)
    return Task(name, part, source, x, y.astype("int32"), len(labels))


def names(part: str) -> list[str]:
    """Return the names of the tasks of a part."""
    return [name for name, (its, *_) in _MAKERS.items() if its == part]


def _sklearn(loader: Callable) -> Callable:
    return lambda: loader(return_X_y=True)


def _grey(name: str) -> np.ndarray:
    return datasets.load_sample_image(name).mean(axis=2)


def _sample_file(name: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / name


def _scan() -> np.ndarray:
    with gzip.open(_sample_file("s1045.ima.gz")) as file:
        return np.frombuffer(file.read(), np.uint16).reshape(256, 256).astype("float64")


def _patches(image: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the 24 pixels around one pixel, and that pixel; no two squares overlap."""
    rows, columns = (size // 5 for size in image.shape)
    squares = image[: rows * 5, : columns * 5].reshape(rows, 5, columns, 5).swapaxes(1, 2)
    squares = squares.reshape(-1, 25)
    squares = squares[squares.std(axis=1) > 0]
    squares = squares[np.random.default_rng(0).permutation(len(squares))[:n]]
    return np.delete(squares, 12, axis=1), squares[:, 12]


def _heights(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places near Jacksboro, Texas, and how high they are."""
    with np.load(_sample_file("jacksboro_fault_dem.npz")) as file:
        height = file["elevation"]
    rng = np.random.default_rng(0)
    at = np.column_stack([rng.integers(0, size, n) for size in height.shape])
    return at, height[at[:, 0], at[:, 1]]


def _land(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places on a map, and whether they are land."""
    with np.load(_sample_file("topobathy.npz")) as file:
        height = file["topo"]
    rng = np.random.default_rng(0)
    at = np.column_stack([rng.integers(0, size, n) for size in height.shape])
    return at, height[at[:, 0], at[:, 1]] > 0


def _eeg() -> tuple[np.ndarray, np.ndarray]:
    """Return five values of four channels, and the next one of the first; nothing overlaps twice."""
    values = np.fromfile(_sample_file("eeg.dat"), float).reshape(-1, 4)
    values = values[: len(values) // 2 * 2]
    starts = range(0, len(values) - 6, 2)
    x = np.stack([values[s : s + 5].ravel() for s in starts])
    return x, np.stack([values[s + 5, 0] for s in starts])


def _classification(n: int, features: int, informative: int, seed: int, **more: object):
    return datasets.make_classification(
        n, features, n_informative=informative, n_redundant=0, random_state=seed, **more
    )


def _spirals(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    angle = 3 * np.pi * np.sqrt(rng.random(n))
    side = np.where(y == 0, 1, -1) * angle
    x = np.column_stack([side * np.cos(angle), side * np.sin(angle)])
    return x + 0.6 * rng.normal(size=x.shape), y


def _checkerboard(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 3, (n, 2))
    y = np.floor(x + 0.12 * rng.normal(size=x.shape)).sum(axis=1) % 2
    return x, y


def _parity(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 8))
    return x, (x[:, :3] > 0).sum(axis=1) % 2


def _waves(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (n, 5))
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.4 * rng.normal(size=n)
    return x, y


def _wide_moons(n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.make_moons(n, noise=0.25, random_state=1)
    return np.hstack([x, np.random.default_rng(1).normal(size=(n, 12))]), y


def _folded(n: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.make_regression(
        n, 20, n_informative=8, effective_rank=10, tail_strength=0.8, noise=1, random_state=2
    )
    return x, np.tanh(y / y.std()) + 0.2 * np.random.default_rng(2).normal(size=n)


_MAKERS: dict[str, tuple[str, str, bool, Callable]] = {  # part, source, is a regression, maker
    "digits": ("A", REAL, False, _sklearn(datasets.load_digits)),
    "breast cancer": ("A", REAL, False, _sklearn(datasets.load_breast_cancer)),
    "wine": ("A", REAL, False, _sklearn(datasets.load_wine)),
    "iris": ("A", REAL, False, _sklearn(datasets.load_iris)),
    "diabetes": ("A", REAL, True, _sklearn(datasets.load_diabetes)),
    "temple photo": ("A", REAL, True, lambda: _patches(_grey("china.jpg"), 600)),
    "heights": ("A", REAL, True, lambda: _heights(600)),
    "classes": ("A", SYNTHETIC, False, lambda: _classification(600, 20, 5, 1)),
    "classes, 60 features": (
        "A",
        SYNTHETIC,
        False,
        lambda: _classification(400, 60, 6, 2, n_classes=3),
    ),
    "classes, flipped": ("A", SYNTHETIC, False, lambda: _classification(500, 10, 6, 3, flip_y=0.3)),
    "moons": ("A", SYNTHETIC, False, lambda: datasets.make_moons(400, noise=0.3, random_state=0)),
    "circles": (
        "A",
        SYNTHETIC,
        False,
        lambda: datasets.make_circles(400, noise=0.2, factor=0.5, random_state=0),
    ),
    "blobs": (
        "A",
        SYNTHETIC,
        False,
        lambda: datasets.make_blobs(500, 6, centers=5, cluster_std=5, random_state=0),
    ),
    "quantiles": (
        "A",
        SYNTHETIC,
        False,
        lambda: datasets.make_gaussian_quantiles(n_samples=600, n_features=6, random_state=0),
    ),
    "hastie": ("A", SYNTHETIC, False, lambda: datasets.make_hastie_10_2(800, random_state=0)),
    "spirals": ("A", SYNTHETIC, False, lambda: _spirals(400)),
    "friedman 1": (
        "A",
        SYNTHETIC,
        True,
        lambda: datasets.make_friedman1(400, noise=1, random_state=0),
    ),
    "friedman 2": (
        "A",
        SYNTHETIC,
        True,
        lambda: datasets.make_friedman2(400, noise=100, random_state=0),
    ),
    "friedman 3": (
        "A",
        SYNTHETIC,
        True,
        lambda: datasets.make_friedman3(400, noise=0.2, random_state=0),
    ),
    "flower photo": ("B", REAL, True, lambda: _patches(_grey("flower.jpg"), 600)),
    "head scan": ("B", REAL, True, lambda: _patches(_scan(), 600)),
    "land or sea": ("B", REAL, False, lambda: _land(600)),
    "eeg": ("B", REAL, True, _eeg),
    "classes, rare": ("B", SYNTHETIC, False, lambda: _classification(600, 12, 6, 11, weights=[0.9])),
    "classes, clusters": (
        "B",
        SYNTHETIC,
        False,
        lambda: _classification(600, 12, 8, 12, n_classes=4, n_clusters_per_class=3),
    ),
    "moons, 14 features": ("B", SYNTHETIC, False, lambda: _wide_moons(300)),
    "checkerboard": ("B", SYNTHETIC, False, lambda: _checkerboard(600)),
    "parity": ("B", SYNTHETIC, False, lambda: _parity(600)),
    "waves": ("B", SYNTHETIC, True, lambda: _waves(300)),
    "folded": ("B", SYNTHETIC, True, lambda: _folded(300)),
    "swiss roll": (
        "B",
        SYNTHETIC,
        True,
        lambda: datasets.make_swiss_roll(400, noise=1.0, random_state=3),
    ),
    "s curve": ("B", SYNTHETIC, True, lambda: datasets.make_s_curve(400, noise=0.3, random_state=4)),
    "sparse": (
        "B",
        SYNTHETIC,
        True,
        lambda: datasets.make_sparse_uncorrelated(300, 15, random_state=5),
    ),
}
