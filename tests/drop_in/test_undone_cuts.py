"""A LearningRateScheduler beside what cuts the learning rate undoes each cut."""

import keras
import pytest
from support.poison import net, poisoned, train
from support.runs import run, tiny, warnings_like, warns_once

import keras_ratchet

FIXED = lambda epoch: 0.01  # noqa: E731
CURVE = [1.0, 1.0, 1.0, 1.0, 1.0]


def plateau():
    return keras_ratchet.ReduceLROnPlateau(patience=1)


@pytest.mark.parametrize("first", [True, False])
def test_that_cuts_of_reduce_lr_on_plateau_do_not_last_is_said_once(first):
    ours, theirs = plateau(), keras.callbacks.LearningRateScheduler(FIXED)
    message = (
        "LearningRateScheduler set the learning rate to 0.01 after ReduceLROnPlateau had cut it "
        "to 0.001"
    )
    with warns_once(message):
        run(*((theirs, ours) if first else (ours, theirs)), val_loss=CURVE)
    assert len(ours.reductions) == 4


@pytest.mark.parametrize("first", [True, False])
def test_that_cuts_of_rollback_do_not_last_is_said_once(first):
    ours = keras_ratchet.Rollback(factor=0.5, every=1, confirm=0)
    theirs = keras.callbacks.LearningRateScheduler(FIXED)
    callbacks = [theirs, ours] if first else [ours, theirs]
    with warns_once("LearningRateScheduler set .* 0.01 after Rollback had cut it to 0.005"):
        train(net(), poisoned([5]), callbacks, epochs=3)
    assert len(ours.rollbacks) == 3


def test_another_callback_is_named_too():
    class Warmup(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.2

    with warns_once("Stamp or Warmup set the learning rate to 0.2 after ReduceLROnPlateau"):
        run(Warmup(), plateau(), val_loss=CURVE)


def test_a_schedule_that_goes_by_the_rate_it_finds_is_no_matter():
    theirs = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate)
    both = keras_ratchet.Rollback(factor=0.5), plateau()
    with warnings_like("set the learning rate") as count:
        run(theirs, plateau(), val_loss=CURVE)
        run(*both, val_loss=CURVE, model=tiny())
    assert count() == 0
