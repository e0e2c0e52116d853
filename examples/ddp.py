"""One training in several processes: a PyTorch loop with DistributedDataParallel.

Kill a process, or all of them, and start it again: it goes on in mid-epoch, on every rank.

    torchrun --nproc-per-node 2 examples/ddp.py
    python examples/ddp.py                       # the same file in one process
"""

import os

os.environ["KERAS_BACKEND"] = "torch"  # the loop is written in torch

import argparse
from pathlib import Path

import keras
import torch
import torch.distributed as dist
from custom_loop import build_model
from interrupt import KillAt, digest
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import keras_ratchet

EPOCHS, BATCH = 6, 32  # of all processes together
KILL = (3, 10)  # after which batch of which epoch, counted from 0


def load_data():
    """Return the training and the validation data: 1,408 and 360 images of handwritten digits."""
    digits = load_digits()
    x = torch.tensor(digits.data / 16.0, dtype=torch.float32)
    y = torch.tensor(digits.target)
    return TensorDataset(x[:1408], y[:1408]), TensorDataset(x[-360:], y[-360:])


def validate(model, data, rank, world_size):
    """Return the mean loss over this process's share of the data."""
    x, y = data[rank::world_size]
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(x, training=False), y))


def train(run, rank, world_size, killer):
    """Train, or resume training; return the model, the stopper and the history."""
    keras.utils.set_random_seed(3)  # the same first weights everywhere
    model = build_model()
    network = DistributedDataParallel(model) if world_size > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    training, validation = load_data()
    sampler = DistributedSampler(training, world_size, rank, seed=3)
    loader = DataLoader(training, BATCH // world_size, sampler=sampler)

    stopper = keras_ratchet.EarlyStopping(patience=2, restore_best_weights=True)
    best = keras_ratchet.ModelCheckpoint(run / "best.keras", save_best_only=True)
    with keras_ratchet.Run(
        run / "backup",
        model,
        optimizer=optimizer,
        callbacks=[stopper, best, killer],
        save_freq=10,
        signals="SIGTERM",
    ) as training_run:
        for epoch in training_run.epochs(EPOCHS):
            sampler.set_epoch(epoch)
            for x, y in training_run.batches(loader):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(network(x, training=True), y)
                loss.backward()
                optimizer.step()
                training_run.log(loss=loss.detach())
            # Each process logs what it has seen; the callbacks get the means.
            training_run.log(val_loss=validate(model, validation, rank, world_size))
    return model, stopper, training_run.history


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--directory", type=Path, default="runs/ddp", help="the same on all processes"
    )
    parser.add_argument("--kill", type=int, help="the rank that kills itself in mid-epoch")
    arguments = parser.parse_args()
    rank, world_size = 0, 1
    if "RANK" in os.environ:  # set by torchrun
        dist.init_process_group("gloo")
        rank, world_size = dist.get_rank(), dist.get_world_size()

    killer = KillAt(*(KILL if rank == arguments.kill else (-1, -1)))  # the same list everywhere
    model, stopper, history = train(arguments.directory, rank, world_size, killer)
    # Each line in one piece: the processes may share the output.
    print(f"Rank {rank} of {world_size}: weights {digest(model)}\n", end="", flush=True)
    if rank == 0:
        losses = ", ".join(f"{loss:.6f}" for loss in history["val_loss"])
        print(f"val_loss {losses}; best epoch {stopper.best_epoch + 1}\n", end="", flush=True)
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
