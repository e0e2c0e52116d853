"""Training in a real kernel: interrupted, restarted, from two notebooks, and what is displayed."""

import time

import pytest

TRAINING = """
import hashlib, pathlib, signal, time
import keras, numpy as np
import keras_ratchet
from keras_ratchet import BackupAndRestore, EarlyStopping, ModelCheckpoint, Run

x = np.random.default_rng(0).normal(size=(160, 4)).astype("float32")
y = x[:, :1] * x[:, 1:2]
weights = {}  # by epoch


def make():
    keras.utils.set_random_seed(1)
    layers = [keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2)]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def bits(model):
    values = [*model.get_weights(), *map(keras.ops.convert_to_numpy, model.optimizer.variables)]
    return hashlib.sha256(b"".join(v.tobytes() for v in values)).hexdigest()


class Hold(keras.callbacks.Callback):
    "Waits in the middle of the third epoch until Ctrl-C was pressed, as often as it is told."

    def __init__(self, presses):
        super().__init__()
        self.presses = presses

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        weights[epoch] = self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        if self.presses and self.epoch == 2 and batch == 3:
            wait("held", lambda: self.model.stop_training)
            if self.presses > 1:
                wait("held-again", lambda: False)


def wait(name, is_over):
    pathlib.Path(name).touch()
    until = time.monotonic() + 180
    while time.monotonic() < until:
        if is_over():
            return
        time.sleep(0.01)
    raise TimeoutError(name)


def fit(directory, presses=0):
    model = make()
    weights.clear()
    callbacks = [
        EarlyStopping(monitor="val_loss", patience=9, restore_best_weights=True),
        ModelCheckpoint(f"{directory}/best.keras", save_best_only=True),
        ModelCheckpoint(f"{directory}/epoch-{{epoch}}.weights.h5", save_weights_only=True),
        BackupAndRestore(f"{directory}/backup", save_freq=2),
        Hold(presses),
    ]
    data = {"validation_data": (x[:40], y[:40]), "batch_size": 20, "verbose": 0}
    try:
        model.fit(x, y, epochs=4, callbacks=callbacks, **data)
    finally:
        fit.ended = model, callbacks
    return bits(model)


def loop(directory, waits=False):
    model = make()
    fit.ended = model, ()
    with Run(f"{directory}/run", model, save_freq=2, delete_checkpoint=False) as run:
        for epoch in run.epochs(3):
            for i in run.batches(range(8)):
                run.log(loss=model.train_on_batch(x[20 * i :][:20], y[20 * i :][:20]))
                if waits and (epoch, i) == (1, 4):
                    wait("held", lambda: False)
    return bits(model)


def is_default(): return signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.fixture
def held(tmp_path):
    """Waits until a cell waits."""

    def wait(name="held"):
        until = time.monotonic() + 180
        while not (tmp_path / name).exists():
            assert time.monotonic() < until, "the cell never came there"
            time.sleep(0.01)
        (tmp_path / name).unlink()

    return wait


def test_an_interrupted_cell_ends_in_order_and_runs_again(new_kernel, held):
    kernel = new_kernel()
    assert kernel.run(TRAINING).text == ""  # no noise
    whole = kernel.value("fit('whole')")

    started = kernel.start("fit('cell', presses=1)")
    held()
    kernel.interrupt()
    cell = kernel.end(started)
    assert cell.error == ("KeyboardInterrupt", "")
    assert "training ends after this batch" in cell.text
    kernel.run(
        "model, callbacks = fit.ended; best = weights[callbacks[0].best_epoch]\n"
        "assert all(map(np.array_equal, model.get_weights(), best)) and 2 not in weights"
    )
    assert kernel.value("is_default()")
    files = "[*keras_ratchet.checkpoints('cell'), *keras_ratchet.checkpoints('cell/backup')]"
    assert kernel.value(f"[bool(keras_ratchet.verify(c.path)) for c in {files}]") == [True] * 5

    cell = kernel.run("print(fit('cell'))")
    assert "resuming from" in cell.text and whole in cell.text

    # twice: at once, and the traceback that the kernel stores keeps no lock
    started = kernel.start("fit('twice', presses=2)")
    held()
    kernel.interrupt()
    held("held-again")
    kernel.interrupt()
    assert kernel.end(started).error == ("KeyboardInterrupt", "")
    assert kernel.value("is_default()")
    assert kernel.value("fit('twice')") == whole

    # a loop by hand, where Python raises it in the middle of the cell
    whole = kernel.value("loop('whole')")
    started = kernel.start("loop('cell', waits=True)")
    held()
    kernel.interrupt()
    assert kernel.end(started).error == ("KeyboardInterrupt", "")
    assert kernel.value("loop('cell')") == whole
    assert kernel.value("loop('cell')") == whole  # the cell once more: it has ended


def test_a_second_notebook_is_refused_and_a_restarted_one_resumes(new_kernel, held):
    kernel, other = new_kernel(), new_kernel()
    kernel.run(TRAINING)
    whole = kernel.value("fit('whole')")
    other.run(TRAINING)
    kernel.start("fit('cell', presses=1)")
    held()
    cell = other.end(other.start("fit('cell')"))
    name, sentence = cell.error
    assert name == "LockedError" and "process" in sentence, sentence
    kernel.restart()
    assert kernel.run(TRAINING).text == ""
    cell = kernel.run("print(fit('cell'))")
    assert "resuming from" in cell.text and whole in cell.text
    assert other.value("fit('cell-of-the-other')") == whole

    shown = kernel.run("keras_ratchet.checkpoints('cell')")
    assert "best.keras" in shown.html and "val_loss improved" in shown.html
    shown = kernel.run("run = Run('new', make()); display(run); fit.ended[1][0]; run")
    assert shown.html.count("not started") == 2
    assert all("text/plain" in data for data in shown.data)
