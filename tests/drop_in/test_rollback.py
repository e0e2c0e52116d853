"""A run that Keras loses to NaN ends with a good model, bit by bit the expected one.

The oracle: going back to the state after batch k and on with batch m trains as if the batches
between had not been in the data.
"""

import copy
import logging
import math
import pickle

import keras
import numpy as np
import pytest
from support.poison import (
    BATCH,
    BATCHES,
    Break,
    is_finite,
    net,
    poisoned,
    rows,
    state,
    train,
    values,
    without,
)
from support.runs import KERAS_IS_AS_DESCRIBED
from support.versions import AT_MOST_3_15

import keras_ratchet
from keras_ratchet import Rollback
from keras_ratchet._engine.capture.best_weights import BestWeights
from keras_ratchet.errors import ConfigError, MissingMetricError, ScheduleError

GRAPH = {"run_eagerly": False}
AT_ONCE = {"factor": 1.0, "every": 1, "confirm": 0}


def sgd(rate=0.05, **args):
    return keras.optimizers.SGD(rate, momentum=0.9, **args)


def differences(one, other):
    """Return what is not equal bit for bit in two models that were trained."""
    found = [] if state(one) == state(other) else ["state"]
    same = repr(one.history.history) == repr(other.history.history)
    return found if same else [*found, "history"]


def expected(bad, make=net, epochs=1, **args):
    """Return the model trained on the data without the batches in `bad`."""
    model = make()
    train(model, without(bad), epochs=epochs, **args)
    return model


def mean_loss(model):
    """Return the model's loss on data without poison, computed by hand."""
    x, y = rows()
    found = np.asarray(keras.ops.convert_to_numpy(model(x)), "float64")
    return float(np.mean((found - y) ** 2))


def test_a_poisoned_batch_leaves_no_trace():
    def make():
        return net(metrics=["mae"], **GRAPH)

    data = poisoned([5])
    if KERAS_IS_AS_DESCRIBED:
        theirs = make()
        train(theirs, data, epochs=3)
        assert not is_finite(theirs)
        stopped = make()
        train(stopped, data, [keras.callbacks.TerminateOnNaN()], epochs=3)
        assert not is_finite(stopped)  # the batch has spoilt the weights before it is seen
    ours, rollback = make(), Rollback(**AT_ONCE)
    train(ours, data, [rollback], epochs=3)
    assert differences(ours, expected([5], make, epochs=3)) == []
    assert [(r.epoch_index, r.batch_index, r.to_epoch, r.to_batch) for r in rollback.rollbacks] == [
        (0, 5, 0, 5),
        (1, 5, 1, 5),
        (2, 5, 2, 5),
    ]
    assert rollback.rollbacks[0].why == "loss is nan" and rollback.stop_reason is None


def test_too_large_a_learning_rate_is_cut_until_it_fits():
    def make():
        return net(keras.optimizers.SGD(30.0), **GRAPH)

    if KERAS_IS_AS_DESCRIBED:
        for extra in ([], [keras.callbacks.TerminateOnNaN()]):
            theirs = make()
            train(theirs, rows(), extra, epochs=12)
            assert not mean_loss(theirs) < 1e6  # NaN, or weights that are as good as that
    ours, rollback = make(), Rollback(factor=0.2, max_rollbacks=5, every=5, confirm=5)
    before = mean_loss(ours)
    train(ours, rows(), [rollback], epochs=20)
    assert is_finite(ours)
    assert mean_loss(ours) < 0.1 * before
    assert 1 <= len(rollback.rollbacks) <= 5 and rollback.stop_reason is None
    rate = float(keras.ops.convert_to_numpy(ours.optimizer.learning_rate))
    assert rate == pytest.approx(30.0 * 0.2 ** len(rollback.rollbacks), rel=1e-5)
    assert rollback.rollbacks[-1].learning_rate == pytest.approx(rate)


def test_a_state_on_a_way_that_ends_in_nan_is_none_to_go_back_to():
    """The loss grows for more than 25 batches before it is infinite: states are taken meanwhile."""

    def run(confirm):
        layer = keras.layers.Dense(1, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((3,)), layer])
        model.compile(keras.optimizers.SGD(2.0), "mse", jit_compile=False)
        rollback = Rollback(factor=0.05, every=10, confirm=confirm)
        train(model, rows(), [rollback], epochs=12)
        first = rollback.rollbacks[0]
        assert 10 * first.epoch_index + first.batch_index > 25
        return model, 10 * first.to_epoch + first.to_batch

    model, back_to = run(confirm=5)
    assert back_to == 0 and mean_loss(model) < 0.1
    assert run(confirm=4)[1] == 20  # with less than five batches there is nothing to compare


