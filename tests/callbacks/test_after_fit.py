"""Callbacks after a `fit`: they can be copied and pickled, as Keras's can, and used again."""

import copy
import pickle

import keras
import pytest
from support.models import data, dense, fit

import keras_ratchet
from keras_ratchet import policy


class Boom(Exception):
    """What ends a `fit`."""


class Fails(keras.callbacks.Callback):
    """Ends `fit` in its second epoch, once."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations > 5:
            raise Boom


def make(kind, directory):
    """Return a callback that has much to remember."""
    if kind == "EarlyStopping":
        return keras_ratchet.EarlyStopping(restore_best_weights=True, restore_optimizer=True)
    if kind == "average":
        return keras_ratchet.EarlyStopping(
            restore_best_weights=True, average="soup", validation_data=data(8, seed=1)
        )
    if kind == "criterion":
        return keras_ratchet.EarlyStopping(criterion=policy.Patience(5) | policy.AfterSteps(99))
    if kind == "ModelCheckpoint":
        return keras_ratchet.ModelCheckpoint(directory / "best.keras", save_best_only=True)
    if kind == "background":
        path = directory / "{epoch}-{batch}.keras"
        return keras_ratchet.ModelCheckpoint(path, background=True, keep_best=2, save_freq=2)
    if kind == "BackupAndRestore":
        return keras_ratchet.BackupAndRestore(
            directory / "backup", save_freq=2, signals=("SIGTERM",), background=True
        )
    if kind == "Rollback":
        return keras_ratchet.Rollback(every=1, confirm=1)
    if kind == "ReduceLROnPlateau":
        return keras_ratchet.ReduceLROnPlateau(restore_best_weights=True)
    return keras_ratchet.TerminateOnNaN()


KINDS = ["EarlyStopping", "average", "criterion", "ModelCheckpoint", "background"]
KINDS += ["BackupAndRestore", "Rollback", "ReduceLROnPlateau", "TerminateOnNaN"]


def train(callback, *others, epochs=2):
    callbacks = [callback, *others]
    args = {"validation_data": data(8, seed=1), "shuffle": False}
    return fit(dense(jit_compile=False), callbacks, epochs, **args)


def duplicates(callback):
    return copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))


@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_that_was_used_can_be_copied_and_pickled_and_its_copies_used(kind, tmp_path):
    callback = make(kind, tmp_path)
    train(callback)
    before = vars(callback).keys()
    for twin in duplicates(callback):
        assert type(twin) is type(callback) and vars(twin).keys() == before
        for name in ("best", "best_epoch", "wait", "stopped_epoch", "reductions", "rollbacks"):
            assert getattr(twin, name, None) == getattr(callback, name, None)
        assert train(twin).epoch == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_holds_after_a_fit_that_was_left_by_an_exception(kind, tmp_path):
    callback = make(kind, tmp_path)
    with pytest.raises(Boom):
        train(callback, Fails())
    twins = duplicates(callback)
    with keras_ratchet.guard(None, callback):  # what ends it, and gives back what it holds
        callback.on_train_abort(Boom())
    for twin in twins:
        assert getattr(twin, "elapsed_s", 0.0) >= 0.0
        assert train(twin).epoch[-1] == 1


def test_an_idle_hook_stays_idle_in_copies(tmp_path):
    for twin in duplicates(keras_ratchet.ModelCheckpoint(tmp_path / "last.keras")):
        assert twin.on_train_batch_end.__func__ is keras.callbacks.Callback.on_train_batch_end


def test_a_fitted_estimator_can_be_cloned_and_pickled(tmp_path):
    sklearn = pytest.importorskip("sklearn.base")
    callbacks = [make(kind, tmp_path) for kind in ("EarlyStopping", "ModelCheckpoint")]
    callbacks.append(make("BackupAndRestore", tmp_path))
    estimator = keras.wrappers.SKLearnRegressor(
        build,
        fit_kwargs={
            "callbacks": callbacks,
            "validation_split": 0.25,
            "verbose": 0,
            "shuffle": False,
        },
    )
    x, y = data()
    y = y.ravel()
    estimator.fit(x, y)
    sklearn.clone(estimator)
    for twin in duplicates(estimator):
        stopper = twin.fit_kwargs["callbacks"][0]
        assert stopper is not callbacks[0] and stopper.best_value == callbacks[0].best_value
        assert twin.fit(x, y).history_.history["loss"]


def build(X, y):
    return dense(jit_compile=False)
