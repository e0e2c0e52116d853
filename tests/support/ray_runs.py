"""Runs under Ray whose workers and trials are killed; what became of them is left in files.

    python -m support.ray_runs train DIRECTORY    # two workers of a TorchTrainer, one killed
    python -m support.ray_runs jax DIRECTORY      # the same with a JaxTrainer
    python -m support.ray_runs tune DIRECTORY     # three trials, two killed
    python -m support.ray_runs asha DIRECTORY     # trials that a scheduler stops early

Each run appends the epochs that it reports to `reports-RANK.txt` and writes `digest-RANK.txt`.
"""

import hashlib
import logging
import os
import sys
from pathlib import Path

EPOCHS, BATCHES = 4, 6


def model_of(seed=1):
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def data_of(rank):
    import numpy as np

    generator = np.random.default_rng(rank)
    x = generator.normal(size=(8 * BATCHES, 4)).astype("float32")
    return x, x.sum(1, keepdims=True)


def finish(directory, rank, model):
    import keras

    values = [keras.ops.convert_to_numpy(v).tobytes() for v in model.variables]
    (directory / f"digest-{rank}.txt").write_text(hashlib.sha256(b"".join(values)).hexdigest())


def callbacks_of(directory, rank, kill, saves=True):
    """Return the callbacks of a run, which notes what is reported and dies after a batch."""
    import keras

    import keras_ratchet
    from keras_ratchet.integrations.ray import RayReportCallback

    directory.mkdir(parents=True, exist_ok=True)

    class Noted(RayReportCallback):
        def _tell(self, metrics, checkpoint):
            super()._tell(metrics, checkpoint)
            line = f"{metrics['epoch']} {checkpoint is not None}\n"
            with (directory / f"reports-{rank}.txt").open("a") as file:
                file.write(line)

    class Die(keras.callbacks.Callback):
        done = 0

        def on_train_batch_end(self, batch, logs=None):
            self.done += 1
            mark = directory / "killed"
            if self.done == kill and not mark.exists():
                mark.touch()
                os._exit(9)

    best = keras_ratchet.ModelCheckpoint(directory / "best.keras", "loss", save_best_only=True)
    backup = keras_ratchet.BackupAndRestore(
        directory / "backup", save_freq=4, delete_checkpoint=False
    )
    return [best, *([backup] if saves else []), Noted(checkpoint=best), Die()]


def train_torch(config):
    """Train twice in a hand-written loop under DistributedDataParallel; the second is killed."""
    import torch
    from ray.train import get_context

    import keras_ratchet
    from keras_ratchet.integrations.ray import run_directory

    rank = get_context().get_world_rank()
    for name, kill in (("whole", 0), ("killed", 2 * BATCHES + 5 if rank else 0)):
        directory = Path(run_directory()) / name
        model = model_of()
        network = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        data = torch.utils.data.TensorDataset(*map(torch.from_numpy, data_of(rank)))
        loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
        torch.manual_seed(rank)
        best, backup, *others = callbacks_of(directory, rank, kill)
        with keras_ratchet.Run(
            backup.backup_dir,
            model,
            optimizer=optimizer,
            callbacks=[best, *others],
            save_freq=4,
            delete_checkpoint=False,
        ) as run:
            for _ in run.epochs(EPOCHS):
                for x, y in run.batches(loader):
                    optimizer.zero_grad()
                    loss = ((network(x, training=True) - y) ** 2).mean()
                    loss.backward()
                    optimizer.step()
                    run.log(loss=loss.item())
        finish(directory, rank, model)


def train_jax(config):
    """Train twice in `fit`, on two processes; the second is killed."""
    import keras
    import numpy as np
    from ray.train import get_context

    from keras_ratchet.integrations.ray import initialize_distribution, run_directory

    initialize_distribution()
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    rank = get_context().get_world_rank()
    for name, kill in (("whole", 0), ("killed", 2 * BATCHES + 5 if rank else 0)):
        directory = Path(run_directory()) / name
        model = model_of()
        np.random.seed(rank)
        x, y = data_of(rank)
        callbacks = callbacks_of(directory, rank, kill)
        model.fit(x, y, epochs=EPOCHS, batch_size=8, verbose=0, callbacks=callbacks)
        finish(directory, rank, model)


def trial(config):
    """Train in one process as a trial of Tune."""
    logging.basicConfig(level=logging.WARNING)
    from keras_ratchet.integrations.ray import run_directory

    directory = Path(run_directory()) / config["name"]
    model, (x, y) = model_of(), data_of(0)
    kill = 2 * BATCHES + 5 if config["kill"] else 0
    callbacks = callbacks_of(directory, 0, kill, config["saves"])
    model.fit(x, y, epochs=EPOCHS, batch_size=8, verbose=0, callbacks=callbacks)
    finish(directory, 0, model)


def run_train(kind, storage):
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    if kind == "jax":
        from ray.train.v2.jax import JaxTrainer as Trainer
    else:
        from ray.train.torch import TorchTrainer as Trainer
    result = Trainer(
        train_jax if kind == "jax" else train_torch,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(
            name="run", storage_path=storage, failure_config=FailureConfig(max_failures=1)
        ),
    ).fit()
    print("checkpoint", result.checkpoint.path)


def run_tune(kind, storage):
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    names = ["whole", "killed", "unsaved"] if kind == "tune" else ["whole", "killed"]
    space = [{"name": n, "kill": n != "whole", "saves": n != "unsaved"} for n in names]
    stop = ASHAScheduler(metric="loss", mode="max", grace_period=3, max_t=3)
    results = tune.Tuner(
        trial_of,
        param_space={"which": tune.grid_search(space)},
        tune_config=tune.TuneConfig(scheduler=stop if kind == "asha" else None),
        run_config=tune.RunConfig(
            name="run", storage_path=storage, failure_config=tune.FailureConfig(max_failures=1)
        ),
    ).fit()
    for result in results:
        name = result.config["which"]["name"]
        count = list(result.metrics_dataframe["training_iteration"])
        print("trial", name, result.path, *count)


def trial_of(config):
    trial(config["which"])


def main():
    kind, storage = sys.argv[1:]
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        address="local",
        log_to_driver=True,
        _temp_dir=os.path.join(storage, "r"),
    )
    try:
        (run_train if kind in ("train", "jax") else run_tune)(kind, storage)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    from support.ray_runs import main as run  # under its own name, which Ray's workers import

    run()
