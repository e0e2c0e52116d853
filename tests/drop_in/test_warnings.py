"""Where a warning points to: the line of the user's program, as `python -W error` shows it."""

import inspect
import warnings

import keras
import numpy as np
import pytest

import keras_ratchet
from keras_ratchet import BackupAndRestore, EarlyStopping, ModelCheckpoint


class Counting(keras.callbacks.Callback):
    """Loses what it cannot keep."""

    def on_epoch_end(self, epoch, logs=None):
        self.seen = object()


def tiny():
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse", jit_compile=False)
    return net


def fit(callbacks, **arguments):
    x = np.ones((4, 2), "float32")
    y = np.ones((4, 1), "float32")
    arguments = {"epochs": 1, "verbose": 0, **arguments}
    return tiny().fit(x, y, callbacks=callbacks, **arguments)  # HERE


HERE = next(
    number
    for number, line in enumerate(inspect.getsource(inspect.getmodule(fit)).split("\n"), 1)
    if line.endswith("# HERE")
)


@pytest.mark.parametrize("make", [
    lambda path: [BackupAndRestore(path / "b"), Counting()],
    lambda path: [ModelCheckpoint(path / "best.keras", save_best_only=True)],
    lambda path: [ModelCheckpoint(path / "{nothing}.keras")],
    lambda path: [EarlyStopping("loss", restore_best_weights=True)],
])  # fmt: skip
def test_a_warning_given_while_fit_runs_points_to_the_line_that_called_fit(tmp_path, make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(make(tmp_path), epochs=2)
    ours = [w for w in caught if w.category is UserWarning]
    assert ours
    assert {(w.filename, w.lineno) for w in ours} == {(__file__, HERE)}


def test_a_warning_of_a_constructor_or_a_function_points_to_its_call(tmp_path):
    tiny().save_weights(tmp_path / "a.weights.h5")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        EarlyStopping("loss", mode="least")
        keras_ratchet.load_weights(tiny(), tmp_path / "a.weights.h5")
    line = inspect.currentframe().f_lineno - 2
    assert [(w.filename, w.lineno) for w in caught] == [(__file__, line), (__file__, line + 1)]


def test_a_first_epoch_without_validation_is_no_news_where_one_is_planned(tmp_path):
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    checkpoint = ModelCheckpoint(tmp_path / "best.keras", save_best_only=True)
    fit([checkpoint], epochs=2, validation_data=(x, y), validation_freq=2)
    assert checkpoint.best is not None


def test_a_resume_tells_nothing_of_an_earlier_run(tmp_path, caplog):
    class Cut(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1 and cut:
                raise InterruptedError

    def run():
        saves = ModelCheckpoint(tmp_path / "best.keras", "loss", save_best_only=True)
        fit([saves, BackupAndRestore(tmp_path / "b"), Cut()], epochs=3)

    cut = True
    with pytest.raises(InterruptedError):
        run()
    cut = False
    caplog.clear()
    run()
    assert "resuming from" in caplog.text
    assert "earlier run" not in caplog.text and "fresh=" not in caplog.text
