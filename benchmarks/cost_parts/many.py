"""A small save, beside few and beside many checkpoints."""

import shutil
from unittest import mock

from saves import model as models

from cost_parts.common import Row, row, weights

COUNTS = (10, 1000)


def measure(variant, mb, directory):
    """Return the samples of one process."""
    model, width = models.dense(mb)
    batch = models.data(width, 1)
    model.train_on_batch(*batch)
    found = {}
    for count in COUNTS:
        made = directory.parent / f"many-{count}"  # once for all rounds and variants
        if not made.exists():
            _make(made, count)
        where = directory / str(count)
        shutil.copytree(made, where)
        more = {} if variant == "Keras" else {"keep_last": count + 99}
        callback = weights(variant, where / "{epoch}.weights.h5", **more)
        found[f"{count} ms"] = _more_saves(callback, model, batch, count)
    return found


def _make(where, count):
    """Make a directory with so many small checkpoints of ours, without waiting for the disk."""
    model, _ = models.dense(0.1)
    draft = where.with_name(f"{where.name}-draft")
    draft.mkdir()
    callback = weights("now", draft / "{epoch}.weights.h5", keep_last=count + 99)
    callbacks = models.begun(callback, model)
    with mock.patch("os.fsync", lambda fd: None), mock.patch("os.fdatasync", lambda fd: None):
        for number in range(count):
            callbacks.on_epoch_end(number, {"loss": 1.0})
    callbacks.on_train_end()
    draft.rename(where)


def _more_saves(callback, model, batch, count):
    callbacks = models.begun(callback, model)
    found = []
    for number in range(count, count + 9):
        model.train_on_batch(*batch)
        found.append(1e3 * models.timed(lambda: callbacks.on_epoch_end(number, {"loss": 1.0})))  # noqa: B023
        models.settle(callbacks)
    callbacks.on_train_end()
    return found[2:]


def goals(found, mb):
    """Return the rows of the table."""
    few, many = (f"{count} ms" for count in COUNTS)
    small = row(f"{mb} MB, beside {COUNTS[0]} checkpoints", None, found, few, " ms")
    ratio = {v: m[few] / found["before"][few] for v, m in found.items() if "before" in found}
    return [
        small,
        row(f"{mb} MB, beside {COUNTS[1]:,} checkpoints", None, found, many, " ms"),
        row("beside 1,000 / beside 10 <= 1.3", 1.3, found, many, "x", per=lambda m: m[few]),
        Row(f"{mb} MB, of before <= 0.7", 0.7, ratio, "x"),
    ]
