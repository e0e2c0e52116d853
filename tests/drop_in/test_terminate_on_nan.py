"""A stop at NaN leaves a good model, and is not blind to the weights and the validation."""

import logging
import math

import keras
import numpy as np
import pytest
from support.poison import Break, is_finite, net, poisoned, rows, state, train
from support.runs import KERAS_IS_AS_DESCRIBED, At, run

import keras_ratchet
from keras_ratchet import TerminateOnNaN
from keras_ratchet.errors import ConfigError, NonFiniteError

NAN = math.nan


def trained(epochs):
    """Return the model after so many whole epochs; 0: as it is built."""
    model = net()
    model.optimizer.build(model.trainable_variables)
    if epochs:
        train(model, rows(), epochs=epochs)
    return model


class Batches(keras.utils.PyDataset):
    """Is good until it is spoilt."""

    spoilt = False

    def __len__(self):
        return 10

    def __getitem__(self, index):
        x, y = poisoned([5]) if self.spoilt else rows()
        return x[index * 4 :][:4], y[index * 4 :][:4]


def fit_until(epoch, model, callbacks, **args):
    """Train on data that is poisoned from an epoch on."""
    batches = Batches()
    spoil = At("epoch_begin", epoch, lambda: setattr(batches, "spoilt", True))
    args = {"epochs": 9, "shuffle": False, "verbose": 0} | args
    model.fit(batches, callbacks=[spoil, *callbacks], **args)


def test_a_stop_at_nan_ends_with_the_last_good_epoch():
    def run_with(callback):
        model = net(run_eagerly=False)
        fit_until(2, model, [callback])
        assert len(model.history.epoch) == 3
        return model

    if KERAS_IS_AS_DESCRIBED:
        assert not is_finite(run_with(keras.callbacks.TerminateOnNaN()))
    ours = TerminateOnNaN()
    model = run_with(ours)
    whole = net(run_eagerly=False)
    train(whole, rows(), epochs=2)
    assert state(model) == state(whole)  # the optimizer too: it can be trained on
    assert math.isnan(model.history.history["loss"][-1])
    assert ours.stop_reason.kind == "not finite" and ours.stop_reason.epoch == 2
    assert str(ours.stop_reason) == (
        "loss is nan in epoch 3, batch 6; weights and optimizer are those of the start of epoch 3"
    )


def test_in_the_first_epoch_it_ends_with_what_it_began_with():
    model = net()
    train(model, poisoned([5]), [TerminateOnNaN()], epochs=3)
    assert state(model) == state(trained(0))


def test_a_model_that_is_built_by_fit_has_weights_to_go_back_to():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=False)
    train(model, poisoned([0]), [TerminateOnNaN()])
    assert is_finite(model)


def test_restore_false_keeps_what_is_not_finite_as_keras_does():
    model, ours = net(), TerminateOnNaN(restore=False)
    train(model, poisoned([5]), [ours])
    assert not is_finite(model) and not ours._start_weights.is_captured
    assert str(ours.stop_reason) == "loss is nan in epoch 1, batch 6"


def test_it_stops_at_the_batch_and_says_the_same_as_keras(capsys):
    said = []
    for module in (keras.callbacks, keras_ratchet):
        seen = []
        count = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, seen=seen: seen.append(batch)
        )
        train(net(), poisoned([3]), [module.TerminateOnNaN(), count], epochs=2)
        said.append((seen, capsys.readouterr().out))
    assert said[0][0] == said[1][0] == [0, 1, 2, 3]
    assert "Batch 3: Invalid loss, terminating training" in said[1][1]
    if KERAS_IS_AS_DESCRIBED:
        assert said[0][1] == said[1][1]


def test_the_validations_loss_is_looked_at():
    curve = [0.5, NAN, 0.4]
    if KERAS_IS_AS_DESCRIBED:
        assert len(run(keras.callbacks.TerminateOnNaN(), val_loss=curve).history.epoch) == 3
    ours = TerminateOnNaN()
    assert len(run(ours, val_loss=curve).history.epoch) == 2
    assert str(ours.stop_reason).startswith("val_loss is nan after epoch 2")
    other = TerminateOnNaN(monitor=["val_f"])
    assert len(run(other, val_loss=curve).history.epoch) == 3
    assert len(run(other, val_f=[math.inf, 1.0]).history.epoch) == 1


