"""Runs with dictated losses, Ctrl-C at a chosen moment, and the warnings of a run."""

import contextlib
import functools
import os
import re
import signal
import time
import warnings

import keras
import numpy as np
from support.models import Curve, Stamp, dense, fit

# Where Keras's class is shown to be wrong, it is this version's: a newer Keras may be cured.
KERAS_IS_AS_DESCRIBED = keras.__version__ == "3.15.1"


@functools.cache
def _traced(make_optimizer):
    keras.utils.set_random_seed(0)
    model = dense(optimizer=make_optimizer())
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    return model, [(v, np.array(keras.ops.convert_to_numpy(v))) for v in variables]


def tiny(make_optimizer=keras.optimizers.SGD):
    """Return the one tiny model with this optimizer, as good as new.

    For tests that need only one at a time: tracing another for each takes TensorFlow a second.
    """
    model, values = _traced(make_optimizer)
    for variable, value in values:
        variable.assign(value.copy())
    return model


def run(*callbacks, model=None, **curves):
    """Train with dictated metrics, one batch per epoch; each weight is its epoch, from 1.

    Returns the model. `len(model.history.epoch)` is the number of epochs that were run.
    """
    model = model or tiny()
    epochs = max(len(values) for values in curves.values())
    fit(model, [Curve(**curves), Stamp(), *callbacks], epochs, batch_size=32)
    return model


@contextlib.contextmanager
def warnings_like(match):
    """Record warnings; yield a function that counts those whose text matches."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        yield lambda: sum(bool(re.search(match, str(entry.message))) for entry in record)


@contextlib.contextmanager
def warns_once(match):
    """Expect exactly one warning whose text matches."""
    with warnings_like(match) as count:
        yield
    assert count() == 1, f"{count()} warnings like {match!r}"


def press_ctrl_c():
    """Send SIGINT to this process and give Python the time to handle it."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.02)


class At(keras.callbacks.Callback):
    """Does something, once, at a hook of an epoch (index from 0)."""

    def __init__(self, hook, epoch, action):
        super().__init__()
        self.hook, self.epoch, self.action = hook, epoch, action
        self._epoch = None

    def _at(self, hook):
        if hook == self.hook and self._epoch == self.epoch:
            self._epoch = None
            self.action()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._at("epoch_begin")

    def on_train_batch_end(self, batch, logs=None):
        self._at("train_batch_end")

    def on_test_batch_end(self, batch, logs=None):
        self._at("test_batch_end")

    def on_epoch_end(self, epoch, logs=None):
        self._at("epoch_end")

    def on_train_end(self, logs=None):
        self._at("train_end")