def test_the_batches_since_the_good_state_are_lost_and_no_others():
    rollback = Rollback(factor=1.0, every=3, confirm=2)
    model = net()
    train(model, poisoned([7]), [rollback])
    # taken after batch 3, good after 5; taken after 6, and not yet good when batch 8 comes
    assert (rollback.rollbacks[0].to_batch, rollback.rollbacks[0].batch_index) == (3, 7)
    assert differences(model, expected([3, 4, 5, 6, 7])) == []
    assert differences(model, expected([7])) == ["state", "history"]


def test_the_state_before_the_first_batch_is_the_first_good_one():
    rollback = Rollback(factor=1.0)
    model = net()
    train(model, poisoned([2]), [rollback])
    assert (rollback.rollbacks[0].to_epoch, rollback.rollbacks[0].to_batch) == (0, 0)
    assert differences(model, expected([0, 1, 2])) == []


def test_every_epoch_goes_back_to_its_begin():
    rollback = Rollback(factor=1.0, every="epoch", confirm=3)
    model = net()
    train(model, poisoned([7]), [rollback], epochs=2)
    assert [(r.to_epoch, r.to_batch) for r in rollback.rollbacks] == [(0, 0), (1, 0)]
    assert differences(model, expected(range(8), epochs=2)) == []


def test_momentum_ema_and_averages_go_back_too():
    def make():
        layers = [keras.layers.BatchNormalization()]
        return net(sgd(use_ema=True, ema_momentum=0.9), layers, **GRAPH)

    for extra in ([], [keras.callbacks.SwapEMAWeights()]):
        ours, theirs = make(), make()
        val = {"validation_data": rows(3, seed=4), "epochs": 2}
        train(ours, poisoned([5]), [*extra, Rollback(**AT_ONCE)], **val)
        again = [keras.callbacks.SwapEMAWeights()] if extra else []
        train(theirs, without([5]), again, **val)
        assert differences(ours, theirs) == []
        assert is_finite(ours)


@pytest.mark.parametrize("on_epoch", [False, True])
def test_weights_that_break_in_the_last_batch_are_mended_whatever_is_swapped_by_then(on_epoch):
    model = net(sgd(use_ema=True, ema_momentum=0.9))
    x, y = rows()
    stream = (((x, y) for _ in range(BATCHES)) for _ in range(1))  # of unknown length
    callbacks = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch),
        Break(BATCHES - 1),
        rollback := Rollback(**AT_ONCE | {"every": 2}),
    ]
    model.fit(next(stream), epochs=1, verbose=0, callbacks=callbacks)
    assert [r.to_batch for r in rollback.rollbacks] == [8]
    assert is_finite(model)


def test_weights_that_break_are_seen_before_the_validation_and_before_the_end_of_the_epoch():
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen["validation"] = is_finite(self.model)

        def on_epoch_end(self, epoch, logs=None):
            seen["epoch"] = dict(logs)

    model, rollback = net(), Rollback(**AT_ONCE)
    callbacks = [Break(BATCHES - 1), rollback, Look()]
    train(model, rows(), callbacks, validation_data=rows(3, seed=4))
    assert seen["validation"] and math.isfinite(seen["epoch"]["val_loss"])
    assert rollback.rollbacks[0].why.endswith("kernel is not finite")
    assert rollback.rollbacks[0].to_batch == BATCHES - 1  # the last state is taken after this look


def test_the_learning_rate_is_cut_from_what_it_is_and_not_from_what_it_was():
    rollback = Rollback(factor=0.5, every=100, max_rollbacks=3)
    model = net(keras.optimizers.SGD(0.08))
    train(model, poisoned([1, 3, 6]), [rollback])
    # each time back to the state before the first batch, which was taken with 0.08
    rates = [r.learning_rate for r in rollback.rollbacks]
    assert rates == pytest.approx([0.04, 0.02, 0.01])
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.01)


