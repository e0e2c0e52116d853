"""What a hand-written loop trains with is saved if `Run` was given it, and else named."""

import gc
import itertools
import warnings

import keras
import numpy as np
import pytest
from support import resuming
from support.resuming import values

from keras_ratchet import Run

EPOCHS, STEPS = 3, 4
on_torch = pytest.mark.skipif(keras.backend.backend() != "torch", reason="written in torch")


class Cut(Exception):
    """Stands for whatever ends a loop."""


@pytest.fixture(autouse=True)
def no_leftovers():
    """Other tests' optimizers are none of ours: each has a model of its own, but scalers do not."""
    gc.collect()


def build():
    resuming.scramble()
    keras.utils.set_random_seed(7)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])


def adam_of(model, rate=1e-2):
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(model.trainable_variables)
    return optimizer


def apply(optimizer, model):
    """Make a step of a Keras optimizer, on any backend."""
    gradients = [keras.ops.ones(v.shape) for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)


def lost(directory, model, train, **arguments):
    """Run a loop; return what it was told of what is lost."""
    arguments = {"save_freq": 1, **arguments}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Run(directory, model, **arguments) as run:
            for _ in run.epochs(EPOCHS):
                for _ in run.batches(range(STEPS)):
                    train()
    told = [str(w.message) for w in caught]
    return [text for text in told if "Resume will not be exact: the loop trains" in text]


def test_an_optimizer_that_run_was_not_given_is_named_once(tmp_path):
    model = build()
    optimizer = adam_of(model)
    [text] = lost(tmp_path / "run", model, lambda: apply(optimizer, model))
    assert "trains with Adam, whose state Run does not save" in text


def test_nothing_is_said_of_those_that_it_was_given_or_that_the_model_has(tmp_path):
    model = build()
    optimizer, other = adam_of(model), adam_of(model, 1e-3)
    assert not lost(tmp_path / "one", model, lambda: apply(optimizer, model), optimizer=optimizer)

    def both():
        apply(optimizer, model)
        apply(other, model)

    assert not lost(tmp_path / "both", model, both, optimizer=[optimizer, other])
    compiled = build()
    compiled.compile("adam", "mse")
    compiled.optimizer.build(compiled.trainable_variables)
    assert not lost(tmp_path / "compiled", compiled, lambda: apply(compiled.optimizer, compiled))


def test_nothing_is_said_of_the_optimizer_of_an_earlier_stage_or_of_another_model(tmp_path):
    model, another = build(), build()
    earlier, elsewhere, optimizer = adam_of(model), adam_of(another), adam_of(model)
    apply(earlier, model)

    def train():
        apply(optimizer, model)
        apply(elsewhere, another)

    assert not lost(tmp_path / "run", model, train, optimizer=optimizer)


def test_a_callback_that_has_a_state_may_keep_it(tmp_path):
    class Keeps(keras.callbacks.Callback):
        def __init__(self, optimizer):
            super().__init__()
            self.optimizer = optimizer

        def state_dict(self):
            return {"values": values(self.optimizer.variables)}

        def load_state_dict(self, state):
            pass

    model = build()
    optimizer = adam_of(model)
    keeper = Keeps(optimizer)
    assert not lost(tmp_path / "a", model, lambda: apply(optimizer, model), callbacks=[keeper])


def loop(directory, make, cut=None):
    """Run a loop whose objects `make` returns; return what it ends with, or None if it was cut."""
    model = build()
    objects, train = make(model)
    done, rates = 0, []
    with Run(directory, model, optimizer=objects, save_freq=3, delete_checkpoint=False) as run:
        for _ in run.epochs(EPOCHS):
            for _ in run.batches(range(STEPS)):
                rates.append(train())
                done += 1
                if done == cut:
                    raise Cut
    return [v.tobytes() for v in values(model.variables)], rates[-1]


def two_of_keras(model):
    first, second = adam_of(model), adam_of(model, 1e-3)

    def train():
        apply(first, model)
        apply(second, model)
        return int(second.iterations)

    return [first, second], train


def with_scheduler(model):
    import torch

    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=9)

    def train():
        optimizer.zero_grad()
        (model(torch.ones(2, 4)) ** 2).mean().backward()
        optimizer.step()
        scheduler.step()
        return optimizer.param_groups[0]["lr"]

    return [optimizer, scheduler], train


@pytest.mark.parametrize("cut", [2, 6, 8])
@pytest.mark.parametrize("make", [two_of_keras, pytest.param(with_scheduler, marks=on_torch)])
def test_a_list_of_them_is_restored(tmp_path, make, cut):
    straight = loop(tmp_path / "straight", make)
    with pytest.raises(Cut):
        loop(tmp_path / "cut", make, cut)
    assert loop(tmp_path / "cut", make) == straight


def test_a_list_of_another_length_is_restored_as_far_as_it_goes_and_said(tmp_path):
    with pytest.raises(Cut):
        loop(tmp_path, lambda model: ([two_of_keras(model)[0][0]], lambda: 0), 6)
    with pytest.warns(UserWarning, match=r"has 2 objects, and the snapshot has the states of 1\."):
        loop(tmp_path, two_of_keras)


@on_torch
def test_what_schedules_and_scales_is_named(tmp_path):
    import torch

    model = build()
    [optimizer, scheduler], step = with_scheduler(model)
    scaler, scale = torch.amp.GradScaler("cpu"), itertools.count(64.0)

    def train():
        scaler.scale(torch.ones(()))
        step()
        scaler.update(next(scale))

    [text] = lost(tmp_path / "one", model, train, optimizer=optimizer)
    assert "trains with GradScaler, LinearLR, whose" in text
    everything = [optimizer, scheduler, scaler]
    assert not lost(tmp_path / "all", model, train, optimizer=everything)
    [text] = lost(tmp_path / "none", model, train)
    assert "trains with Adam, GradScaler, LinearLR, whose" in text


def test_a_loop_that_draws_its_batches_elsewhere_is_told_that_nothing_is_saved(tmp_path):
    def train(save_freq):
        with Run(tmp_path / str(save_freq), build(), save_freq=save_freq) as run:
            for _ in run.epochs(2):
                run.log(loss=1.0)

    with pytest.warns(UserWarning, match=r"Run saves nothing within an epoch.*save_freq='epoch'"):
        train(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train("epoch")


def test_what_run_makes_of_a_keras_optimizer_holds_its_values(tmp_path):
    model = build()
    optimizer = adam_of(model)
    run = Run(tmp_path, model, optimizer=(optimizer, optimizer))
    held = run.backup._options.optimizer
    assert [len(one.state_dict()["variables"]) for one in held] == [len(optimizer.variables)] * 2
    assert all(np.isfinite(v).all() for v in held[0].state_dict()["variables"])
