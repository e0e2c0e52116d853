"""A snapshot of one backend is gone on from under the two others, in all six directions.

Dropout and shuffling are off: they are drawn by each backend in its own way. Then the weights
and the optimizer's slots after the remaining epochs differ by rounding only: by less than 1e-4.
Epochs, callbacks and the learning rate are equal.
"""

import importlib.util
import itertools

import keras
import numpy as np
import pytest
from support import forking

BACKENDS = ("torch", "tensorflow", "jax")
DIRECTIONS = list(itertools.permutations(BACKENDS, 2))
TOLERANCE = 1e-4
LIMIT_S = 240

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="it runs all three by itself"),
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in BACKENDS),
        reason="needs torch, tensorflow and jax",
    ),
]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Return what each backend alone ends with, and what each direction does."""
    root = tmp_path_factory.mktemp("across")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for backend in BACKENDS:
            patch.setenv("KERAS_BACKEND", backend)
            settings = {"what": "save", "directory": str(root / f"of_{backend}")}
            directory = root / backend
            directory.mkdir()
            alone = forking.run_module("support.crossing", settings, directory, LIMIT_S)
            found[backend, backend] = alone[0]
        for backend in BACKENDS:
            patch.setenv("KERAS_BACKEND", backend)
            others = {b: str(root / f"of_{b}") for b in BACKENDS if b != backend}
            settings = {"what": "resume", "snapshots": others}
            directory = root / f"{backend} resumes"
            directory.mkdir()
            for end in forking.run_module("support.crossing", settings, directory, LIMIT_S):
                found[end["from"], backend] = end
    return found


def distance(one, other):
    return max(np.abs(np.subtract(a, b)).max() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("saved", "resumed"), DIRECTIONS)
def test_a_snapshot_goes_on_under_another_backend(ends, saved, resumed):
    whole, end = ends[saved, saved], ends[saved, resumed]
    apart = {part: distance(whole[part], end[part]) for part in ("weights", "slots")}
    print(f"{saved} -> {resumed}: largest difference {apart}")
    assert max(apart.values()) < TOLERANCE
    assert end["scalars"] == pytest.approx(whole["scalars"], rel=1e-6)
    assert end["epochs"] == whole["epochs"]
    assert end["wait"] == whole["wait"]
    assert whole["wait"][0] != 0 or whole["scalars"]["learning_rate"] < 0.01
    for name, curve in whole["history"].items():
        assert end["history"][name] == pytest.approx(curve, abs=1e-4), name


@pytest.mark.parametrize(("saved", "resumed"), DIRECTIONS)
def test_one_warning_names_the_other_backend(ends, saved, resumed):
    texts = ends[saved, resumed]["warnings"]
    assert len(texts) == 1
    assert f"backend: {saved} when saved, {resumed} now" in texts[0].replace("'", "")