def test_after_so_many_times_training_stops_with_the_good_weights():
    seen = []

    class Batches(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

    rollback = Rollback(factor=1.0, every=1, confirm=0, max_rollbacks=2)
    model = net()
    train(model, poisoned([1, 3, 6]), [rollback, Batches()], epochs=4)
    assert seen == list(range(7)) and len(model.history.epoch) == 1
    assert differences(model, expected([1, 3, 6, 7, 8, 9])) == []
    assert rollback.stop_reason.kind == "rollback" and rollback.stop_reason.epoch == 0
    assert str(rollback.stop_reason) == (
        "loss is nan, and training has rolled back 2 times (max_rollbacks)"
    )
    assert len(rollback.rollbacks) == 2


def test_who_never_comes_forward_is_told_what_to_change():
    rollback = Rollback(every=20, confirm=5, max_rollbacks=2)
    train(net(), poisoned([5]), [rollback], epochs=4)
    assert [(r.to_epoch, r.to_batch) for r in rollback.rollbacks] == [(0, 0), (0, 0)]
    assert "each time to the same state" in str(rollback.stop_reason)


def test_a_second_fit_begins_anew():
    rollback = Rollback(max_rollbacks=1, **AT_ONCE)
    model = net()
    for _ in range(2):
        train(model, poisoned([4]), [rollback])
        assert len(rollback.rollbacks) == 1 and rollback.stop_reason is None


def test_the_logs_of_an_epoch_that_ends_in_nan_say_so_and_those_of_the_next_do_not():
    rollback = Rollback(factor=1.0, every="epoch", confirm=0)
    model = net()
    train(model, poisoned([BATCHES - 1]), [rollback], epochs=1)
    assert math.isnan(model.history.history["loss"][0]) and is_finite(model)
    model = net()
    data = rows(2 * BATCHES)
    data[0][BATCHES * BATCH - 1] = np.nan
    both = [tuple(a[i * BATCHES * BATCH :][: BATCHES * BATCH] for a in data) for i in range(2)]

    class Second(keras.utils.PyDataset):
        epoch = 0

        def __len__(self):
            return BATCHES

        def __getitem__(self, i):
            x, y = both[self.epoch]
            return x[i * BATCH :][:BATCH], y[i * BATCH :][:BATCH]

        def on_epoch_end(self):
            self.epoch = min(self.epoch + 1, 1)

    model.fit(Second(), epochs=2, shuffle=False, verbose=0, callbacks=[Rollback(**AT_ONCE)])
    assert np.isfinite(model.history.history["loss"]).all()


def test_the_mean_of_an_epoch_begins_anew_if_its_batches_were_undone():
    model = net()
    train(model, poisoned([4]), [Rollback(factor=1.0, every="epoch", confirm=0)])
    after = expected(range(5))
    assert model.history.history == after.history.history


def test_a_spike_is_undone_if_asked_for():
    x, y = rows()
    y[6 * BATCH : 7 * BATCH] += 1000.0
    asked = {"spike_z": 8.0, "window": 5}
    ours, rollback = net(), Rollback(**AT_ONCE, **asked)
    train(ours, (x, y), [rollback])
    assert [(r.kind, r.batch_index) for r in rollback.rollbacks] == [("spike", 6)]
    assert "standard deviations from the mean" in rollback.rollbacks[0].why
    assert differences(ours, expected([6])) == []
    calm, silent = net(), Rollback(**AT_ONCE)
    train(calm, (x, y), [silent])
    assert silent.rollbacks == [] and differences(calm, expected([6])) != []


def test_a_spike_is_found_where_every_batch_logs_its_own_loss():
    losses = [1.0, 1.1, 0.9, 1.0, 1.1, 1.0, 30.0, 1.0, 1.0, 1.0]

    class Dictate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            logs["own"] = losses[batch]

    rollback = Rollback("own", spike_z=8.0, window=5, **AT_ONCE)
    train(net(), rows(), [Dictate(), rollback])
    assert [(r.kind, r.batch_index) for r in rollback.rollbacks] == [("spike", 6)]


def test_random_numbers_go_back_only_if_asked_to():
    def make():
        return net(layers=[keras.layers.Dropout(0.5, seed=3)])

    oracle = expected([5], make)
    kept, other = make(), make()
    train(kept, poisoned([5]), [Rollback(restore_rng=True, **AT_ONCE)])
    assert differences(kept, oracle) == []
    train(other, poisoned([5]), [Rollback(**AT_ONCE)])
    assert is_finite(other)
    assert differences(other, oracle) == ["state", "history"]


def test_an_overflow_of_float16_is_the_optimizers_own_affair():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        scaled = keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=2.0**40)
        model, rollback = net(scaled), Rollback(every=2, confirm=2)
        train(model, rows(), [rollback], epochs=3)
        scale = float(keras.ops.convert_to_numpy(scaled.dynamic_scale))
        assert scale < 2.0**30  # it did overflow, many times
        assert rollback.rollbacks == [] and is_finite(model)
        poison = net(keras.optimizers.LossScaleOptimizer(sgd(), initial_scale=8.0))
        train(poison, poisoned([5]), [rollback])
        assert len(rollback.rollbacks) == 1 and is_finite(poison)
    finally:
        keras.config.set_dtype_policy("float32")


