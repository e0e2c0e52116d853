"""What a save costs training: in the hook, and with the slower steps that follow it.

Inside one `fit`, stretches of training with a save at their start alternate with stretches without
one. The hook is timed by itself; the slow-down is the median difference of two neighbouring
stretches. A stretch is longer than a save takes to reach the disk.
"""

import statistics
import time

import keras
from saves import model as models


class Driver(keras.callbacks.Callback):
    """Lets callbacks save in turn at the start of every second stretch, and records the times."""

    def __init__(self, lists, pairs, stretch_s):
        super().__init__()
        self.waiting = [(name, lists[name]) for _ in range(pairs) for name in lists]
        self.stretch_s = stretch_s
        self.times = {name: {"hook": [], "with": [], "without": []} for name in lists}
        self.warm, self.saves = 10, 0
        self.name = None  # of the callback whose turn it is
        self.list = None
        self.started = 0.0
        self.steps = 0
        self.left = None  # steps of the stretch without a save that are still to come

    def on_train_batch_end(self, batch, logs=None):
        if self.warm > 0:
            self.warm -= 1
        elif self.name is None:
            self.begin()
        elif self.left is None:
            self.steps += 1
            if time.perf_counter() - self.started >= self.stretch_s:
                self.end_with_save()
        else:
            self.left -= 1
            if self.left == 0:
                self.times[self.name]["without"].append(time.perf_counter() - self.started)
                self.begin()

    def begin(self):
        """Start a stretch with a save, with as many steps as fit into the time."""
        if not self.waiting:
            self.model.stop_training = True
            return
        self.name, self.list = self.waiting.pop(0)
        self.saves += 1
        self.steps, self.left = 0, None
        self.started = time.perf_counter()
        self.list.on_epoch_end(self.saves, {"loss": 1.0 / self.saves})
        self.times[self.name]["hook"].append(time.perf_counter() - self.started)

    def end_with_save(self):
        """Start the stretch without a save, with the same number of steps."""
        self.times[self.name]["with"].append(time.perf_counter() - self.started)
        models.settle(self.list)
        self.left = self.steps
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
        models.settle(callbacks)
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
            "hook_ms": [round(1e3 * t, 1) for t in times["hook"]],
            "slower_ms": [round(1e3 * t, 1) for t in slower],
        }
    return {"bytes": size, "memcpy_s": copy_s, "rows": rows}
