"""One training in several processes: `fit` on PyTorch, which Keras 3.16 runs in each of them.

Kill a process, or all of them, and start it again: it goes on in mid-epoch, on every rank.

    torchrun --nproc-per-node 2 examples/ddp_fit.py
    python examples/ddp_fit.py                       # the same file in one process
"""

import os

os.environ["KERAS_BACKEND"] = "torch"

import argparse
from pathlib import Path

import digits
import keras
import torch.distributed as dist
from interrupt import KillAt, digest

import keras_ratchet

EPOCHS, BATCH = 6, 32  # of all processes together
KILL = (3, 10)  # after which batch of which epoch, counted from 0


def join():
    """Become one of torchrun's processes, if it has started this one; return (rank, how many)."""
    if "RANK" not in os.environ:
        return 0, 1
    if tuple(map(int, keras.__version__.split(".")[:2])) < (3, 16):
        raise SystemExit(
            "Several processes need Keras 3.16 or later: the `fit` of earlier ones trains a model "
            "of its own in each process on torch. Install keras-nightly, or write the loop "
            f"yourself as examples/ddp.py does. This is Keras {keras.__version__}."
        )
    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--directory", type=Path, default="runs/ddp_fit", help="the same everywhere"
    )
    parser.add_argument("--kill", type=int, help="the rank that kills itself in mid-epoch")
    arguments = parser.parse_args()
    rank, world_size = join()

    keras.utils.set_random_seed(7)  # the same first weights everywhere
    (x, y), validation, _ = digits.load_data()
    model = digits.build_model()
    share = len(x) // world_size  # as many batches for each
    x, y = x[rank::world_size][:share], y[rank::world_size][:share]
    killer = KillAt(*(KILL if rank == arguments.kill else (-1, -1)))  # the same list everywhere
    stopper = keras_ratchet.EarlyStopping(patience=2, restore_best_weights=True)
    history = model.fit(
        x,
        y,
        validation_data=validation,
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
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
