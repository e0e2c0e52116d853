"""EarlyStopping(average=...): better than the best epoch or equal to it, and never worse."""

import contextlib
import copy
import functools
import gc
import logging
import math
import os
import pickle
import signal
import tracemalloc
import weakref

import keras
import numpy as np
import pytest
from support.averages import TOLERANCE, best_first, bits, loss_of, network, oracle_soup, recorded
from support.models import Curve, data, dense, fit
from support.runs import At, press_ctrl_c, tiny, warnings_like

import keras_ratchet
from keras_ratchet._keras.fit import evaluate_arguments
from keras_ratchet._storage import journal
from keras_ratchet.errors import ConfigError


class Replay(keras.callbacks.Callback):
    """Gives the model the recorded weights of each epoch, before it is validated."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.model.set_weights(recorded()[0][self.epoch])


def stopper(average="soup", **arguments):
    arguments = {"patience": 99, "restore_best_weights": True, "average": average, **arguments}
    return keras_ratchet.EarlyStopping(**arguments)


@contextlib.contextmanager
def counted(model):
    """Yield a list that gets the arguments of evaluations which are not part of `fit`."""
    original, calls = model.evaluate, []

    def evaluate(*args, **arguments):
        if "_use_cached_eval_dataset" not in arguments:
            calls.append(arguments)
        return original(*args, **arguments)

    object.__setattr__(model, "evaluate", evaluate)
    try:
        yield calls
    finally:
        object.__delattr__(model, "evaluate")


@functools.cache
def shared():
    """Return the one network of these tests: making another takes a backend a second."""
    return network(metrics=["accuracy"])


def replay(ours, *more, model=None, epochs=10, **arguments):
    """Let `fit` see the recorded epochs; return the model and its passes at the end."""
    model = model or shared()
    _, x, y = recorded()
    arguments = {"validation_data": (x, y), "verbose": 0, "batch_size": 100, **arguments}
    with counted(model) as calls:
        model.fit(x[:8], y[:8], epochs=epochs, callbacks=[Replay(), *more, ours], **arguments)
    return model, calls


def evaluated(model):
    """Return the loss of a model as `replay` validates it."""
    _, x, y = recorded()
    return model.evaluate(x, y, batch_size=100, verbose=0, return_dict=True)["loss"]


def names(indices):
    """Return what the record calls these members of the recorded run, the best first."""
    place = {id(weights): epoch for epoch, weights in enumerate(recorded()[0], 1)}
    ranked = best_first()
    return tuple(f"epoch {place[id(ranked[i])]}" for i in indices)


@pytest.mark.parametrize("k", [2, 5, 10])
def test_the_soup_of_the_best_epochs_is_that_of_the_oracle(k):
    members, value, _ = oracle_soup(best_first()[:k])
    ours = stopper(average_k=k)
    model, calls = replay(ours)
    record = ours.average_record
    assert record.members == names(members) and record.indices == members
    assert record.value == pytest.approx(value, rel=TOLERANCE)
    assert record.best == ours.best_value == pytest.approx(loss_of(best_first()[0]), rel=TOLERANCE)
    assert record.value <= record.best
    assert evaluated(model) == record.value
    assert len(calls) == len(record.trials) == k - 1


def test_the_guarded_mean_is_one_pass():
    ours = stopper("mean")
    model, calls = replay(ours)
    means = [np.mean([s[i].astype("float64") for s in best_first()[:5]], axis=0) for i in range(4)]
    assert bits(model.get_weights()) == bits([m.astype("float32") for m in means])
    assert ours.average_record.members == names(range(5)) and len(calls) == 1
    assert ours.average_record.value == pytest.approx(loss_of(means), rel=TOLERANCE)


@pytest.mark.parametrize("average", ["soup", "mean"])
def test_without_a_better_average_the_best_epoch_is_restored_bit_for_bit(average):
    ours = stopper(average, validation_data=lambda model: 1.0)
    model, _ = replay(ours)
    assert bits(model.get_weights()) == bits(best_first()[0])
    assert not ours.average_record.accepted
    plain = stopper(None)
    model, calls = replay(plain)
    assert bits(model.get_weights()) == bits(best_first()[0])
    assert plain.average_record is None and not calls


def test_an_accuracy_can_decide_too():
    ours = stopper(monitor="val_accuracy", average_k=4)
    model, _ = replay(ours)
    _, x, y = recorded()
    found = model.evaluate(x, y, batch_size=100, verbose=0, return_dict=True)["accuracy"]
    assert ours.average_record.metric == "val_accuracy"
    assert found == ours.average_record.value >= ours.average_record.best == ours.best_value


class Batches(keras.utils.PyDataset):
    def __init__(self, *arrays, size=150):
        super().__init__()
        self.arrays, self.size = arrays, size

    def __len__(self):
        return math.ceil(len(self.arrays[0]) / self.size)

    def __getitem__(self, index):
        return tuple(a[index * self.size : (index + 1) * self.size] for a in self.arrays)


def torch_loader(x, y):
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(pairs, batch_size=150)


def tf_dataset(x, y):
    tensorflow = pytest.importorskip("tensorflow")
    return tensorflow.data.Dataset.from_tensor_slices((x, y)).batch(150)


WEIGHTS = np.linspace(0, 2, 400).astype("float32")
SOURCES = {
    "arrays": lambda x, y: {"validation_data": (x, y)},
    "weights": lambda x, y: {"validation_data": (x, y, WEIGHTS)},
    "sizes": lambda x, y: {"validation_data": (x, y), "validation_batch_size": 130},
    "steps": lambda x, y: {"validation_data": (x, y), "validation_steps": 2},
    "split": lambda x, y: {"validation_split": 0.3},
    "dataset": lambda x, y: {"validation_data": Batches(x, y)},
    "weighted dataset": lambda x, y: {"validation_data": Batches(x, y, WEIGHTS)},
    "dataset, steps": lambda x, y: {"validation_data": Batches(x, y), "validation_steps": 2},
    "torch": lambda x, y: {"validation_data": torch_loader(x, y)},
    "tf.data": lambda x, y: {"validation_data": tf_dataset(x, y)},
    "tf.data, repeat": lambda x, y: {
        "validation_data": tf_dataset(x, y).repeat(),
        "validation_steps": 4,
    },
}


@pytest.mark.parametrize("source", SOURCES)
def test_what_the_logs_say_of_the_best_epoch_is_what_a_pass_at_the_end_says(source):
    """Else an average would be compared with something that was measured otherwise."""
    _, x, y = recorded()
    measured = []

    class Look(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            arguments = evaluate_arguments()
            logged = self.model.history.history["val_loss"]
            for weights, before in zip(recorded()[0], logged, strict=False):
                self.model.set_weights(weights)
                found = self.model.evaluate(**arguments, verbose=0, return_dict=True)
                measured.append(found["loss"] == before)

    model = shared()
    ours = stopper(average_k=3)
    arguments = {"verbose": 0, "epochs": 4, "batch_size": 100, **SOURCES[source](x, y)}
    model.fit(x, y, callbacks=[Replay(), ours, Look()], **arguments)
    assert measured == [True] * 4
    assert ours.average_record.best == ours.best_value
    assert ours.average_record.value <= ours.best_value
    assert len(ours.average_record.trials) == 2


def test_data_of_its_own_costs_one_pass_more_and_decides():
    _, x, y = recorded()
    half = (x[:200], y[:200])
    ours = stopper(validation_data=half, average_k=4)
    model, calls = replay(ours, validation_batch_size=40)
    record = ours.average_record
    assert len(calls) == 4 and all(call["batch_size"] == 40 for call in calls)
    model.set_weights(best_first()[0])
    assert record.best == model.evaluate(*half, batch_size=40, verbose=0)[0] != ours.best_value
    assert record.value <= record.best
    same = stopper(validation_data=(x.copy(), y), average_k=4)
    assert len(replay(same)[1]) == 3 and same.average_record.best == same.best_value


def test_a_value_that_a_callback_has_changed_is_measured_again():
    class Halve(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] /= 2

    ours = stopper(average_k=3)
    _, calls = replay(ours, Halve())
    assert len(calls) == 3
    assert ours.average_record.best == pytest.approx(2 * ours.best_value)


def test_a_metric_that_evaluate_does_not_know_is_refused_with_the_reason():
    values = [0.1, 0.3, 0.2, *[0.0] * 7]
    ours = stopper(monitor="val_f1", mode="max", average_k=3)
    with warnings_like("'f1'.*validation_data=lambda") as count:
        model, _ = replay(ours, Curve(val_f1=values))
    assert count() == 1
    assert "'f1'" in str(ours.average_record) and not ours.average_record.accepted
    assert ours.average_record.members == ("epoch 2",)
    assert bits(model.get_weights()) == bits(recorded()[0][1])
    given = iter([0.3, 0.5, 0.4])
    ours = stopper(
        monitor="val_f1", mode="max", average_k=3, validation_data=lambda model: next(given)
    )
    model, _ = replay(ours, Curve(val_f1=values))
    assert ours.average_record.members == ("epoch 2", "epoch 3")
    assert ours.average_record.value == 0.5


def test_nan_is_never_accepted():
    ours = stopper(average_k=3, validation_data=lambda model: next(given))
    given = iter([0.5, float("nan"), float("nan")])
    model, _ = replay(ours)
    assert not ours.average_record.accepted
    assert [trial.reason for trial in ours.average_record.trials] == ["the value is NaN"] * 2
    assert bits(model.get_weights()) == bits(best_first()[0])


def test_epochs_with_weights_that_are_not_finite_are_no_members():
    class Spoil(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                spoilt = self.model.get_weights()
                spoilt[0][0, 0] = np.nan
                self.model.set_weights(spoilt)

    ours = stopper(average_k=2, validation_data=lambda model: 0.0)
    replay(ours, Spoil(), Curve(val_loss=[0.1, 0.2, 0.3]), epochs=3)
    assert ours.average_record.trials[0].members == ("epoch 1", "epoch 3")


def test_epochs_before_the_first_that_is_looked_at_are_no_members():
    ours = stopper(start_from_epoch=6, average_k=10)
    replay(ours)
    tried = {name for trial in ours.average_record.trials for name in trial.members}
    assert tried == {"epoch 7", "epoch 8", "epoch 9", "epoch 10"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("average", ["soup", "mean"])
def test_on_real_runs_the_value_is_never_worse(average, seed):
    keras.utils.set_random_seed(seed)
    x, y = data(48, seed=seed)
    y = y + np.random.default_rng(seed).normal(size=y.shape).astype("float32")
    model = tiny(lambda: keras.optimizers.Adam(0.05))
    ours = stopper(average)
    model.fit(x[:24], y[:24], epochs=8, batch_size=4, verbose=0, callbacks=[ours],
              validation_data=(x[24:], y[24:]))  # fmt: skip
    found = model.evaluate(x[24:], y[24:], batch_size=4, verbose=0)
    assert found == ours.average_record.value <= ours.average_record.best == ours.best_value


# --- moving statistics ---


def normalized(**arguments):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.BatchNormalization()]
    model = keras.Sequential([*stack, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05, **arguments), "mse")
    return model


def train(model, ours, *more, epochs=4):
    validation = data(16, seed=1)
    fit(model, [*more, ours], epochs, validation_data=validation)
    return model.evaluate(*validation, batch_size=8, verbose=0)


def test_a_model_with_moving_statistics_is_refused_early_and_says_what_to_do():
    ours, seen = stopper(), []
    look = At("epoch_begin", 2, lambda: seen.append(count()))
    with warnings_like("moving_mean.*average_data=x_train") as count:
        value = train(normalized(), ours, look)
        train(normalized(), plain := stopper(None))
    assert count() == 1 and seen == [1]  # as soon as two epochs are known
    assert "average_data" in str(ours.average_record) and not ours.average_record.accepted
    assert value == ours.best_value == plain.best_value


def test_with_data_the_statistics_are_estimated_and_the_value_is_what_was_measured():
    for average in ("soup", "mean"):
        ours = stopper(average, average_data=data()[0])
        value = train(normalized(), ours)
        assert value == ours.average_record.value <= ours.average_record.best == ours.best_value
        assert ours.average_record.trials
    always = stopper(average_data=data()[0], validation_data=lambda model: -next(count))
    count = iter(range(9))
    model = normalized()
    train(model, always)
    x = data()[0]
    hidden = x @ model.layers[0].get_weights()[0] + model.layers[0].get_weights()[1]
    parts = hidden.reshape(4, 8, 8)
    _, _, mean, variance = model.layers[1].get_weights()
    np.testing.assert_allclose(mean, parts.mean(axis=1).mean(axis=0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(variance, parts.var(axis=1).mean(axis=0), rtol=1e-3)
    assert len(always.average_record.members) == 4


def test_frozen_statistics_are_no_obstacle():
    model = normalized()
    model.layers[1].trainable = False
    model.compile("sgd", "mse")
    ours = stopper()
    train(model, ours)
    assert ours.average_record.trials


# --- SwapEMAWeights ---


def averaging_sgd():
    return keras.optimizers.SGD(0.02, use_ema=True, ema_momentum=0.8)


@pytest.mark.parametrize("on_epoch", [None, False, True])
@pytest.mark.parametrize("ours_is_first", [False, True])
def test_with_averages_of_the_optimizer_what_was_scored_is_averaged(on_epoch, ours_is_first):
    keras.utils.set_random_seed(0)
    model, ours = tiny(averaging_sgd), stopper(average_k=3)
    swap = [] if on_epoch is None else [keras.callbacks.SwapEMAWeights(on_epoch)]
    callbacks = [ours, *swap] if ours_is_first else [*swap, ours]
    validation = data(16, seed=1)
    fit(model, callbacks, 4, validation_data=validation, shuffle=False)
    record = ours.average_record
    found = model.evaluate(*validation, batch_size=8, verbose=0)
    assert found == record.value <= record.best == pytest.approx(ours.best_value, rel=1e-5)
    before = bits(model.get_weights())
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                seen.append(bits(self.model.get_weights()))

    fit(model, [*callbacks, Look()], validation_data=validation)  # and training goes on from there
    assert seen[0] == before


# --- ways out ---


def test_ctrl_c_restores_the_best_epoch_without_validation():
    ours = stopper()
    model = shared()
    with pytest.raises(KeyboardInterrupt):
        replay(ours, At("train_batch_end", 7, press_ctrl_c), model=model)
    assert "Ctrl-C" in str(ours.average_record) or "KeyboardInterrupt" in str(ours.average_record)
    assert not ours.average_record.trials
    best = min(recorded()[0][:7], key=loss_of)
    assert bits(model.get_weights()) == bits(best)


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_among_the_averages_restores_the_best_epoch(presses):
    model, calls = shared(), []

    def value(model):
        calls.append(1)
        if len(calls) == 2:
            for _ in range(presses):
                press_ctrl_c()
        return float(-len(calls))

    ours = stopper(validation_data=value)
    with pytest.raises(KeyboardInterrupt):
        replay(ours, model=model)
    assert len(calls) == 2
    assert bits(model.get_weights()) == bits(best_first()[0])
    assert not ours.average_record.accepted and ours.best_weights is None
    replay(stopper(), model=model)  # and the model is in order


def test_a_pass_that_fails_restores_the_best_epoch_and_is_raised():
    class Failing(Batches):
        def __getitem__(self, index):
            if failing:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    failing = []
    model, ours = shared(), stopper()

    class Fail(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 9:
                failing.append(1)

    _, x, y = recorded()
    with pytest.raises(Exception, match=r"disk is gone|UNKNOWN"):
        replay(ours, Fail(), model=model, validation_data=Failing(x, y))
    assert bits(model.get_weights()) == bits(best_first()[0])
    assert "training ended with" in str(ours.average_record)
    failing.clear()
    replay(stopper(), model=model)


def test_an_exception_inside_a_guard_restores_the_best_epoch_without_validation():
    def fail():
        raise OSError("the data is gone")

    model, ours = shared(), stopper()
    callbacks = [Replay(), ours, At("epoch_begin", 7, fail)]
    _, x, y = recorded()
    arguments = {"epochs": 10, "validation_data": (x, y), "verbose": 0, "callbacks": callbacks}
    raised = pytest.raises(OSError, match="data is gone")
    with raised, counted(model) as calls, keras_ratchet.guard(model, callbacks):
        model.fit(x[:8], y[:8], **arguments)
    assert not calls and "OSError" in str(ours.average_record)
    assert bits(model.get_weights()) == bits(min(recorded()[0][:7], key=loss_of))


def test_a_preemption_leaves_no_time_for_averages(tmp_path):
    class Signal(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.history.epoch[-1:] == [5]:
                os.kill(os.getpid(), signal.SIGUSR1)

    ours = stopper()
    backup = keras_ratchet.BackupAndRestore(str(tmp_path), signals=["SIGUSR1"])
    _, calls = replay(ours, backup, Signal())
    assert backup.stop_reason.kind == "signal"
    assert not calls and "has to stop" in str(ours.average_record)


# --- memory ---


def big():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(50_000), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model, 4 * sum(int(np.prod(w.shape)) for w in model.weights)


@pytest.mark.parametrize("k", [2, 4])
def test_no_more_than_k_copies_are_held_and_none_after_training(k):
    """NumPy tells tracemalloc of each buffer: counted are those that our modules have made."""
    model, size = big()
    ours, seen = stopper(average_k=k, validation_data=lambda model: look() or -1.0), []

    def look():
        taken = tracemalloc.take_snapshot()
        ours_only = tracemalloc.Filter(True, "*keras_ratchet*")
        found = sum(s.size for s in taken.filter_traces([ours_only]).statistics("filename"))
        seen.append(found / size)

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            look()

    x, y = data(8)
    fitting = {"epochs": 8, "verbose": 0, "batch_size": 8, "validation_data": (x, y)}
    curve = Curve(val_loss=[9.0, 8.0, 7.0, 6.0, 7.5, 6.5, 5.0, 8.5])
    tracemalloc.start()
    try:
        model.fit(x, y, callbacks=[curve, ours, Look()], **fitting)
        during = list(seen)
        del model
        gc.collect()
        look()
    finally:
        tracemalloc.stop()
    assert max(during[:8]) == pytest.approx(k, abs=0.1)
    assert max(during[8:]) < k + 1.1  # JAX lets the model borrow the memory of a mean
    assert seen[-1] < 0.1


def test_the_buffers_are_used_again():
    ours, seen, held = stopper(average_k=3), set(), []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for member in ours._best_weights._top.members(ours._rule) if epoch else ():
                held.append(weakref.ref(member.values[0]))
                seen.add(member.values[0].ctypes.data)

    replay(ours, Look())
    assert len(held) > 20 and len(seen) == 3  # ten epochs, three places
    gc.collect()
    assert all(ref() is None for ref in held)
    assert ours.best_weights is None


# --- the rest ---


def test_the_optimizer_of_the_best_epoch_can_come_with_the_average():
    model, seen = shared(), []
    best = int(names([0])[0].split()[1]) - 1
    look = At("epoch_end", best, lambda: seen.extend(bits(model.optimizer.variables)))
    ours = stopper(restore_optimizer=True)
    replay(ours, look, model=model)
    assert ours.average_record.accepted
    assert bits(model.optimizer.variables) == seen


def test_nothing_but_the_weights_differs_from_a_run_without_averages():
    def run(average):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((4,)), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile("adam", "mse", metrics=["mae"])
        ours = stopper(average, average_data=data()[0] if average else None)
        fit(model, [ours], 5, validation_data=data(16, seed=1))
        rest = [*model.non_trainable_variables, *model.optimizer.variables]
        return bits([*rest, *model.metrics_variables]), np.random.random(), ours.best_value

    assert run(None) == run("soup") == run("mean")


def test_a_second_fit_begins_anew_and_can_be_the_same_callback():
    ours = stopper(average_k=3)
    model, _ = replay(ours)
    first = ours.average_record
    replay(ours, model=model)
    assert ours.average_record == first
    assert ours.average_record is not first


def test_it_can_be_copied_and_pickled_before_training():
    ours = stopper(average_k=3, monitor="val_loss")
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        replay(twin)
        assert twin.average_record.accepted and ours.average_record is None


def test_a_custom_loop_gives_a_function(tmp_path):
    snapshots, model, value = recorded()[0], shared(), evaluated
    ours = stopper(validation_data=value)
    with keras_ratchet.Run(str(tmp_path), model, callbacks=[ours]) as run:
        for epoch in run.epochs(10):
            model.set_weights(snapshots[epoch])
            run.log(val_loss=value(model))
    members, _, _ = oracle_soup(best_first()[:5])
    assert ours.average_record.members == names(members)
    assert value(model) == ours.average_record.value


class Give(keras.callbacks.Callback):
    """Gives a callback a state when all have been reset, as a resume does."""

    def __init__(self, target, state):
        super().__init__()
        self.target, self.given = target, state

    def on_train_begin(self, logs=None):
        self.target.load_state_dict(self.given)


def states_of(ours):
    """Return a callback's states at the end of each epoch of a replay."""
    states = []

    class Take(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            states.append(copy.deepcopy(ours.state_dict()))

    replay(ours, Take())
    return states[1:]


def go_on(ours, state, done):
    """Replay what is left after some epochs, from a state; return the model's weights."""
    _, x, y = recorded()
    model = shared()
    arguments = {"validation_data": (x, y), "verbose": 0, "batch_size": 100}
    callbacks = [Replay(), ours, Give(ours, state)]
    model.fit(x[:8], y[:8], initial_epoch=done, epochs=10, callbacks=callbacks, **arguments)
    return bits(model.get_weights())


@pytest.mark.parametrize("average", ["soup", "mean"])
def test_a_new_callback_goes_on_from_the_state_of_another(average):
    before = stopper(average, average_k=4)
    states = states_of(before)
    ended = bits(shared().get_weights())
    for done in (1, 9):
        ours = stopper(average, average_k=4)
        assert go_on(ours, states[done - 1], done) == ended
        assert ours.average_record == before.average_record
    del states[8]["kept"]["others"][0]  # and what is left out would show
    assert go_on(stopper(average, average_k=4), states[8], 9) != ended


def test_the_state_fits_whatever_was_asked_for_before():
    for before, k in ((stopper(None), 1), (stopper(average_k=5), 5), (stopper(average_k=2), 2)):
        state = states_of(before)[8]
        assert go_on(stopper(None), state, 9) == bits(best_first()[0])
        ours = stopper(average_k=3)
        go_on(ours, state, 9)
        assert ours.average_record.best == before.best_value
        assert len(ours.average_record.trials) == min(k + 1, 3) - 1
        assert evaluated(shared()) == ours.average_record.value


def test_what_was_decided_is_in_the_log_the_journal_and_on_the_screen(tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO, "keras_ratchet")
    checkpoint = keras_ratchet.ModelCheckpoint(str(tmp_path / "best.keras"), save_best_only=True)
    ours = stopper(verbose=1)
    replay(ours, checkpoint)
    assert "Average: the mean of" in capsys.readouterr().out
    assert any("average: the mean of" in entry.getMessage() for entry in caplog.records)
    (event,) = [e for e in journal.read(str(tmp_path)) if e["event"] == "average"]
    assert event["reason"] == str(ours.average_record) and len(event["trials"]) == 4
    assert event["members"] == list(ours.average_record.members)
    assert event["value"] == ours.average_record.value


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"average": "soups"}, "'soup', 'mean'"),
        ({"average_k": 1}, "at least 2"),
        ({"average": None, "validation_data": 1}, "average='soup'"),
        ({"average": None, "average_data": 1}, "average='soup'"),
        ({"restore_best_weights": False}, "restore_best_weights=True"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments, match):
    with pytest.raises(ConfigError, match=match):
        stopper(**arguments)


def test_what_cannot_be_measured_is_found_when_training_begins():
    x, y = data()
    with pytest.raises(ConfigError, match="no data to measure"):
        dense().fit(x, y, callbacks=[stopper(monitor="loss")], verbose=0)
    with pytest.raises(ConfigError, match="only once"):
        endless = iter(lambda: (x, y), None)
        dense().fit(x, y, callbacks=[stopper()], validation_data=endless, validation_steps=2)
    with pytest.raises(ConfigError, match="only once"):
        ours = stopper(average_data=iter([x]))
        dense().fit(x, y, callbacks=[ours], validation_data=(x, y), verbose=0)
    bare = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(ConfigError, match="not compiled"):
        keras.callbacks.CallbackList([stopper(validation_data=(x, y))], model=bare).on_train_begin()


def test_a_training_metric_is_measured_on_the_data_that_is_given():
    _, x, y = recorded()
    ours = stopper(monitor="loss", validation_data=(x, y), average_k=3)
    with warnings_like("mean over the batches"):
        model, calls = replay(ours, validation_data=None)
    assert len(calls) == 3
    assert ours.average_record.value == evaluated(model)
