"""Memory of a save in progress above training's own peak, relative to the size of the state."""

import gc

import keras
from saves import model as models


class Sampler(keras.callbacks.Callback):
    """Records the peak of training alone, then of training that starts with a save.

    Cyclic garbage of the steps is collected at once: left to Python it varies by more than the
    size of the state.
    """

    STEPS = 15

    def __init__(self, begin):
        super().__init__()
        self.begin = begin  # starts the callbacks and returns them
        self.list = None
        self.peaks = {}

    def on_train_batch_end(self, batch, logs=None):
        gc.collect()
        if batch == 4:
            reset_peak()
        elif batch == 4 + self.STEPS:
            self.peaks["training"] = peak_bytes()
            self.list = self.begin()
            self.save(1)
            models.settle(self.list)
        elif batch == 10 + self.STEPS:
            reset_peak()
            self.save(2)
        elif batch == 10 + 2 * self.STEPS:
            models.settle(self.list)
            self.peaks["saving"] = peak_bytes()

    def save(self, epoch):
        """Let the callbacks save."""
        self.list.on_epoch_end(epoch, {"loss": 1 / epoch})


def measure(state_mb, name, directory):
    """Return the extra memory of one callback's second save, relative to the size of the state."""
    model, width = models.dense(state_mb)
    x, y = models.data(width, 12 + 2 * Sampler.STEPS)
    model.fit(x[:32], y[:32], batch_size=models.BATCH, verbose=0)
    model.save(directory / "once.keras")  # imports what Keras needs for it, tensorflow too
    sampler = Sampler(lambda: models.begun(models.savers(directory)[name], model))
    model.fit(x, y, batch_size=models.BATCH, verbose=0, callbacks=[sampler])
    _, size = models.memcpy_s(model, 1)
    return (sampler.peaks["saving"] - sampler.peaks["training"]) / size


def reset_peak():
    """Reset the kernel's record of the peak (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_bytes():
    """Return the largest resident size since the last reset."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
