"""How fast a save reaches the disk, relative to a raw write and fsync of the same bytes.

Ours includes digest, manifest and the syncs of directories. Keras's own do not sync; a sync of
the file is added here.
"""

import os
import statistics

from saves import model as models


def measure(state_mb, rounds, directory):
    """Return name -> rate relative to the raw rate."""
    model, width = models.dense(state_mb)
    x, y = models.data(width, 2)
    model.fit(x, y, batch_size=models.BATCH, verbose=0)
    found = models.savers(directory, background=False)
    found = {n: c for n, c in found.items() if "Orbax" not in n}
    lists = {name: models.begun(callback, model) for name, callback in found.items()}
    times = {name: [] for name in lists}
    raw = {name: [] for name in lists}
    sizes = {}
    for number in range(rounds + 1):
        for name, callbacks in lists.items():
            before = models.files_below(directory)
            took = models.timed(lambda: _save(callbacks, number + 1, name, directory, before))  # noqa: B023
            sizes[name] = _newest_bytes(directory, before)
            if number:  # the first one allocates and imports
                times[name].append(took)
                raw[name].append(models.timed(lambda: _raw(directory, sizes[name])))  # noqa: B023
    return {
        name: {
            "rate": statistics.median(raw[name]) / statistics.median(times[name]),
            "ms": round(1e3 * statistics.median(times[name])),
            "raw_ms": round(1e3 * statistics.median(raw[name])),
            "bytes": sizes[name],
        }
        for name in lists
    }


def _save(callbacks, number, name, directory, before):
    callbacks.on_epoch_end(number, {"loss": 1.0 / number})
    models.settle(callbacks)
    if name.startswith("Keras"):
        for path, stamp in models.files_below(directory).items():
            if before.get(path) != stamp:
                fd = os.open(path, os.O_RDWR)
                os.fsync(fd)
                os.close(fd)


def _newest_bytes(directory, before):
    after = models.files_below(directory)
    return sum(os.path.getsize(path) for path, stamp in after.items() if before.get(path) != stamp)


_BLOCK = os.urandom(1 << 20)


def _raw(directory, size):
    path = directory / "raw"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for _ in range(size >> 20):
        os.write(fd, _BLOCK)
    os.write(fd, _BLOCK[: size & ((1 << 20) - 1)])
    os.fsync(fd)
    os.close(fd)
    os.unlink(path)
