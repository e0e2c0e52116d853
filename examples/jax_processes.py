"""One training in several processes: `fit` on JAX, with the data parallel over the processes.

Kill a process, or all of them, and start it again: it goes on in mid-epoch, on every rank. Each
process is told who it is by the environment variables that Keras reads:

    export KERAS_DISTRIBUTION_JOB_ADDRESSES=127.0.0.1:12345 KERAS_DISTRIBUTION_NUM_PROCESSES=2
    KERAS_DISTRIBUTION_PROCESS_ID=1 python examples/jax_processes.py &
    KERAS_DISTRIBUTION_PROCESS_ID=0 python examples/jax_processes.py

    python examples/jax_processes.py                 # the same file in one process
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import argparse
from pathlib import Path

import digits
import jax
import keras
from interrupt import KillAt, digest

import keras_ratchet

EPOCHS, BATCH = 6, 32  # of all processes together
KILL = (3, 10)  # after which batch of which epoch, counted from 0


def join():
    """Become one of several processes, if the environment says so; return (rank, how many)."""
    if "KERAS_DISTRIBUTION_PROCESS_ID" in os.environ:
        keras.distribution.initialize()
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)  # see `main`
        keras.distribution.set_distribution(parallel)
    return jax.process_index(), jax.process_count()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--directory", type=Path, default="runs/jax", help="the same on all processes"
    )
    parser.add_argument("--kill", type=int, help="the rank that kills itself in mid-epoch")
    arguments = parser.parse_args()
    rank, world_size = join()

    keras.utils.set_random_seed(7)  # the same first weights everywhere
    (x, y), (x_val, y_val), _ = digits.load_data()
    model = digits.build_model()
    share = len(x) // world_size  # each process feeds its own part: as many batches as the others
    x, y = x[rank::world_size][:share], y[rank::world_size][:share]
    x_val, y_val = x_val[rank::world_size], y_val[rank::world_size]
    killer = KillAt(*(KILL if rank == arguments.kill else (-1, -1)))  # the same list everywhere
    stopper = keras_ratchet.EarlyStopping(patience=2, restore_best_weights=True)
    history = model.fit(
        x,
        y,
        validation_data=(x_val, y_val),
        epochs=EPOCHS,
        batch_size=BATCH // world_size,
        verbose=0,
        callbacks=[
            keras_ratchet.BackupAndRestore(
                arguments.directory / "backup", save_freq=10, signals="SIGTERM"
            ),
            stopper,
            keras_ratchet.ModelCheckpoint(arguments.directory / "best.keras", save_best_only=True),
            killer,
        ],
    )
    # Each line in one piece: the processes may share the output.
    print(f"Rank {rank} of {world_size}: weights {digest(model)}\n", end="", flush=True)
    if rank == 0:
        losses = ", ".join(f"{loss:.6f}" for loss in history.history["val_loss"])
        print(f"val_loss {losses}; best epoch {stopper.best_epoch + 1}\n", end="", flush=True)


if __name__ == "__main__":
    main()
