"""What a save costs training: in the hook, and with the slower steps that follow it.

Inside one `fit`, stretches of training with a save at their begin alternate with stretches without
one. The hook is timed by itself; the slow-down is the median difference of two neighbouring
stretches. A stretch is longer than a save takes to reach the disk.
"""

import statistics
import time

import keras

from saves import model as models


class Driver(keras.callbacks.Callback):
    """Lets a callback save at the begin of every second stretch, and keeps the times."""

    def __init__(self, lists, pairs, stretch_s):
        super().__init__()
        self.waiting = [(name, lists[name]) for _ in range(pairs) for name in lists]
        self.stretch_s = stretch_s
        self.times = {name: {"hook": [], "with": [], "without": []} for name in lists}
        self.now = None
        self.warm = 10
        self.epoch = 0

    def on_train_batch_end(self, batch, logs=None):
        if self.warm > 0:
            self.warm -= 1
            return
        t = time.perf_counter()
        if self.now is None:
            self.begin(t)
        elif self.steps_left is None and t - self.started >= self.stretch_s:
            self.steps_left = self.steps = self.count
            self.ended_first(t)
        elif self.steps_left is None:
            self.count += 1
        else:
            self.steps_left -= 1
            if self.steps_left <= 0:
                self.times[self.now[0]]["without"].append(t - self.started)
                self.begin(time.perf_counter())

    def begin(self, t):
        """Begin a stretch with a save; of as many steps as fit into the time."""
        if not self.waiting:
            self.model.stop_training = True
            return
        self.now = self.waiting.pop(0)
        name, callbacks = self.now
        self.started, self.count, self.steps_left = time.perf_counter(), 0, None
        self.epoch += 1
        callbacks.on_epoch_end(self.epoch, {"loss": 1.0 / self.epoch})
        self.times[name]["hook"].append(time.perf_counter() - self.started)

    def ended_first(self, t):
        """End the stretch with the save; the one without has the same number of steps."""
        self.count += 1
        self.times[self.now[0]]["with"].append(t - self.started)
        callback = [c for c in self.now[1].callbacks if type(c).__name__ != "Tail"][0]
        models.settle(callback)
        self.steps_left = self.count
        self.started = time.perf_counter()


def measure(state_mb, pairs, stretch_s, directory, names=None):
    """Return name -> {"hook", "total"} as multiples of a memcpy, and facts."""
    model, width = models.dense(state_mb)
    x, y = models.data(width, 50)
    model.fit(x[: 2 * models.BATCH], y[: 2 * models.BATCH], batch_size=models.BATCH, verbose=0)
    copies, size = models.memcpy_s(model)
    found = models.savers(directory)
    lists = {n: models.begun(c, model) for n, c in found.items() if names is None or n in names}
    for callbacks in lists.values():  # the first save allocates and imports
        callbacks.on_epoch_end(0, {"loss": 2.0})
        models.settle([c for c in callbacks.callbacks if type(c).__name__ != "Tail"][0])
    driver = Driver(lists, pairs, stretch_s)
    model.fit(x, y, batch_size=models.BATCH, epochs=100_000, verbose=0, callbacks=[driver])
    again, _ = models.memcpy_s(model)
    copy_s = min(copies, again)
    rows = {}
    for name, times in driver.times.items():
        slower = [a - b for a, b in zip(times["with"], times["without"], strict=True)]
        rows[name] = {
            "hook": statistics.median(times["hook"]) / copy_s,
            "total": statistics.median(slower) / copy_s,
            "raw": times,
        }
    return {"bytes": size, "memcpy_s": copy_s, "rows": rows}
