# %% [markdown]
# # Kill and resume
#
# In this notebook you kill a training with SIGKILL in the middle of an epoch, run the same script again, and
# compare what comes out with a run that was never interrupted, bit by bit. In the end you see what
# "Interrupt" does to a cell that trains. It takes about half a minute.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # or "jax", "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import signal
import subprocess
import sys

import keras
import numpy as np

import keras_ratchet

# %% [markdown]
# ## A script
#
# It trains on data that is shuffled, with dropout, and saves a snapshot after every 10 batches. One callback
# prints where it is. In the end it stores everything that must not depend on an interruption: weights,
# optimizer, history.

# %%
# %%writefile train.py
import sys

import keras
import numpy as np

from keras_ratchet import BackupAndRestore, EarlyStopping

name = sys.argv[1]

keras.utils.set_random_seed(1)
x = np.random.default_rng(0).normal(size=(1600, 8)).astype("float32")
y = x[:, :1] * x[:, 1:2]
model = keras.Sequential(
    [
        keras.Input((8,)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(1),
    ]
)
model.compile("adam", "mse")


class Where(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if batch % 20 == 19:
            print(f"epoch {self.epoch + 1}, batch {batch + 1}: loss {logs['loss']:.6f}", flush=True)


backup = BackupAndRestore(f"{name}/backup", save_freq=10)
callbacks = [EarlyStopping(patience=3, restore_best_weights=True), backup, Where()]
history = model.fit(x, y, validation_split=0.2, epochs=4, callbacks=callbacks, verbose=0)

values = [*model.get_weights(), *map(keras.ops.convert_to_numpy, model.optimizer.variables)]
np.savez(f"{name}.npz", *values, **history.history)

# %% [markdown]
# ## Once without interruption


# %%
def run(name):
    command = [sys.executable, "train.py", name]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    print(done.stdout, end="")
    print("exit code:", done.returncode)


run("whole")

# %% [markdown]
# ## Killed
#
# The same with another name. When it prints that batch 20 of epoch 3 is done, it gets SIGKILL, which no
# program can catch: what is not on the disk by then is lost.

# %%
process = subprocess.Popen(
    [sys.executable, "train.py", "killed"], stdout=subprocess.PIPE, text=True
)
for line in process.stdout:
    print(line, end="")
    if line.startswith("epoch 3, batch 20"):
        process.kill()
        break
process.stdout.close()
print("exit code:", process.wait())  # the number of the signal, negative

# %% [markdown]
# What is on the disk: the two newest snapshots, the last of them from the middle of epoch 3. (A snapshot takes
# the place of the one before the last; `keep=` says how many stay.)

# %%
keras_ratchet.checkpoints("killed/backup")

# %% [markdown]
# ## Run again
#
# The same command, nothing else. It starts from the newest snapshot: the losses that it prints are those
# of the run above, to the last digit.

# %%
run("killed")

# %% [markdown]
# ## Compare
#
# Every array: the weights, the optimizer's momenta and its count of steps, the history of all epochs, those
# before the kill included.

# %%
with np.load("whole.npz") as whole, np.load("killed.npz") as killed:
    assert set(whole) == set(killed)
    equal = {name: np.array_equal(whole[name], killed[name]) for name in whole}
assert all(equal.values())
print(f"{len(equal)} arrays, {sum(equal.values())} of them equal bit for bit")

# %% [markdown]
# ## In a notebook: "Interrupt" and "Restart"
#
# A training in a cell behaves in the same way:
#
# - **Interrupt** (Ctrl-C) ends training after the current batch. `EarlyStopping` restores the best weights,
#   saves that are being written are completed, and the cell shows `KeyboardInterrupt`. Run the cell again
#   and it resumes. Interrupt twice to stop at once.
# - **Restart** kills the kernel, as SIGKILL did above. Run the cells again from the top.
# - **A second notebook** with the same directory gets a `LockedError` while the first one trains.
#
# Make the model in the cell that trains it: what is restored is the snapshot, whatever the model contains,
# but a new run would start from the weights of the last one.
#
# Here Ctrl-C arrives while epoch 2 is being trained: a callback sends it, for lack of a hand.

# %%
x = np.random.default_rng(0).normal(size=(1600, 8)).astype("float32")
y = x[:, :1] * x[:, 1:2]


class PressCtrlC(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1 and batch == 12:
            signal.raise_signal(signal.SIGINT)


def train(*more):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse")
    backup = keras_ratchet.BackupAndRestore("cell/backup", save_freq=10)
    model.fit(x, y, epochs=3, callbacks=[backup, *more], verbose=0)
    return backup


try:
    train(PressCtrlC())
except KeyboardInterrupt:
    print("KeyboardInterrupt")

# %%
backup = train()
backup.resumed_from

# %% [markdown]
# [Exact resume](../resume.md) lists the kinds of data for which this holds. To try it on a script of yours,
# without a change to it: `ratchet doctor --kills 4 -- python train.py` ([the doctor](../doctor.md)).
