"""The losses of the validation batches, recovered from Keras's running means without a pass."""

import math
import threading

import keras
import numpy as np
import pytest
from support.models import data, dense

from keras_ratchet import EarlyStopping
from keras_ratchet.callbacks._logs import _RunningMeans
from keras_ratchet.errors import ConfigError, MetricError
from keras_ratchet.policy import Criterion, Patience, Verdict
from keras_ratchet.policy.experimental import SignificantImprovement


class Looks(Criterion):
    """Keeps what it is shown of the validation's batches."""

    def __init__(self):
        self.seen, self.logged, self.threads = [], [], set()

    def needs(self):
        return frozenset({"batches"})

    def check(self, state, moment):
        self.seen.append(dict(moment.batches))
        self.logged.append(dict(moment.metrics))
        self.threads.add(threading.current_thread())
        return state, Verdict(False, "looks", "it looks")


def fit(callbacks, model=None, rows=32, epochs=3, **arguments):
    x, y = data(rows)
    model = model or dense(metrics=["mae"])
    arguments = {"validation_data": (x, y), "validation_batch_size": 8, **arguments}
    model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks, **arguments)
    return model


@pytest.mark.parametrize("bare", [True, False])
def test_they_are_the_losses_of_the_batches(bare):
    looks = Looks()
    stopper = EarlyStopping(criterion=looks)
    model = fit(stopper if bare else [stopper])
    x, y = data(32)
    for name in ("loss", "mae"):
        direct = [
            model.evaluate(x[i : i + 8], y[i : i + 8], verbose=0, return_dict=True)[name]
            for i in range(0, 32, 8)
        ]
        assert looks.seen[-1][f"val_{name}"] == pytest.approx(direct, rel=1e-5)


@pytest.mark.parametrize("rows", [32, 27])
def test_their_mean_is_the_logged_metric_also_with_a_smaller_last_batch(rows):
    looks = Looks()
    fit([EarlyStopping(criterion=looks)], rows=rows)
    assert len(looks.seen) == 3
    for batches, logged in zip(looks.seen, looks.logged, strict=True):
        assert set(batches) == {"val_loss", "val_mae"}
        for name, values in batches.items():
            assert len(values) == math.ceil(rows / 8)
            assert np.mean(values) == pytest.approx(logged[name], rel=1e-5)


def test_running_means_under_steps_per_execution_give_the_means_of_groups():
    losses = [3.0, 1.0, 5.0, 7.0, 4.0]
    means = np.cumsum(losses) / np.arange(1, 6)
    running = _RunningMeans()
    for last in (1, 3, 4):  # two batches end at once, and one
        running.add(last, {"loss": means[last]})
    assert running.values["loss"] == pytest.approx([2.0, 6.0, 4.0])


def test_an_epoch_without_validation_has_no_batches():
    looks = Looks()
    with pytest.warns(UserWarning, match="ran no validation"):
        fit([EarlyStopping(criterion=Patience(9) | looks)], validation_freq=2, epochs=4)
    assert [len(batches) for batches in looks.seen] == [0, 2, 0, 2]


def test_validations_before_the_start_leave_no_trace():
    looks = Looks()
    fit([EarlyStopping(criterion=looks, start_from_epoch=2)], epochs=4)
    assert [len(batches["val_loss"]) for batches in looks.seen] == [4, 4]
    for batches, logged in zip(looks.seen, looks.logged, strict=True):
        assert np.mean(batches["val_loss"]) == pytest.approx(logged["val_loss"], rel=1e-5)


def test_an_evaluation_in_between_leaves_no_trace():
    class Evaluates(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            x, y = data(8)
            self.model.evaluate(x, y, batch_size=4, verbose=0)

    plain, beside = Looks(), Looks()
    keras.utils.set_random_seed(1)
    fit([EarlyStopping(criterion=plain)], shuffle=False)
    keras.utils.set_random_seed(1)
    fit([Evaluates(), EarlyStopping(criterion=beside)], shuffle=False)
    assert beside.seen == plain.seen


def test_the_batches_are_read_on_the_training_thread():
    threads = set()

    class Mine(EarlyStopping):
        def on_test_batch_end(self, batch, logs=None):
            threads.add(threading.current_thread())

    fit(Mine(criterion=Looks()))  # bare: such a list is asynchronous unless it is told otherwise
    assert threads == {threading.current_thread()}


def test_the_hook_is_there_for_this_criterion_only():
    default = keras.callbacks.Callback.on_test_batch_end
    hook = EarlyStopping(criterion=Patience(3)).on_test_batch_end
    assert hook.__func__ is default
    hook = EarlyStopping(criterion=Patience(3) | ~SignificantImprovement()).on_test_batch_end
    assert getattr(hook, "__func__", None) is not default


class Noisy(keras.layers.Layer):
    """Lets the loss stand still but for noise."""

    def build(self, shape):
        self.level = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        return 0 * keras.ops.sum(x, axis=1, keepdims=True) + self.level


def test_gains_within_the_noise_stop_a_run_that_patience_would_let_go_on():
    """The loss falls by a thousandth each epoch, and single batches go up and down by more."""
    x = np.ones((32, 1), "float32")

    class Shift(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rng = np.random.default_rng(epoch)
            noise = rng.normal(scale=0.05, size=(4, 1)).repeat(8, axis=1).reshape(32, 1)
            noise -= noise.mean()
            targets[...] = 1.0 - 0.001 * epoch + noise

    class Sequence(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            rows = slice(8 * index, 8 * index + 8)
            return x[rows], targets[rows]

    def run(criterion):
        targets[...] = 1.0
        model = keras.Sequential([keras.Input((1,)), Noisy()])
        model.compile("sgd", "mae")
        stopper = EarlyStopping(criterion=criterion)
        history = model.fit(
            Sequence(),
            validation_data=Sequence(),
            epochs=12,
            verbose=0,
            callbacks=[stopper, Shift()],
        )
        return len(history.epoch), stopper.stop_reason

    targets = np.ones((32, 1))
    assert run(Patience(4)) == (12, None)
    count, reason = run(SignificantImprovement(c=3, limit=4))
    assert count < 12 and reason.kind == "significance"
    assert reason.values["standard_error"] > abs(reason.values["gain"]) / 3


def test_a_validation_of_one_batch_is_refused_with_what_to_do():
    with pytest.raises(MetricError, match="Use smaller validation batches"):
        fit([EarlyStopping(criterion=SignificantImprovement())], rows=8)


def test_a_loop_without_the_hook_is_refused():
    model = dense()
    stopper = EarlyStopping(criterion=SignificantImprovement())
    stopper.set_model(model)
    stopper.on_train_begin()
    stopper.on_epoch_begin(0)
    with pytest.raises(ConfigError, match=r"in a custom loop, pass Moment"):
        stopper.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0})
    stopper.on_train_end()