def test_the_weights_are_looked_at_after_each_epoch():
    """They break in the last batch: no loss of this epoch tells."""
    if KERAS_IS_AS_DESCRIBED:
        theirs = net()
        train(theirs, rows(), [keras.callbacks.TerminateOnNaN(), Break(9)], epochs=1)
        assert not is_finite(theirs)
    model, ours = net(), TerminateOnNaN()
    train(model, rows(), [ours, Break(9)], epochs=1)
    assert state(model) == state(trained(0))
    assert "kernel is not finite after epoch 1" in str(ours.stop_reason)


def test_an_error_comes_with_good_weights_and_without_the_end_of_training():
    ended = []
    end = keras.callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(True))
    model = net()
    with pytest.raises(RuntimeError, match=r"NaN or Inf loss encountered at batch 5\. Loss") as e:
        train(model, poisoned([5]), [TerminateOnNaN(raise_error=True), end], epochs=2)
    assert isinstance(e.value, NonFiniteError) and ended == []
    assert state(model) == state(trained(0))


def test_an_error_leaves_the_best_weights_of_early_stopping():
    model = net()
    stopper = keras_ratchet.EarlyStopping(patience=9, restore_best_weights=True)
    callbacks = [stopper, TerminateOnNaN(raise_error=True)]
    with pytest.raises(NonFiniteError):
        fit_until(2, model, callbacks, validation_data=rows(3, seed=4))
    whole = trained(2)
    assert state(model)[:4] == state(whole)[:4] and stopper.best_epoch == 1


def test_what_saves_after_it_saves_what_is_good(tmp_path):
    path = tmp_path / "{epoch}.weights.h5"
    save = {"save_weights_only": True}
    if KERAS_IS_AS_DESCRIBED:
        theirs = [keras.callbacks.TerminateOnNaN(), keras.callbacks.ModelCheckpoint(path, **save)]
        train(net(), poisoned([5]), theirs)
        file = net()
        file.load_weights(tmp_path / "1.weights.h5")
        assert not is_finite(file)
        (tmp_path / "1.weights.h5").unlink()
    ours = [TerminateOnNaN(), keras_ratchet.ModelCheckpoint(path, **save)]
    train(net(), poisoned([5]), ours)
    file = net()
    file.load_weights(tmp_path / "1.weights.h5")
    assert is_finite(file)


@pytest.mark.parametrize("on_epoch", [False, True])
def test_averages_that_are_swapped_in_do_not_come_back(on_epoch):
    optimizer = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9)
    model = net(optimizer)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)
    val = {"validation_data": rows(3, seed=4), "epochs": 4}
    train(model, rows(), [swap, Break(9, epoch=2), TerminateOnNaN()], **val)
    assert len(model.history.epoch) == 3 and is_finite(model)


def test_the_stop_is_told_in_one_line_and_the_journal(tmp_path, caplog):
    from keras_ratchet._storage import journal

    checkpoint = keras_ratchet.ModelCheckpoint(
        tmp_path / "{epoch}.weights.h5", save_weights_only=True
    )
    with caplog.at_level(logging.WARNING, "keras_ratchet"):
        train(net(), poisoned([5]), [TerminateOnNaN(), checkpoint])
    line = (
        "loss is nan in epoch 1, batch 6; weights and optimizer are those of the start of epoch 1"
    )
    assert [r.message for r in caplog.records] == [line]
    stops = [e["reason"] for e in journal.read(str(tmp_path)) if e["event"] == "stop"]
    assert stops == [line]


def test_one_buffer_and_none_after_fit():
    held = []
    ours = TerminateOnNaN()

    def look(batch, logs):
        held.append({id(buffer) for buffer in ours._start_weights._weights.buffers})

    train(net(), rows(), [ours, keras.callbacks.LambdaCallback(on_train_batch_end=look)], epochs=3)
    assert held[0] and all(one == held[0] for one in held)
    assert not ours._start_weights.is_captured


def test_names_of_metrics_are_names():
    for wrong in ("loss", [1]):
        with pytest.raises(ConfigError, match="monitor"):
            TerminateOnNaN(monitor=wrong)


def test_a_run_without_nan_is_trained_as_without_us():
    plain, watched = net(), net()
    train(plain, rows(), epochs=3)
    train(watched, rows(), [TerminateOnNaN()], epochs=3)
    assert state(plain) == state(watched)


def test_a_second_fit_begins_anew():
    model, ours = net(), TerminateOnNaN()
    train(model, poisoned([5]), [ours])
    train(model, rows(), [ours], epochs=2)
    assert ours.stop_reason is None and len(model.history.epoch) == 2
    assert np.isfinite(model.history.history["loss"]).all()
