"""Breaks on purpose: a callback adds a line to a file after each batch."""

import keras
from small import data, model

from keras_ratchet import BackupAndRestore


class LineLogger(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        with open("losses.txt", "a") as file:
            file.write(f"{logs['loss']:.6f}\n")


x, y = data()
model().fit(
    x,
    y,
    batch_size=16,
    epochs=3,
    verbose=0,
    callbacks=[BackupAndRestore("backup", save_freq=2), LineLogger()],
)