def test_batches_that_end_at_once_are_undone_at_once(backend):
    at_once = 1 if backend == "torch" and AT_MOST_3_15 else 2  # torch refused more
    rollback = Rollback(**AT_ONCE)
    model = net(steps_per_execution=at_once, **GRAPH)
    train(model, poisoned([5]), [rollback])
    lost = [5] if at_once == 1 else [4, 5]
    assert [(r.batch_index, r.to_batch) for r in rollback.rollbacks] == [(5, lost[0])]
    assert (
        differences(model, expected(lost, lambda: net(steps_per_execution=at_once, **GRAPH))) == []
    )


def test_a_constant_that_is_infinite_is_no_incident(caplog):
    class Mask(keras.layers.Layer):
        def build(self, shape):
            self.mask = self.add_weight(
                shape=(8,), initializer=keras.initializers.Constant(-np.inf), trainable=False
            )

        def call(self, x):
            return x

    model, rollback = net(layers=[Mask()]), Rollback(**AT_ONCE)
    with caplog.at_level(logging.WARNING, "keras_ratchet"):
        train(model, poisoned([5]), [rollback])
    assert [r.why for r in rollback.rollbacks] == ["loss is nan"]
    assert caplog.text.count("is not finite at the start, so it is not watched") == 1


def test_a_model_that_is_built_by_fit_has_a_state_before_its_first_batch():
    def make():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
        return model

    model, rollback = make(), Rollback(**AT_ONCE)
    train(model, poisoned([0]), [rollback])
    assert [(r.batch_index, r.to_batch) for r in rollback.rollbacks] == [(0, 0)]
    assert is_finite(model)


def test_a_bare_callback_works_as_one_in_a_list():
    model = net()
    x, y = poisoned([5])
    rollback = Rollback(**AT_ONCE)
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=rollback)
    assert differences(model, expected([5])) == []


def test_one_copy_or_two_and_none_after_fit():
    held = {}

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            states = rollback._engine.points
            held[batch] = [
                {id(b) for b in one._weights._weights.buffers}
                for one in (states.good, states._candidate)
            ]

    for confirm, copies in ((0, 1), (2, 2)):
        rollback = Rollback(every=2, confirm=confirm)
        train(net(), rows(), [rollback, Look()])
        assert len([one for one in held[9] if one]) == copies
        assert set.union(*held[5]) == set.union(*held[9])  # the same buffers all the time
        assert not rollback._engine.points.good.is_captured


def test_an_exception_leaves_a_good_model():
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 4:
                raise ValueError("the data is gone")

    model, rollback = net(), Rollback(**AT_ONCE)
    callbacks = [rollback, Break(4), Fail()]
    with pytest.raises(ValueError, match="gone"), keras_ratchet.guard(model, callbacks):
        train(model, rows(), callbacks)
    assert is_finite(model)


def test_a_loop_of_ones_own_goes_back_too(tmp_path):
    x, y = poisoned([3])
    model, rollback = net(), Rollback(**AT_ONCE)
    with keras_ratchet.Run(tmp_path / "run", model, callbacks=[rollback]) as run:
        for _ in run.epochs(2):
            for batch in run.batches(range(BATCHES)):
                rows_ = slice(batch * BATCH, (batch + 1) * BATCH)
                run.log(loss=model.train_on_batch(x[rows_], y[rows_]))
    oracle = net()
    xs, ys = rows()
    for batch in [b for b in range(BATCHES) if b != 3] * 2:
        oracle.train_on_batch(xs[batch * BATCH :][:BATCH], ys[batch * BATCH :][:BATCH])
    assert [r.batch_index for r in rollback.rollbacks] == [3, 3]
    mine, theirs = ([*m.trainable_variables, *m.optimizer.variables] for m in (model, oracle))
    assert [v.tobytes() for v in values(mine)] == [v.tobytes() for v in values(theirs)]


