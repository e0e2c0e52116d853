"""Ranks whose weights should be the same and are not: said once, with rank and variables."""

import keras
import pytest
from support import processes

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the scripts choose their own backends"
)
CASES = """
import os, sys, warnings
from support import rank
RANK, SIZE = rank.join()
import keras, numpy as np, torch
import keras_ratchet as kr
from keras_ratchet.errors import ConfigError, ResumeError
from torch.nn.parallel import DistributedDataParallel as DDP

def net(seed, units=1):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((2,)), keras.layers.Dense(units), keras.layers.BatchNormalization()]
    return keras.Sequential(layers)

def loop(where, model, ddp, change=False, epochs=3):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.rand(4, 2) + RANK
    with kr.Run(where, model, optimizer=optimizer, delete_checkpoint=False) as run:
        for epoch in run.epochs(epochs):
            for batch in run.batches([x, x]):
                optimizer.zero_grad()
                (ddp(batch, training=True) ** 2).mean().backward()
                optimizer.step()
            if change and epoch == 0 and RANK == 1:
                model.layers[0].kernel.assign(model.layers[0].kernel + 1.0)
            run.log(loss=1.0)

def same(where):
    model = net(1)
    loop(where, model, DDP(model))

def changed(where):
    model = net(1)
    loop(where, model, DDP(model), change=True)

def apart_from_the_start(where):
    model = net(RANK)
    loop(where, model, model)

def not_wrapped(where):
    model = net(1)
    loop(where, model, model)

def another_model_on_one_rank(where):
    model = net(1)
    loop(where, model, DDP(model), epochs=1)
    model = net(1, units=1 + RANK)
    loop(where, model, model, epochs=2)

class Own(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)

def fits(where, kind):
    keras.utils.set_random_seed(1)
    model = kind([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.full((8, 2), 1.0 + RANK, "float32")
    model.fit(x, x[:, :1], epochs=3, verbose=0, callbacks=[kr.EarlyStopping("loss")])

def plain_fit(where):
    fits(where, keras.Sequential)

def own_step(where):
    fits(where, Own)

def sharded(where):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.device_mesh import init_device_mesh
    model = net(1)
    fully_shard(model, mesh=init_device_mesh("cpu", (SIZE,)))
    loop(where, model, model)

cases = same, changed, apart_from_the_start, not_wrapped, plain_fit, own_step
for case in (*cases, another_model_on_one_rank, sharded):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            case(f"{sys.argv[1]}/{case.__name__}")
        except (ConfigError, ResumeError) as error:
            print("CASE", case.__name__, RANK, type(error).__name__, error, flush=True)
    for one in found:
        if one.category is UserWarning and "rank" in str(one.message):
            print("CASE", case.__name__, RANK, str(one.message), flush=True)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Return what was said in each case, by rank."""
    ended = processes.run("torch", CASES, [tmp_path_factory.mktemp("drift")], limit_s=400)
    assert [one.code for one in ended] == [0, 0], processes.report(ended)
    lines = [line.split(" ", 3) for one in ended for line in one.output.splitlines()]
    lines = [line[1:] for line in lines if line[0] == "CASE"]
    return lambda case, rank=0: [text for name, r, text in lines if (name, r) == (case, str(rank))]


def test_nothing_is_said_of_statistics_that_differ(said):
    assert said("same") == said("same", 1) == []


def test_a_rank_that_changed_its_weights_is_named_once(said):
    assert len(said("changed")) == 1
    text = said("changed")[0]
    assert "drifted apart" in text
    assert "rank 1: 1 of 4 (model/layers/dense/00000)" in text
    assert said("changed", 1) == []


def test_other_initial_weights_are_said_at_the_start(said):
    assert len(said("apart_from_the_start")) == 1
    assert "start from different weights" in said("apart_from_the_start")[0]


def test_a_model_that_nothing_wraps_is_said_at_the_first_save(said):
    assert len(said("not_wrapped")) == 1
    assert "a hand-written loop has to call the DistributedDataParallel" in said("not_wrapped")[0]


def test_a_fit_that_averages_nothing_is_said_at_the_start(said):
    first, second = said("plain_fit")
    assert "does not average gradients over the 2 processes" in first
    assert "drifted apart" in second
    assert len(said("own_step")) == 1  # it might have: only what has happened is said
    assert "drifted apart" in said("own_step")[0]


def test_fully_shard_is_refused_on_all_ranks(said):
    for rank in (0, 1):
        assert said("sharded", rank)[0].startswith("ConfigError fully_shard() was applied")


def test_a_snapshot_that_one_rank_cannot_use_is_refused_on_all(said):
    for rank in (0, 1):
        text = said("another_model_on_one_rank", rank)[0]
        assert text.startswith("ResumeError The snapshot") and "belongs to another run" in text
