"""Where the data come from: (x, y) of each data set, real ones from installed packages."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from sklearn import datasets

Pair = tuple[np.ndarray, np.ndarray]
Maker = Callable[[], Pair]


def _file(name: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / name


def _photo(name: str) -> Pair:
    """Return patches of a photo that scikit-learn brings (CC BY 2.0, danielbuechele, vultilion)."""
    return _patches(datasets.load_sample_image(name).mean(axis=2))


def _scan() -> Pair:
    """Return patches of a magnetic resonance image of a head."""
    with gzip.open(_file("s1045.ima.gz")) as file:
        return _patches(np.frombuffer(file.read(), np.uint16).reshape(256, 256).astype("float64"))


def _patches(image: np.ndarray, n: int = 600) -> Pair:
    """Return the 24 pixels around a pixel, and that pixel; no two squares overlap."""
    rows, columns = (size // 5 for size in image.shape)
    squares = image[: rows * 5, : columns * 5].reshape(rows, 5, columns, 5).swapaxes(1, 2)
    squares = squares.reshape(-1, 25)
    squares = squares[squares.std(axis=1) > 0]
    squares = squares[np.random.default_rng(0).permutation(len(squares))[:n]]
    return np.delete(squares, 12, axis=1), squares[:, 12]


def _heights(name: str, key: str, n: int = 600) -> Pair:
    """Return places on a map and how high they are."""
    with np.load(_file(name)) as file:
        height = file[key].astype("float64")
    rng = np.random.default_rng(0)
    at = np.column_stack([rng.integers(0, size, n) for size in height.shape])
    return at, height[at[:, 0], at[:, 1]]


def _land() -> Pair:
    """Return places on a map and whether they are above the sea."""
    at, height = _heights("topobathy.npz", "topo")
    return at, height > 0


def _eeg() -> Pair:
    """Return five values of four channels and the next of the first one; no two overlap."""
    values = np.fromfile(_file("eeg.dat"), float).reshape(-1, 4)
    windows = values[: len(values) // 6 * 6].reshape(-1, 6, 4)
    return windows[:, :5].reshape(len(windows), -1), windows[:, 5, 0]


def _spirals(n: int = 400) -> Pair:
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    angle = 3 * np.pi * np.sqrt(rng.random(n))
    side = np.where(y == 0, 1, -1) * angle
    x = np.column_stack([side * np.cos(angle), side * np.sin(angle)])
    return x + 0.6 * rng.normal(size=x.shape), y


def _checkerboard(n: int = 600) -> Pair:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 3, (n, 2))
    return x, np.floor(x + 0.12 * rng.normal(size=x.shape)).sum(axis=1) % 2


def _parity(n: int = 600) -> Pair:
    x = np.random.default_rng(0).normal(size=(n, 8))
    return x, (x[:, :3] > 0).sum(axis=1) % 2


def _waves(n: int = 300) -> Pair:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (n, 5))
    return x, np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.4 * rng.normal(size=n)


def _wide_moons(n: int = 300) -> Pair:
    x, y = datasets.make_moons(n, noise=0.25, random_state=1)
    return np.hstack([x, np.random.default_rng(1).normal(size=(n, 12))]), y


def _folded(n: int = 300) -> Pair:
    x, y = datasets.make_regression(
        n, 20, n_informative=8, effective_rank=10, tail_strength=0.8, noise=1, random_state=2
    )
    return x, np.tanh(y / y.std()) + 0.2 * np.random.default_rng(2).normal(size=n)


_classes = partial(datasets.make_classification, n_redundant=0)
_quantiles = partial(datasets.make_gaussian_quantiles, n_samples=600, n_features=6)
_bundled = {"return_X_y": True}

# By part, source, and whether y are classes.
SOURCES: dict[tuple[str, str, bool], dict[str, Maker]] = {
    ("A", "real", True): {
        "digits": partial(datasets.load_digits, **_bundled),
        "breast cancer": partial(datasets.load_breast_cancer, **_bundled),
        "wine": partial(datasets.load_wine, **_bundled),
        "iris": partial(datasets.load_iris, **_bundled),
    },
    ("A", "real", False): {
        "diabetes": partial(datasets.load_diabetes, **_bundled),
        "temple photo": partial(_photo, "china.jpg"),
        "heights": partial(_heights, "jacksboro_fault_dem.npz", "elevation"),
    },
    ("A", "synthetic", True): {
        "classes": partial(_classes, 600, 20, n_informative=5, random_state=1),
        "classes, 60 features": partial(
            _classes, 400, 60, n_informative=6, n_classes=3, random_state=2
        ),
        "classes, flipped": partial(_classes, 500, 10, n_informative=6, flip_y=0.3, random_state=3),
        "moons": partial(datasets.make_moons, 400, noise=0.3, random_state=0),
        "circles": partial(datasets.make_circles, 400, noise=0.2, factor=0.5, random_state=0),
        "blobs": partial(datasets.make_blobs, 500, 6, centers=5, cluster_std=5, random_state=0),
        "quantiles": partial(_quantiles, random_state=0),
        "hastie": partial(datasets.make_hastie_10_2, 800, random_state=0),
        "spirals": _spirals,
    },
    ("A", "synthetic", False): {
        "friedman 1": partial(datasets.make_friedman1, 400, noise=1, random_state=0),
        "friedman 2": partial(datasets.make_friedman2, 400, noise=100, random_state=0),
        "friedman 3": partial(datasets.make_friedman3, 400, noise=0.2, random_state=0),
    },
    ("B", "real", True): {"land or sea": _land},
    ("B", "real", False): {
        "flower photo": partial(_photo, "flower.jpg"),
        "head scan": _scan,
        "eeg": _eeg,
    },
    ("B", "synthetic", True): {
        "classes, rare": partial(
            _classes, 600, 12, n_informative=6, weights=[0.9], random_state=11
        ),
        "classes, clusters": partial(
            _classes, 600, 12, n_informative=8, n_classes=4, n_clusters_per_class=3, random_state=12
        ),
        "moons, 14 features": _wide_moons,
        "checkerboard": _checkerboard,
        "parity": _parity,
    },
    ("B", "synthetic", False): {
        "waves": _waves,
        "folded": _folded,
        "swiss roll": partial(datasets.make_swiss_roll, 400, noise=1.0, random_state=3),
        "s curve": partial(datasets.make_s_curve, 400, noise=0.3, random_state=4),
        "sparse": partial(datasets.make_sparse_uncorrelated, 300, 15, random_state=5),
    },
}
