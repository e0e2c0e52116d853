"""Canaries of meaning: what Keras does with the names that we touch, seen in what is trained on.

A model notes the rows of each batch as it is trained on them. A Keras that draws its orders, or
counts its steps, in another way than we know makes these tests fail, though each name is there.
"""

import warnings

import keras
import numpy as np
import pytest
from support import resuming
from support.resuming import BATCH, EPOCHS, PER_EPOCH, ROWS, Kill, Script, seed_all
from support.versions import AT_MOST_3_15

STEPS = PER_EPOCH * EPOCHS


class Witness(keras.layers.Layer):
    """Notes the rows of each batch, by the number that stands in their first column."""

    def __init__(self):
        super().__init__()
        self.batches = self.add_weight(
            shape=(STEPS, BATCH), trainable=False, initializer="zeros", name="batches"
        )
        self.made = self.add_weight(shape=(), trainable=False, dtype="int32", name="made")

    def call(self, x, training=False):
        if training:
            here = keras.ops.one_hot(self.made, STEPS, dtype="float32")
            self.batches.assign(self.batches + here[:, None] * x[None, :, 0])
            self.made.assign_add(1)
        return x / ROWS


def witnessing(**compile_args):
    net = keras.Sequential([keras.Input((1,)), Witness(), keras.layers.Dense(1)])
    net.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=False, **compile_args)
    return net


def rows_of(outcome):
    """Return how many updates were made, and the numbers of the rows, by epoch."""
    made = next(int(v) for v in outcome.weights if v.dtype == np.int32)
    batches = next(v for v in outcome.weights if v.shape == (STEPS, BATCH))
    return made, batches.astype(int).reshape(EPOCHS, ROWS)


def numbered():
    rows = np.arange(ROWS, dtype="float32")[:, None]
    return rows, rows % 3


def numbered_arrays():
    x, y = numbered()
    return {"x": x, "y": y, "batch_size": BATCH, "shuffle": True}


class Plain(keras.utils.PyDataset):
    """Has no order of its own: `fit` shuffles its batches."""

    @property
    def num_batches(self):
        return PER_EPOCH

    def __getitem__(self, index):
        return tuple(a[index * BATCH : (index + 1) * BATCH] for a in numbered())


def sampled():
    """Return a loader whose order depends on the epoch that its sampler is told."""
    import torch
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    rows = TensorDataset(*map(torch.from_numpy, numbered()))
    sampler = DistributedSampler(rows, num_replicas=1, rank=0)
    return {"x": DataLoader(rows, batch_size=BATCH, sampler=sampler)}


DATA = {
    "arrays": numbered_arrays,
    "arrays, shuffle='batch'": lambda: {**numbered_arrays(), "shuffle": "batch"},
    "PyDataset": lambda: {"x": Plain()},
    "PyDataset, 2 threads": lambda: {"x": Plain(workers=2)},
    "DataLoader, DistributedSampler": sampled,
}


@pytest.mark.parametrize("name", DATA)
def test_a_resumed_fit_trains_on_the_rows_of_an_uninterrupted_one(name, tmp_path):
    script = Script(str(tmp_path / "b"), DATA[name], make=witnessing)
    made, rows = rows_of(script.uninterrupted())
    assert made == STEPS
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in rows)
    for kills, how in [
        ([Kill(epoch=0), Kill(epoch=1)], {"save_freq": "epoch"}),
        ([Kill(14), Kill(27)], {"save_freq": 3}),
    ]:
        script.directory = str(tmp_path / str(how["save_freq"]))
        again, found = rows_of(script.chain(*kills, **how))
        assert (again, found.tolist()) == (STEPS, rows.tolist()), how


def test_arrays_that_tensorflow_shuffles_without_a_seed_are_exact_or_warned_about(
    tmp_path, backend, monkeypatch
):
    if backend != "tensorflow":
        pytest.skip("only tensorflow shuffles arrays by a seed of its own")
    from keras.src.backend.common import global_state
    from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED

    def seed_all_but_tensorflow(seed):
        seed_all(seed)
        global_state.set_global_attribute(GLOBAL_RANDOM_SEED, None)

    monkeypatch.setattr(resuming, "seed_all", seed_all_but_tensorflow)
    script = Script(str(tmp_path / "b"), numbered_arrays, make=witnessing)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        whole = script.uninterrupted()
        resumed = script.chain(Kill(14), save_freq=3)
    if any("seed of its own" in str(w.message) for w in caught):
        assert AT_MOST_3_15, "a false alarm: Keras 3.16 seeds these orders by a count"
        return
    assert resumed.differences(whole) == []


@pytest.mark.skipif(
    keras.backend.backend() == "torch" and AT_MOST_3_15,
    reason="torch refuses steps_per_execution > 1 before Keras 3.16",
)
def test_a_resumed_fit_makes_as_many_updates_when_several_steps_are_one(tmp_path):
    script = Script(
        str(tmp_path / "b"), numbered_arrays, make=lambda: witnessing(steps_per_execution=2)
    )
    made, rows = rows_of(script.uninterrupted())
    again, found = rows_of(script.chain(Kill(14), Kill(28), save_freq=2))
    assert made == again == STEPS
    assert found.tolist() == rows.tolist()


def test_a_keras_that_nothing_was_proved_on_is_warned_about_once(tmp_path, monkeypatch):
    script = Script(str(tmp_path / "b"), numbered_arrays, make=witnessing, fit={"epochs": 1})
    with warnings.catch_warnings(record=True) as silent:
        warnings.simplefilter("always")
        script.run()
    assert not [w for w in silent if "not tested with" in str(w.message)]
    monkeypatch.setattr(keras, "__version__", "3.99.0")
    script.directory = str(tmp_path / "next")
    with pytest.warns(UserWarning, match="it is not tested with Keras 3.99.0") as caught:
        script.run()
    assert len([w for w in caught if "Resume may not be exact" in str(w.message)]) == 1