def test_a_loop_with_an_optimizer_of_torch_goes_back_to_the_same_state_again_and_again():
    """torch's `load_state_dict` takes the tensors as they are, and training writes into them."""
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)

    def step():
        weight.grad = torch.ones(3)
        optimizer.step()

    def moments():
        return {name: value.numpy().copy() for name, value in optimizer.state[weight].items()}

    model, kept = net(), BestWeights(optimizer)
    step()
    expected = moments()
    kept.capture(model, {})
    for _ in range(3):
        step()
        kept.restore(model)
        assert {n: v.tobytes() for n, v in moments().items()} == {
            n: v.tobytes() for n, v in expected.items()
        }


def test_a_schedule_is_refused_when_training_begins_unless_it_is_left_alone():
    def make():
        schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.5)
        return net(keras.optimizers.SGD(schedule))

    with pytest.raises(ScheduleError, match=r"factor=1\.0") as caught:
        train(make(), rows(), [Rollback()])
    assert isinstance(caught.value, TypeError) and "Rollback cannot cut" in str(caught.value)
    model = make()
    train(model, poisoned([5]), [Rollback(**AT_ONCE)])
    assert differences(model, expected([5], make)) == []


@pytest.mark.parametrize("module", [keras.callbacks, keras_ratchet])
def test_who_stops_at_nan_cannot_go_back_from_it(module):
    with pytest.raises(ConfigError, match="TerminateOnNaN stops training where Rollback"):
        train(net(), rows(), [Rollback(), module.TerminateOnNaN()])


def test_a_metric_that_no_batch_has_is_an_error():
    with pytest.raises(ConfigError, match="the logs of batches have no 'val_loss'"):
        Rollback("val_loss")
    with pytest.raises(MissingMetricError, match=r"'lost' is not in the logs.*'loss'"):
        train(net(), rows(), [Rollback("lost")])


def test_a_model_without_an_optimizer_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    rollback = Rollback()
    rollback.set_model(model)
    with pytest.raises(ConfigError, match="optimizer=optimizer"):
        rollback.on_train_begin()
    rollback.on_train_abort(ValueError())


def test_every_time_is_told_in_one_line_and_in_every_journal(tmp_path, caplog, capsys):
    checkpoint = keras_ratchet.ModelCheckpoint(
        tmp_path / "m" / "{epoch}.weights.h5", save_weights_only=True
    )
    backup = keras_ratchet.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)
    rollback = Rollback(factor=0.5, every=1, confirm=0, verbose=1)
    with caplog.at_level(logging.INFO, "keras_ratchet"):
        train(net(), poisoned([5]), [rollback, checkpoint, backup])
    sentence = "loss is nan: back to the state after 0 epochs and 5 batches, learning rate 0.005"
    told = [(r.levelno, r.message) for r in caplog.records if "back to" in r.message]
    # on the screen it is already
    assert told == [(logging.INFO, f"epoch 1, batch 6: {sentence}")]
    assert f"Epoch 1: {sentence}" in capsys.readouterr().out
    from keras_ratchet._storage import journal

    for folder in ("m", "b"):
        events = [e for e in journal.read(str(tmp_path / folder)) if e["event"] == "rollback"]
        assert [(e["epoch"], e["batch"], e["reason"]) for e in events] == [(0, 6, sentence)]


def test_it_survives_copying_and_pickling():
    for copied in (copy.deepcopy(Rollback()), pickle.loads(pickle.dumps(Rollback(**AT_ONCE)))):
        model = net()
        train(model, poisoned([5]), [copied])
        assert is_finite(model) and len(copied.rollbacks) == 1


def test_a_run_without_incidents_is_trained_as_without_us():
    args = {"validation_data": rows(3, seed=4), "epochs": 3}
    plain, watched = net(), net()
    train(plain, rows(), **args)
    train(watched, rows(), [Rollback(every=3, confirm=2, spike_z=20.0)], **args)
    assert differences(watched, plain) == []
