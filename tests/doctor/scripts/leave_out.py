"""An exact script, but for the part of the state in LEAVE_OUT, which a resume does not restore."""

import os

from small import data, model

from keras_ratchet import BackupAndRestore, EarlyStopping, ModelCheckpoint
from keras_ratchet._engine.capture import rng
from keras_ratchet._engine.resume import resumer
from keras_ratchet._engine.resume.callback_states import CallbackStates

part = os.environ.get("LEAVE_OUT", "")
restore_variables = resumer.restore_variables

if part == "optimizer":

    def without_optimizer(named, saved):
        kept = {n: v for n, v in saved.items() if not n.startswith("optimizer/")}
        restore_variables(named, kept)

    resumer.restore_variables = without_optimizer
elif part == "random streams":
    rng.restore = lambda state: None
elif part == "callbacks":
    CallbackStates.load = lambda self, states, identities=None: []

x, y = data()
model().fit(
    x,
    y,
    validation_split=0.25,
    batch_size=12,
    epochs=4,
    verbose=0,
    callbacks=[
        BackupAndRestore("backup", save_freq=2),
        ModelCheckpoint("best.keras", save_best_only=True),
        EarlyStopping(patience=10, restore_best_weights=True),
    ],
)
