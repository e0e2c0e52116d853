"""A script whose weights are split over processes: see tests/distributed/test_slices.py.

Arguments: the directory, the mesh ("1x4": batch x model, or "none"), how many epochs, and perhaps
`die:<n>`: rank 1 ends in its n-th write of slices, after the slices and before what says so.
"""

import hashlib
import json
import logging
import sys
import warnings

from support import rank

where, mesh, epochs, *more = sys.argv[1:]
logging.basicConfig(level=logging.WARNING, format="%(message)s")
warnings.simplefilter("always")
RANK, _ = rank.join(distribution=None)

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_ratchet as kr  # noqa: E402
from keras_ratchet import _backends  # noqa: E402
from keras_ratchet._backends.slices import Slices  # noqa: E402


def lay_out(batch, model):
    """Split kernels and biases; the axis of the model goes over the processes first."""
    distribution = keras.distribution
    devices = np.array(distribution.list_devices()).reshape(model, batch).T
    layout = distribution.LayoutMap(
        distribution.DeviceMesh((batch, model), ["batch", "model"], devices)
    )
    layout[".*kernel"] = distribution.TensorLayout([None, "model"])
    layout[".*bias"] = distribution.TensorLayout(["model"])
    distribution.set_distribution(
        distribution.ModelParallel(
            layout_map=layout, batch_dim_name="batch", auto_shard_dataset=False
        )
    )


def die_in_write(number):
    """End this process in the middle of one of its writes of slices."""
    from keras_ratchet._engine.resume import slice_files

    described, calls = slice_files._described, []

    def die(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            rank.kill_myself()
        return described(*arguments)

    slice_files._described = die


def whole(variable):
    """Return a variable's whole value on every rank."""
    held = _backends.current().view(variable)
    if not isinstance(held, Slices):
        return np.asarray(held)
    if keras.backend.backend() == "torch":
        return variable.value.detach().full_tensor().numpy()
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(variable.value, tiled=True))


if mesh != "none":
    lay_out(*map(int, mesh.split("x")))
if more and RANK == 1:
    die_in_write(int(more[0].removeprefix("die:")))
keras.utils.set_random_seed(1)
model = keras.Sequential(
    [
        keras.Input((4,)),
        keras.layers.Dense(8),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(4),
    ]
)
model.compile("adam", "mse")
x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
y = np.stack([x.sum(1)] * 4, 1)
stopping = kr.EarlyStopping("val_loss", mode="max", patience=9, restore_best_weights=True)
callbacks = [
    kr.BackupAndRestore(f"{where}/backup", save_freq=3, delete_checkpoint=False, keep=9),
    stopping,
    kr.TerminateOnNaN(),
    kr.ModelCheckpoint(f"{where}/last.keras"),
    kr.ModelCheckpoint(f"{where}/last.weights.h5", save_weights_only=True),
]
history = model.fit(
    x,
    y,
    validation_data=(x, y),
    epochs=int(epochs),
    batch_size=8,
    verbose=0,
    shuffle=False,
    callbacks=callbacks,
)
values = {v.path: whole(v) for v in [*model.variables, *model.optimizer.variables]}
if RANK == 0:
    np.savez(f"{where}/{mesh}.npz", **{name.replace("/", "|"): a for name, a in values.items()})
digest = hashlib.md5(b"".join(value.tobytes() for value in values.values())).hexdigest()
split = sum(_backends.current().is_split(v) for v in [*model.variables, *model.optimizer.variables])
logs = hashlib.md5(json.dumps(history.history, default=float).encode()).hexdigest()
print("RESULT", digest, logs, stopping.best_epoch, "split", split, flush=True)
