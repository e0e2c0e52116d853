"""Breaks on purpose: the order of the batches is drawn without a seed."""

import keras
import numpy as np
from small import data, model

from keras_ratchet import BackupAndRestore

x, y = data()
order = np.random.default_rng().permutation(len(x))


class Shuffled(keras.utils.PyDataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        rows = order[16 * index : 16 * index + 16]
        return x[rows], y[rows]


model().fit(
    Shuffled(),
    epochs=3,
    shuffle=False,
    verbose=0,
    callbacks=[BackupAndRestore("backup", save_freq=2)],
)
