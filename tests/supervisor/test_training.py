"""Training with Keras under `ratchet run` resumes, bit by bit, whatever ends it."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from support import supervising

TRAIN = """
import os, signal, sys, time
os.environ.setdefault("KERAS_BACKEND", "torch")
import keras, numpy as np, keras_ratchet

start = len(os.listdir("starts")) + 1
open(f"starts/{start}", "w").close()
print("the script is", os.getpid(), flush=True)
keras.utils.set_random_seed(3)
x = np.random.default_rng(0).normal(size=(96, 8)).astype("float32")
y = x.sum(1, keepdims=True)
model = keras.Sequential([keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.2),
                          keras.layers.Dense(1)])
model.compile("adam", "mse")

class Trouble(keras.callbacks.Callback):
    def hangs_here(self):
        time.sleep(60)
    def on_train_batch_end(self, batch, logs=None):
        if (start, self.epoch, batch) in [(1, 1, 7), (2, 2, 8)]:
            print("trouble", flush=True)
            eval(os.environ["TROUBLE"])
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

history = model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[
    Trouble(),
    keras_ratchet.BackupAndRestore("backup", save_freq=5, delete_checkpoint=False,
                                   signals=["SIGTERM"], exit_code=75),
])
np.savez("result.npz", *model.get_weights(), loss=history.history["loss"])
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The result of a run without trouble, and without `ratchet run`."""
    place = tmp_path_factory.mktemp("whole")
    (place / "starts").mkdir()
    command = [sys.executable, "-c", TRAIN]
    env = os.environ | {"TROUBLE": "None", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=place, env=env, check=True, timeout=180)
    return dict(np.load(place / "result.npz"))


@pytest.fixture
def place(tmp_path):
    (tmp_path / "starts").mkdir()
    return tmp_path


def start(place, trouble, *options):
    more = {"env": {"TROUBLE": trouble}, "prelude": "", "limit_s": 180}
    return supervising.start(place, TRAIN, *options, **more)


def assert_same(place, whole):
    result = dict(np.load(place / "result.npz"))
    assert result.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(result[name], value, err_msg=name)


def test_a_preemption_and_a_crash_in_mid_epoch_change_nothing_of_the_result(place, whole):
    with start(
        place, "os.kill(os.getpid(), signal.SIGTERM if start == 1 else signal.SIGKILL)"
    ) as run:
        code, output = run.end()
    assert code == 0, output
    assert "after a preemption (exit code 75); goes on after epoch 1 and 8 batches" in output
    assert "after signal 9; goes on after epoch 2 and " in output
    assert_same(place, whole)


def test_a_hang_in_a_batch_shows_the_stacks_and_changes_nothing_of_the_result(place, whole):
    with start(place, "start == 1 and self.hangs_here()", "--hang-after", 5, "--grace", 1) as run:
        code, output = run.end()
    assert code == 0, output
    assert "after a hang; goes on after epoch 1 and 3 batches" in output
    assert "in hangs_here" in output and "Current thread" in output
    assert_same(place, whole)


def test_the_supervisor_is_killed_and_the_next_one_goes_on(place, whole):
    with start(place, "time.sleep(60)") as run:
        assert run.says("trouble"), run.output
        run.signal(signal.SIGKILL)
        assert run.end()[0] == -9
        assert supervising.is_gone(run.script())
    with start(place, "None") as run:
        code, output = run.end()
    assert code == 0 and len(os.listdir(place / "starts")) == 2, output
    assert_same(place, whole)
