"""Ctrl-C, really sent to this process, does not lose the best weights."""

import os
import signal
import threading

import keras
import pytest
from support.models import Curve, Stamp, data, dense, fit, stamp_of
from support.runs import KERAS_IS_AS_DESCRIBED, At, press_ctrl_c, tiny

import keras_ratchet

CURVE = [0.5, 0.1, 0.7, 0.8]  # the best epoch is the second


@pytest.fixture(autouse=True)
def handler_is_given_back(python_handles_sigint):
    """Each test ends with the handler it began with."""
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def stopper(module=keras_ratchet, **arguments):
    return module.EarlyStopping(patience=9, restore_best_weights=True, **arguments)


def train(model, *callbacks, **arguments):
    """Train with the dictated curve; each epoch ends with the weights of its number."""
    return fit(model, [Curve(val_loss=CURVE), Stamp(), *callbacks], len(CURVE), **arguments)


def validation():
    return {"validation_data": data(16)}


class Count(keras.callbacks.Callback):
    """Counts batches and epochs that ended."""

    def __init__(self):
        super().__init__()
        self.batches = self.epochs = 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


def test_ctrl_c_does_not_lose_the_best_weights():
    if KERAS_IS_AS_DESCRIBED:
        model = tiny()
        with pytest.raises(KeyboardInterrupt):
            train(model, stopper(keras.callbacks), At("epoch_begin", 3, press_ctrl_c))
        assert stamp_of(model) == 3  # the last whole epoch, not the best one
    model, ours = tiny(), stopper()
    with pytest.raises(KeyboardInterrupt):
        train(model, ours, At("epoch_begin", 3, press_ctrl_c))
    assert stamp_of(model) == 2
    assert ours.best_weights is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


HOOKS = ["epoch_begin", "train_batch_end", "test_batch_end", "epoch_end", "train_end"]


@pytest.mark.parametrize("ours_is_first", [True, False])
@pytest.mark.parametrize("hook", HOOKS)
def test_ctrl_c_leaves_the_best_weights_wherever_it_falls(hook, ours_is_first):
    model, ours, press = tiny(), stopper(), At(hook, 3, press_ctrl_c)
    arguments = validation() if hook == "test_batch_end" else {}
    with pytest.raises(KeyboardInterrupt):
        train(model, *([ours, press] if ours_is_first else [press, ours]), **arguments)
    assert stamp_of(model) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("arguments", [{}, validation()], ids=["plain", "validation"])
