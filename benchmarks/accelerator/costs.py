"""Cost of a save on an accelerator, compared with a copy of the same bytes over the bus."""

import shutil
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from saves import blocked
from saves import model as models


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


def measure(state_mb, pairs, directory, names, limit_s):
    """Yield name -> milliseconds in the hook, and with the slower steps after it, row by row.

    Args:
        state_mb: Size of weights and Adam's slots.
        pairs: How many saves of each callback.
        directory: Where the files go.
        names: Which callbacks; None for all.
        limit_s: No further callback is measured after so many seconds.
    """
    directory = Path(directory)
    model, width = models.dense(state_mb)
    x, y = models.data(width, 50)
    model.fit(x[:32], y[:32], batch_size=models.BATCH, verbose=0)
    bytes_ = sum(int(np.prod(v.shape)) * 4 for v in [*model.variables, *model.optimizer.variables])
    copy_s = bus_s(model)
    figures = {"bytes": bytes_, "bus_ms": 1e3 * copy_s, "rows": {}}
    rows, began = figures["rows"], time.time()
    for name in names or list(models.savers(directory / "names")):
        if time.time() - began > limit_s:
            rows[name] = None
            yield figures
            continue
        rows[name] = _one(model, x, y, name, directory / "run", pairs)
        shutil.rmtree(directory / "run", ignore_errors=True)
        print(state_mb, name, rows[name], flush=True)
        figures["bus_ms"] = min(figures["bus_ms"], 1e3 * bus_s(model))
        yield figures


def _one(model, x, y, name, directory, pairs):
    directory.mkdir(parents=True, exist_ok=True)
    callbacks = models.begun(models.savers(directory)[name], model)
    callbacks.on_epoch_end(0, {"loss": 2.0})  # the first save allocates and imports
    models.settle(callbacks)
    lasts_s = models.timed(lambda: _save(callbacks))
    driver = blocked.Driver({name: callbacks}, pairs, min(8.0, max(0.5, 1.3 * lasts_s)))
    driver.saves = 10  # Orbax refuses a step that it has saved
    model.fit(x, y, batch_size=models.BATCH, epochs=100_000, verbose=0, callbacks=[driver])
    callbacks.on_train_end()
    times = driver.times[name]
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
