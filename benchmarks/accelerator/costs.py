"""Cost of a save on an accelerator, compared with a copy of the same bytes over the bus."""

import contextlib
import importlib
import shutil
import statistics
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from saves import blocked
from saves import model as models

import keras_ratchet

OURS = ("ours ModelCheckpoint .weights.h5", "ours BackupAndRestore", "ours ModelCheckpoint .keras")
LARGE = (  # what is measured at 3 GB, too
    *OURS[:2],
    f"{OURS[0]}, not staged",
    "ours EarlyStopping, keep_on=device",
    "ours EarlyStopping, keep_on=host",
    "Keras ModelCheckpoint .weights.h5",
)


def bus_s(model, rounds=7):
    """Return the median time of one copy of the state from the device into pinned memory."""
    variables = [*model.variables, *model.optimizer.variables]
    if keras.backend.backend() == "torch":
        return _torch_bus_s([v.value.detach() for v in variables], rounds)
    import jax

    times = []
    for _ in range(rounds):
        fresh = [jax.numpy.copy(v.value) for v in variables]  # jax caches its host copies
        jax.block_until_ready(fresh)
        began = time.perf_counter()
        for value in fresh:
            value.copy_to_host_async()
        for value in fresh:
            np.asarray(value)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _torch_bus_s(values, rounds):
    import torch

    pinned = values[0].device.type == "cuda"
    buffers = [torch.empty(v.shape, dtype=v.dtype, pin_memory=pinned) for v in values]

    def copy():
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value, non_blocking=True)
        if pinned:
            torch.cuda.synchronize()

    copy()
    return statistics.median(models.timed(copy) for _ in range(rounds))


def measure(state_mb, pairs, directory, titles, limit_s, least_s=0.5):
    """Yield figures in milliseconds: in the hook, with the slower steps after it; row by row.

    Args:
        state_mb: Size of weights and Adam's slots.
        pairs: How many saves of each of our callbacks; of the others it is 3, at most.
        directory: Where the files go.
        titles: Which rows; None for all.
        limit_s: No further row is measured if it might end later.
        least_s: How long training goes on after a save, at least.
    """
    warnings.simplefilter("ignore")
    directory, began, longest_s = Path(directory), time.perf_counter(), 0.0
    model, width = models.dense(state_mb)
    x, y = models.data(width, 50)
    model.fit(x[:32], y[:32], batch_size=models.BATCH, verbose=0)
    bytes_ = sum(int(np.prod(v.shape)) * 4 for v in [*model.variables, *model.optimizer.variables])
    figures = {"bytes": bytes_, "bus_ms": 1e3 * bus_s(model), "rows": {}}
    for number, title in enumerate(titles or list(rows_in(directory / "names"))):
        started = time.perf_counter()
        if started - began + longest_s > limit_s:
            figures["rows"][title] = {"problem": "no time left"}
        else:
            place = directory / f"row-{number}"  # a callback may still hold the one before
            count = pairs if title.startswith("ours") else min(pairs, 3)
            figures["rows"][title] = _row(model, x, y, title, place, count, least_s)
            shutil.rmtree(place, ignore_errors=True)
            figures["bus_ms"] = min(figures["bus_ms"], 1e3 * bus_s(model))
        longest_s = max(longest_s, time.perf_counter() - started)
        print(state_mb, title, figures["rows"][title], flush=True)
        yield figures


def rows_in(directory):
    """Return title -> (callback, block in which it is measured) for all that are compared."""
    found = models.savers(directory)
    ours = {name: (found[name], contextlib.nullcontext) for name in OURS}
    ours |= {f"{name}, not staged": (models.savers(directory)[name], unstaged) for name in OURS[:1]}
    for keep_on in ("device", "host"):
        stopper = keras_ratchet.EarlyStopping(
            "loss", patience=10**6, restore_best_weights=True, keep_on=keep_on
        )
        ours[f"ours EarlyStopping, keep_on={keep_on}"] = stopper, contextlib.nullcontext
    return ours | {n: (c, contextlib.nullcontext) for n, c in found.items() if n not in OURS}


@contextlib.contextmanager
def unstaged():
    """Let no device have room to stage a save."""
    backend = keras.backend.backend()
    module = importlib.import_module(f"keras_ratchet._backends.{backend}_device")
    owner, name = (module, "_staging") if backend == "torch" else (module.Device, "has_room")
    original = getattr(owner, name)
    setattr(owner, name, lambda *_: None)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _row(model, x, y, title, directory, pairs, least_s):
    directory.mkdir(parents=True, exist_ok=True)
    callback, block = rows_in(directory)[title]
    try:
        with block():
            return _one(model, x, y, callback, pairs, least_s)
    except Exception as error:  # the other rows can be measured all the same
        return {"problem": f"{type(error).__name__}: {str(error)[:200]}"}


def _one(model, x, y, callback, pairs, least_s):
    callbacks = models.begun(callback, model)
    callbacks.on_epoch_end(0, {"loss": 2.0})  # the first save allocates and imports
    models.settle(callbacks)
    lasts_s = models.timed(lambda: _save(callbacks))
    driver = blocked.Driver({"": callbacks}, pairs, min(6.0, max(least_s, 1.3 * lasts_s)))
    driver.saves = 10  # Orbax refuses a step that it has saved
    model.fit(x, y, batch_size=models.BATCH, epochs=100_000, verbose=0, callbacks=[driver])
    callbacks.on_train_end()
    times = driver.times[""]
    slower = [a - b for a, b in zip(times["with"], times["without"], strict=True)]
    return {
        "hook_ms": 1e3 * statistics.median(times["hook"]),
        "total_ms": 1e3 * statistics.median(slower),
        "durable_ms": 1e3 * lasts_s,
        "hooks_ms": [round(1e3 * t, 2) for t in times["hook"]],
        "slower_ms": [round(1e3 * t, 2) for t in slower],
    }


def _save(callbacks):
    callbacks.on_epoch_end(1, {"loss": 1.5})
    models.settle(callbacks)
