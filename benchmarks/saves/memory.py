"""Memory that a save in flight takes beyond training's own peak, over the size of the state."""

import keras
from saves import model as models


class Sampler(keras.callbacks.Callback):
    """Lets a callback save after some steps, and looks at the peaks before and after."""

    def __init__(self, callbacks):
        super().__init__()
        self.list = callbacks
        self.peaks = {}

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            reset_peak()
        elif batch == 9:
            self.peaks["training"] = peak_bytes()
            self.list.on_epoch_end(1, {"loss": 0.5})
        elif batch == 10:
            models.settle(self.list)
        elif batch == 14:
            reset_peak()
            self.list.on_epoch_end(2, {"loss": 0.4})
        elif batch == 24:
            models.settle(self.list)
            self.peaks["saving"] = peak_bytes()


def measure(state_mb, name, directory):
    """Return the extra memory of one callback's second save, over the size of the state."""
    model, width = models.dense(state_mb)
    x, y = models.data(width, 30)
    model.fit(x[:32], y[:32], batch_size=models.BATCH, verbose=0)
    callbacks = models.begun(models.savers(directory)[name], model)
    sampler = Sampler(callbacks)
    model.fit(x, y, batch_size=models.BATCH, verbose=0, callbacks=[sampler])
    _, size = models.memcpy_s(model, 1)
    return (sampler.peaks["saving"] - sampler.peaks["training"]) / size


def reset_peak():
    """Let the kernel forget the peak (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_bytes():
    """Return the largest resident size since the last reset."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
