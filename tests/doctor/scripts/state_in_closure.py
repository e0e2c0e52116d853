"""Breaks on purpose: the learning rate falls with a count that only a closure knows."""

import keras
from small import data, model

from keras_ratchet import BackupAndRestore


def falling_rate(trained):
    count = 0

    def lower(batch, logs=None):
        nonlocal count
        count += 1
        trained.optimizer.learning_rate = 0.01 / count

    return keras.callbacks.LambdaCallback(on_train_batch_end=lower)


x, y = data()
trained = model()
trained.fit(
    x,
    y,
    batch_size=16,
    epochs=3,
    verbose=0,
    callbacks=[BackupAndRestore("backup", save_freq=2), falling_rate(trained)],
)
