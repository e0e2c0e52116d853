"""Two workers of Ray Train; one is killed in mid-epoch, and the end is the same.

Ray starts the workers, and starts them again when one has died. The training function needs a
directory that stays the same (`run_directory`), and a callback that reports each epoch.

    pip install "ray[train]"
    python examples/ray_train.py               # ends with a digest of the weights
    python examples/ray_train.py --kill        # worker 1 dies in epoch 3: the same digest
    python examples/ray_train.py --workers 1   # the same file with one worker
"""

import argparse
import hashlib
import os
import tempfile
from pathlib import Path

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

EPOCHS = 5


def load_data(rank, workers):
    """Return this worker's share of the digits, the same number of batches for each."""
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = torch.utils.data.TensorDataset(
        torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    )
    train, validation = torch.utils.data.Subset(data, range(1437)), data[1437:]
    sampler = torch.utils.data.DistributedSampler(train, workers, rank, seed=0)
    return torch.utils.data.DataLoader(train, batch_size=32, sampler=sampler), validation


def build_model():
    """Return an uncompiled multilayer perceptron."""
    import keras

    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )


def train(config):
    """Train on one worker; Ray calls it on all of them."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import torch

    from keras_ratchet import ModelCheckpoint, Run
    from keras_ratchet.integrations.ray import RayReportCallback, run_directory

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    keras.utils.set_random_seed(1)
    model = build_model()
    network = torch.nn.parallel.DistributedDataParallel(model) if workers > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loss_of = torch.nn.CrossEntropyLoss()
    loader, (x_val, y_val) = load_data(rank, workers)
    torch.manual_seed(rank)  # Dropout differs by worker

    directory = Path(run_directory())
    best = ModelCheckpoint(directory / "best.keras", mode="min", save_best_only=True)
    callbacks = [best, RayReportCallback(checkpoint=best)]
    with Run(
        directory / "backup",
        model,
        optimizer=optimizer,
        callbacks=callbacks,
        save_freq=5,
        delete_checkpoint=False,  # a worker may die after the end: then nothing is repeated
    ) as run:
        for epoch in run.epochs(EPOCHS):
            loader.sampler.set_epoch(epoch)
            for batch, (x, y) in enumerate(run.batches(loader)):
                optimizer.zero_grad()
                loss = loss_of(network(x, training=True), y)
                loss.backward()
                optimizer.step()
                run.log(loss=loss.item())
                if config["kill"] and (rank, epoch, batch) == (workers - 1, 2, 12):
                    die_once(directory / "killed")
            with torch.no_grad():
                run.log(val_loss=loss_of(model(x_val, training=False), y_val).item())
    weights = b"".join(keras.ops.convert_to_numpy(v).tobytes() for v in model.weights)
    digest = hashlib.sha256(weights).hexdigest()[:12]
    (directory / f"digest-{rank}").write_text(digest)


def die_once(mark):
    """End this process as SIGKILL would, the first time."""
    if not mark.exists():
        mark.touch()
        os._exit(9)


def main():
    """Start the workers, and say how it ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--storage", default=None, help="a new directory by default")
    arguments = parser.parse_args()
    storage = os.path.abspath(arguments.storage or tempfile.mkdtemp(prefix="ray_train-"))
    ray.init(num_cpus=2, include_dashboard=False, address="local")
    result = TorchTrainer(
        train,
        train_loop_config={"kill": arguments.kill},
        scaling_config=ScalingConfig(
            num_workers=arguments.workers, resources_per_worker={"CPU": 0.5}
        ),
        run_config=RunConfig(
            name="digits", storage_path=storage, failure_config=FailureConfig(max_failures=2)
        ),
    ).fit()
    ray.shutdown()
    digests = {path.read_text() for path in Path(storage, "digits").glob("digest-*")}
    killed = "killed and started again" if Path(storage, "digits/killed").exists() else "no failure"
    print(
        f"{killed}; epoch {result.metrics['epoch']}, val_loss {result.metrics['val_loss']:.4f}; "
        f"weights on all workers: {', '.join(digests)}"
    )


if __name__ == "__main__":
    main()
