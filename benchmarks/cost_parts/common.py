"""What the parts share: the savers of a variant, rows of the table, and saves that are timed."""

import inspect
import time
from dataclasses import asdict, dataclass

from saves import blocked
from saves import model as models

VARIANTS = ("before", "now", "Keras", "Orbax")


@dataclass(frozen=True)
class Row:
    """A goal, and what was measured.

    Attributes:
        goal: What was aimed at, in words.
        limit: The largest value that reaches it; None where there is no goal.
        values: The figure of each variant; what is missing was not measured.
        unit: Written behind the values.
    """

    goal: str
    limit: float | None
    values: dict
    unit: str = ""

    @property
    def verdict(self):
        """Whether ours reaches the goal."""
        if self.limit is None or self.values.get("now") is None:
            return ""
        return "reached" if self.values["now"] <= self.limit else "missed"

    def as_json(self):
        """Return the row as data."""
        return {**asdict(self), "verdict": self.verdict}


def row(goal, limit, found, figure, unit="", per=None):
    """Return a row of one figure, divided by what `per` returns for a variant's medians."""
    values = {}
    for variant, medians in found.items():
        value = medians.get(figure)
        if value is not None:
            values[variant] = value / (per(medians) if per else 1)
    return Row(goal, limit, values, unit)


def snapshots(variant, directory, **ours):
    """Return the callback of a variant that saves all that is needed to resume."""
    import keras

    import keras_ratchet

    if variant == "Orbax":
        return keras.callbacks.OrbaxCheckpoint(str((directory / "orbax").absolute()))
    if variant == "Keras":
        return keras.callbacks.BackupAndRestore(directory / "backup")
    return keras_ratchet.BackupAndRestore(directory / "backup", **ours)


def weights(variant, path, **ours):
    """Return the callback of a variant that saves weights; ours takes more arguments."""
    import keras

    import keras_ratchet

    if variant == "Keras":
        return keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    return keras_ratchet.ModelCheckpoint(path, save_weights_only=True, **ours)


def takes(function, name):
    """Return whether a function has a parameter: an older version may not have it."""
    return name in inspect.signature(function).parameters


def saves(callback, model, batch, count, unmeasured=2):
    """Save a number of times outside of `fit`, with a training step before each.

    Returns:
        Samples of the time in the hook, the time until durable and the processor time, in ms.
    """
    callbacks = models.begun(callback, model)
    found = {"hook_ms": [], "durable_ms": [], "cpu_ms": []}
    for number in range(count + unmeasured):
        model.train_on_batch(*batch)
        started, used = time.perf_counter(), time.process_time()
        callbacks.on_epoch_end(number, {"loss": 1.0})
        hook = time.perf_counter() - started
        models.settle(callbacks)
        if number >= unmeasured:  # the first ones allocate and import
            found["hook_ms"].append(1e3 * hook)
            found["durable_ms"].append(1e3 * (time.perf_counter() - started))
            found["cpu_ms"].append(1e3 * (time.process_time() - used))
    callbacks.on_train_end()
    return found


def slower_ms(callback, model, data, pairs, stretch_s):
    """Return samples of the time that a save costs training: in the hook and by slower steps."""
    lists = {"it": models.begun(callback, model)}
    lists["it"].on_epoch_end(0, {"loss": 2.0})
    models.settle(lists["it"])
    driver = blocked.Driver(lists, pairs, stretch_s)
    model.fit(*data, batch_size=models.BATCH, epochs=100_000, verbose=0, callbacks=[driver])
    times = driver.times["it"]
    lists["it"].on_train_end()
    return [1e3 * (a - b) for a, b in zip(times["with"], times["without"], strict=True)]
