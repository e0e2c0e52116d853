"""Whether saves by the clock cost, and come, as they were asked to: steps of 3, 30 and 300 ms."""

import shutil
import time

import keras
import numpy as np

import keras_ratchet
from cost_parts.common import row

SHARE = 0.035
EVERY_S = 2.0
MTBF_S = 120.0
BATCHES = 8  # that are different
LARGEST_BATCH = 8192


class Clock(keras.callbacks.Callback):
    """Records when steps end, from the fifth on, and when saves begin; stops after some seconds.

    Compilation and the first save, before the first step, are not timed: the run has to be long
    for them not to count.
    """

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.ends, self.saves = [], []
        self.backup = None
        self.intervals_s = []  # those that a schedule promises for the cost that it has measured

    def on_train_batch_end(self, batch, logs=None):
        if batch >= 4:
            self.ends.append(time.perf_counter())
            if self.ends[-1] - self.ends[0] >= self.seconds:
                self.model.stop_training = True

    def on_snapshot_begin(self):
        """Called before each save after a batch."""
        if self.ends:
            self.saves.append(time.perf_counter())
            schedule = self.backup._session._schedule
            self.intervals_s.append(schedule._interval.seconds(schedule.cost))

    @property
    def step_s(self):
        """The mean time of a step, saves included."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def model_of(mb, layers=8):
    """Return a compiled model whose state has so many MB; its width."""
    width = round((mb * 1e6 / 8 / layers) ** 0.5)
    stack = [keras.layers.Dense(width, activation="relu") for _ in range(layers)]
    model = keras.Sequential([keras.Input((width,)), *stack])
    model.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "mse")
    return model, width


def measure(variant, mb, directory, step_ms, seconds):
    """Return the samples of one process."""
    model, width = model_of(mb)
    batch, usual_s = _batch_for(model, width, step_ms / 1e3)
    found = {"overhead": [], "step_ms": [1e3 * usual_s], "gap_s": []}
    for number in range(2):
        times = {}
        for which in ("with", "without") if number else ("without", "with"):
            clock = Clock(seconds)
            callback = _backup(directory, clock, overhead=SHARE) if which == "with" else None
            times[which] = _fit(model, width, batch, clock, callback)
            found["gap_s"] += np.diff(clock.saves).tolist()
        found["overhead"].append(100 * (times["with"] / times["without"] - 1))
    for name, argument in (("every_s", EVERY_S), ("mtbf_s", MTBF_S)):
        clock = Clock(seconds)
        _fit(model, width, batch, clock, _backup(directory, clock, **{name: argument}))
        late = np.diff(clock.saves) - clock.intervals_s[1:]  # promised at the later of the two
        found[f"{name} late"] = (late / usual_s).tolist()
    found["gap_s"] = found["gap_s"] or [seconds]
    return found


def _backup(directory, clock, **when):
    clock.backup = keras_ratchet.BackupAndRestore(directory / "backup", save_freq=False, **when)
    return clock.backup


def _fit(model, width, batch, clock, callback):
    """Train for the clock's seconds; return the mean time of a step."""
    x = np.random.default_rng(0).normal(size=(batch * BATCHES, width)).astype("float32")
    callbacks = [clock] if callback is None else [callback, clock]
    steps = _Steps(x, batch)
    model.fit(steps, shuffle=False, verbose=0, callbacks=callbacks)
    if callback is not None:
        shutil.rmtree(callback.backup_dir, ignore_errors=True)
    return clock.step_s


class _Steps(keras.utils.PyDataset):
    """More batches than anybody trains on."""

    def __init__(self, x, batch):
        super().__init__()
        self.x, self.batch = x, batch

    def __len__(self):
        return 20_000

    def __getitem__(self, index):
        first = index % BATCHES * self.batch
        x = self.x[first : first + self.batch]
        return x, x


def _batch_for(model, width, step_s):
    """Return the size of a batch with which a step takes about so long, and how long it does."""
    batch = 4
    while True:
        clock = Clock(0.5)
        took_s = _fit(model, width, batch, clock, None)
        if took_s >= 0.7 * step_s or batch >= LARGEST_BATCH:
            return batch, took_s
        batch = min(LARGEST_BATCH, round(batch * min(4.0, max(1.5, step_s / took_s))))


def goals(found, mb, step_ms):
    """Return the rows of the table."""
    about = f"steps of {step_ms} ms, {mb} MB"
    return [
        row(f"{about}: overhead=0.035 costs, in % <= 4", 4.0, found, "overhead", " %"),
        row(f"{about}: time between its saves", None, found, "gap_s", " s"),
        row(f"{about}: every_s is late by, in steps <= 1", 1.0, found, "every_s late", ""),
        row(f"{about}: mtbf_s is late by, in steps <= 1", 1.0, found, "mtbf_s late", ""),
    ]
