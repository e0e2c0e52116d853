"""What the data gathers while training is kept within bounds, and named beyond them."""

import warnings

import numpy as np
import pytest
from support.resuming import Script
from support.sources import Batches

from keras_ratchet._engine.resume import data_states
from keras_ratchet._engine.resume.data_states import DataStates

MIB = 1 << 20


class Images:
    """A data set of its own kind, with a cache."""

    def __init__(self, rows=0):
        self.cache, self.seen = {}, []
        self.rows = [np.zeros(MIB, "u1") for _ in range(rows)]


def captured(images, *more):
    states = DataStates({"loader": [images]}, [])
    for step in more:
        step()
        yield {name.rpartition(".")[2]: value for name, value in states.capture().items()}


def test_a_cache_that_outgrows_the_snapshots_is_left_out_and_named_once():
    images = Images()

    def fill(first, last):
        images.seen.append(last)
        images.cache.update({i: np.zeros(MIB, "u1") for i in range(first, last)})

    steps = captured(images, *[lambda i=i: fill(*i) for i in ((0, 40), (40, 70), (70, 75))])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert len(next(steps)["cache"]) == 40 and not told
        assert next(steps) == {"seen": [40, 70]}
        assert next(steps) == {"seen": [40, 70, 75]}
    assert len(told) == 1 and "changed loader[0].cache, too large" in str(told[0].message)


def test_all_together_stay_within_the_bound_and_the_largest_go_first():
    images = Images()

    def fill():
        images.cache = {0: np.zeros(40 * MIB, "u1")}
        images.seen = [np.ones(30 * MIB, "u1")]

    with pytest.warns(UserWarning, match=r"changed loader\[0\]\.cache, too large"):
        assert list(next(captured(images, fill))) == ["seen"]


def test_large_data_that_does_not_change_is_neither_kept_nor_named():
    images = Images(70)
    assert next(captured(images, lambda: images.seen.append(1))) == {"seen": [1]}


def test_large_data_that_is_reordered_in_place_is_named():
    images = Images(70)
    images.rows[0][:] = 1
    with pytest.warns(UserWarning, match=r"changed loader\[0\]\.rows, too large"):
        assert next(captured(images, images.rows.reverse)) == {}


def test_a_data_set_with_a_cache_is_named_after_the_first_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(data_states, "_MOST_BYTES", 1000)

    class Caching(Batches):
        def __init__(self):
            super().__init__(augmented=False)
            self.cache = {}

        def __getitem__(self, index):
            self.cache[index] = super().__getitem__(index)
            return self.cache[index]

    with pytest.warns(UserWarning, match=r"changed Caching\.cache, too large") as told:
        Script(str(tmp_path / "b"), lambda: {"x": Caching()}).run()
    assert sum("not be exact" in str(w.message) for w in told) == 1
