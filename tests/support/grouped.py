"""A training with two worker processes that says when both have a batch in hand.

`python grouped.py DIRECTORY`: in a process group of its own; prints "now", then goes on.
"""

import faulthandler
import sys
import time

import keras
import numpy as np

import keras_ratchet


class Batches(keras.utils.PyDataset):
    def __init__(self):
        super().__init__(workers=2, use_multiprocessing=True)
        self.epochs = -1

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if self.epochs == 1 and index in (2, 3):
            time.sleep(4)
        return np.full((4, 3), index, "float32"), np.ones((4, 1), "float32")

    def on_epoch_end(self):
        self.epochs += 1


class Now(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1 and batch == 1:
            print("now", flush=True)


def main(directory):
    faulthandler.dump_traceback_later(100, exit=True)
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    backup = keras_ratchet.BackupAndRestore(directory, signals=("SIGTERM",), exit_code=75)
    model.fit(Batches(), epochs=500, verbose=0, callbacks=[backup, Now()])


if __name__ == "__main__":
    main(*sys.argv[1:])
