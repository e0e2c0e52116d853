"""A callback's `state_dict` holds values that training does not change afterwards.

What BackupAndRestore saves beside training is written while training goes on, and the states of
our own callbacks are not copied for it: buffers that are used again must not be in them.
"""

import keras
import numpy as np
import pytest
from support.poison import Break, net, rows, train

from keras_ratchet import EarlyStopping, ReduceLROnPlateau, Rollback, TerminateOnNaN
from keras_ratchet.policy import AfterEpochs, Patience, Smoothed
from keras_ratchet.policy.experimental import SignificantImprovement

BEST = {"restore_best_weights": True, "restore_optimizer": True}
CALLBACKS = {
    "best": lambda: EarlyStopping(patience=99, **BEST),
    "soup": lambda: EarlyStopping(patience=99, average="soup", average_k=3, **BEST),
    "mean": lambda: EarlyStopping(patience=99, average="mean", average_k=2, **BEST),
    "criterion": lambda: EarlyStopping(
        criterion=Patience(99, Smoothed("val_loss")) | AfterEpochs(99) | SignificantImprovement(1)
    ),
    "plateau": lambda: ReduceLROnPlateau(factor=0.5, patience=1, **BEST),
    "rollback": lambda: Rollback(every=3, confirm=2, restore_rng=True, spike_z=3.0, window=4),
    "terminate": TerminateOnNaN,
}


def frozen(state):
    """Return nested data as something that cannot change: arrays as their bytes."""
    if isinstance(state, dict):
        return tuple((key, frozen(value)) for key, value in state.items())
    if isinstance(state, list | tuple):
        return tuple(map(frozen, state))
    return state.tobytes() if isinstance(state, np.ndarray) else repr(state)


class Watch(keras.callbacks.Callback):
    """Takes the state of a callback again and again, and notes what it was at that moment."""

    def __init__(self, callback):
        super().__init__()
        self.callback, self.taken = callback, []

    def take(self):
        state = self.callback.state_dict()
        self.taken.append((state, frozen(state)))

    def on_train_batch_end(self, batch, logs=None):
        self.take()

    def on_epoch_end(self, epoch, logs=None):
        self.take()


@pytest.mark.parametrize("which", CALLBACKS)
def test_a_state_is_the_same_when_training_has_gone_on(which):
    callback = CALLBACKS[which]()
    watch = Watch(callback)
    model, data = net(keras.optimizers.Adam(0.1), layers=[keras.layers.Dropout(0.3)]), rows()
    breaks = [Break(5, epoch=1)] if which == "rollback" else []
    train(model, data, [callback, *breaks, watch], epochs=6, validation_data=data)
    assert [state for state, before in watch.taken if frozen(state) != before] == []
    # they do hold what changes
    assert len({before for _, before in watch.taken}) >= 6


class PutBack(keras.callbacks.Callback):
    """Gives a callback its state at the begin of an epoch, as a resume does."""

    def __init__(self, callback, state):
        super().__init__()
        self.callback, self.state = callback, state

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:  # all variables are built
            self.callback.load_state_dict(self.state)


@pytest.mark.parametrize("which", CALLBACKS)
def test_a_state_that_was_put_back_is_the_same_when_training_has_gone_on(which):
    """It may be put back once more: callbacks of ours get it, and not a copy."""

    def run(callback, *others):
        watch = Watch(callback)
        model, data = net(keras.optimizers.Adam(0.1), layers=[keras.layers.Dropout(0.3)]), rows()
        callbacks = [callback, *others, watch]
        train(model, data, callbacks, epochs=3, validation_data=data)
        return watch.taken

    taken = run(CALLBACKS[which]())
    state, before = taken[len(taken) // 2]
    callback = CALLBACKS[which]()
    taken = run(callback, PutBack(callback, state))
    assert frozen(state) == before
    assert taken[-1][1] != before  # it has gone on from there
