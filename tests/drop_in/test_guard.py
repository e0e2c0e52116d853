"""`guard` restores the best weights after any exception."""

import keras
import pytest
from support.models import Curve, Stamp, data, stamp_of
from support.runs import KERAS_IS_AS_DESCRIBED, At, tiny

import keras_ratchet

CURVE = [0.5, 0.1, 0.7, 0.8]


def crash():
    raise RuntimeError("crashed")


def batches(until=None):
    """Yield batches for ever, or fail in the middle of an epoch."""
    x, y = data(8)
    count = 0
    while True:
        if count == until:
            crash()
        yield x, y
        count += 1


def train(model, callbacks, stream):
    model.fit(
        stream,
        steps_per_epoch=4,
        epochs=len(CURVE),
        verbose=0,
        callbacks=[Curve(val_loss=CURVE), Stamp(), *callbacks],
    )


def stopper(module=keras_ratchet, **arguments):
    return module.EarlyStopping(patience=9, restore_best_weights=True, **arguments)


def with_averages():
    return keras.optimizers.SGD(use_ema=True)


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, with_averages])
def test_an_error_of_the_data_does_not_lose_the_best_weights(optimizer):
    if KERAS_IS_AS_DESCRIBED and optimizer is not with_averages:
        model = tiny()
        with pytest.raises(Exception, match="crashed"):
            train(model, [stopper(keras.callbacks)], batches(until=14))
        with pytest.raises(AssertionError, match="mixed weights"):
            stamp_of(model)  # what the half epoch left
    model, ours = tiny(optimizer), stopper()
    with pytest.raises(Exception, match="crashed"), keras_ratchet.guard(model, ours):
        train(model, [ours], batches(until=14))
    assert stamp_of(model) == 2
    train(model, [ours], batches())  # and training can go on
    assert stamp_of(model) == 2


@pytest.mark.parametrize("hook", ["epoch_begin", "train_batch_end", "epoch_end"])
def test_an_error_of_another_callback_does_not_lose_the_best_weights(hook):
    if KERAS_IS_AS_DESCRIBED and hook == "epoch_begin":
        model = tiny()
        with pytest.raises(RuntimeError, match="crashed"):
            train(model, [stopper(keras.callbacks), At(hook, 3, crash)], batches())
        assert stamp_of(model) == 3
    model, ours = tiny(), stopper()
    with pytest.raises(RuntimeError, match="crashed"), keras_ratchet.guard(model, [ours]) as same:
        assert same is model
        train(model, [ours, At(hook, 3, crash)], batches())
    assert stamp_of(model) == 2
    assert ours.best_weights is None


def test_without_an_error_a_guard_does_nothing():
    model, ours = tiny(), stopper()
    with keras_ratchet.guard(model, ours):
        train(model, [ours], batches())
    assert stamp_of(model) == 2


def test_an_error_after_training_does_not_touch_the_model():
    model, ours = tiny(), stopper()
    with pytest.raises(RuntimeError, match="crashed"), keras_ratchet.guard(model, ours):
        train(model, [ours], batches())
        model.set_weights([w * 0 + 7 for w in model.get_weights()])
        crash()
    assert stamp_of(model) == 7


def test_a_callback_list_and_nested_lists_can_be_guarded():
    for wrap in (lambda c: [[c]], lambda c: (c,), lambda c: keras.callbacks.CallbackList([c])):
        model, ours = tiny(), stopper()
        with pytest.raises(RuntimeError, match="crashed"), keras_ratchet.guard(model, wrap(ours)):
            train(model, [ours, At("train_batch_end", 2, crash)], batches())
        assert stamp_of(model) == 2


def test_a_callback_of_the_user_joins_and_its_failure_hides_nothing():
    class Mine(keras.callbacks.Callback):
        def on_train_abort(self, error):
            seen.append(error)
            raise OSError("no room for my file")

    seen = []
    model, ours = tiny(), stopper()
    callbacks = [Mine(), ours, At("train_batch_end", 2, crash)]
    with (
        pytest.raises(RuntimeError, match="crashed") as caught,
        keras_ratchet.guard(model, callbacks),
    ):
        train(model, callbacks, batches())
    assert seen == [caught.value]
    assert "Mine could not clean up" in caught.value.__notes__[0]
    assert stamp_of(model) == 2