def test_ctrl_c_ends_the_epoch_after_the_batch_and_its_metrics_are_not_judged(arguments, tmp_path):
    model, ours, count = tiny(), keras_ratchet.EarlyStopping("loss", patience=9), Count()
    path = tmp_path / "{epoch}.weights.h5"
    saver = keras_ratchet.ModelCheckpoint(path, save_weights_only=True)
    press = At("train_batch_end", 1, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        fit(model, [ours, saver, press, count], epochs=3, **arguments)
    assert count.batches == 4 + 1
    assert count.epochs == 1
    assert ours.best_epoch == 0
    assert [file.name for file in tmp_path.glob("*.h5")] == ["1.weights.h5"]
    assert model.history.epoch == [0]


@pytest.mark.parametrize("hook", ["test_batch_end", "epoch_end"])
def test_an_epoch_that_was_whole_when_ctrl_c_came_counts(hook):
    model, ours, count = tiny(), stopper(), Count()
    press = At(hook, 1, press_ctrl_c)
    arguments = validation() if hook == "test_batch_end" else {}
    callbacks = [Curve(val_loss=CURVE), Stamp()]
    callbacks += [press, ours] if hook == "test_batch_end" else [ours, press]
    with pytest.raises(KeyboardInterrupt):
        fit(model, [*callbacks, count], len(CURVE), **arguments)
    assert stamp_of(model) == 2
    assert model.history.epoch == [0, 1]
    assert count.epochs == 2


def test_a_ctrl_c_during_a_save_lets_the_other_callbacks_judge_the_epoch(tmp_path):
    class Slow(keras_ratchet.ModelCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                press_ctrl_c()

    model, ours = tiny(), stopper()
    path = tmp_path / "best.weights.h5"
    saver = Slow(path, save_best_only=True, save_weights_only=True)
    with pytest.raises(KeyboardInterrupt):
        train(model, saver, ours)
    assert stamp_of(model) == 2  # the epoch whose save was interrupted is the best
    file = dense()
    file.load_weights(path)
    assert stamp_of(file) == 2


def test_the_second_ctrl_c_is_immediate():
    def press_twice():
        press_ctrl_c()
        press_ctrl_c()

    model, count = tiny(), Count()
    callbacks = [stopper(), At("train_batch_end", 2, press_twice), count]
    with pytest.raises(KeyboardInterrupt), keras_ratchet.guard(model, callbacks):
        train(model, *callbacks)
    assert count.batches == 2 * 4  # the batch at whose end it was pressed is not counted
    assert stamp_of(model) == 2  # restored by the guard


def test_a_foreign_handler_is_left_alone():
    presses = []

    def foreign(number, frame):
        presses.append(number)

    signal.signal(signal.SIGINT, foreign)
    model = tiny()
    train(model, stopper(), At("train_batch_end", 1, press_ctrl_c))
    assert signal.getsignal(signal.SIGINT) is foreign
    assert presses == [signal.SIGINT]
    assert len(model.history.epoch) == len(CURVE)
    assert stamp_of(model) == 2
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_ignored_ctrl_c_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model = tiny()
    train(model, stopper(), At("train_batch_end", 1, press_ctrl_c))
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert len(model.history.epoch) == len(CURVE)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_training_in_another_thread_works():
    model, ours, errors = tiny(), stopper(), []

    def work():
        try:
            train(model, ours)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert stamp_of(model) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_forked_worker_the_first_ctrl_c_is_left_to_the_trainer(caplog):
    def work():
        child = os.fork()
        if child == 0:
            code = 99
            try:
                press_ctrl_c()  # a terminal sends it to the workers too
                code = len(caplog.records)
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    codes, model = [], tiny()
    train(model, stopper(), At("train_batch_end", 1, work))
    assert codes == [0]
    assert len(model.history.epoch) == len(CURVE)


def test_after_a_run_ctrl_c_is_pythons_again():
    train(tiny(), stopper())
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()


def crash():
    raise RuntimeError("crashed")


def test_after_an_exception_ctrl_c_behaves_as_in_plain_python():
    with pytest.raises(RuntimeError, match="crashed"):
        train(tiny(), stopper(), At("train_batch_end", 1, crash))
    with pytest.raises(KeyboardInterrupt):
        press_ctrl_c()


def test_after_an_exception_another_fit_without_ours_is_interrupted_at_once():
    model, count = tiny(), Count()
    with pytest.raises(RuntimeError, match="crashed"):
        train(model, stopper(), At("train_batch_end", 1, crash))
    with pytest.raises(KeyboardInterrupt):
        train(model, At("train_batch_end", 1, press_ctrl_c), count)
    assert count.batches == 4


def test_after_an_exception_the_next_fit_with_ours_stops_in_order():
    model, ours = tiny(), stopper()
    with pytest.raises(RuntimeError, match="crashed"):
        train(model, ours, At("train_batch_end", 1, crash))
    with pytest.raises(KeyboardInterrupt):
        train(model, ours, At("train_batch_end", 3, press_ctrl_c))
    assert stamp_of(model) == 2


def test_training_can_go_on_after_ctrl_c():
    model, ours = tiny(), stopper()
    with pytest.raises(KeyboardInterrupt):
        train(model, ours, At("train_batch_end", 3, press_ctrl_c))
    train(model, ours)
    assert stamp_of(model) == 2
    assert len(model.history.epoch) == len(CURVE)


def test_a_fit_inside_a_callback_does_not_take_ctrl_c_away():
    model, other = tiny(), dense()
    inner = At("epoch_begin", 1, lambda: train(other, stopper()))
    with pytest.raises(KeyboardInterrupt):
        train(model, stopper(), inner, At("train_batch_end", 3, press_ctrl_c))
    assert stamp_of(other) == 2
    assert stamp_of(model) == 2


def test_ctrl_c_in_a_custom_loop_leaves_the_best_weights():
    model, ours = tiny(), stopper()
    callbacks = keras.callbacks.CallbackList([Stamp(), ours], model=model)
    model.stop_training = False
    callbacks.on_train_begin()
    with pytest.raises(KeyboardInterrupt):
        for epoch, value in enumerate(CURVE):
            callbacks.on_epoch_begin(epoch)
            if epoch == 2:
                press_ctrl_c()
                assert model.stop_training
            callbacks.on_epoch_end(epoch, {"val_loss": value})
    assert epoch == 2
    assert stamp_of(model) == 2
