"""Runs under Ray whose workers and trials are killed; what became of them is left in files.

    python -m support.ray_runs torch DIRECTORY    # two workers of a TorchTrainer, one killed
    python -m support.ray_runs jax DIRECTORY      # the same with a JaxTrainer
    python -m support.ray_runs tune DIRECTORY     # a trial that is killed
    python -m support.ray_runs asha DIRECTORY     # trials that a scheduler stops early

Several kinds may be given, with commas: they share one start of Ray, which takes most of the time.
A killed worker or trial has done a whole run before, with which the killed one is compared. Each
run appends the epochs that it reports to `reports-RANK.txt` and writes `digest-RANK.txt`.
"""

import hashlib
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


def callbacks_of(directory, rank, kill, saves=True, tells=True):
    """Return the callbacks of a run, which notes what is reported and dies after a batch.

    Args:
        directory: Of the run.
        rank: Of this process.
        kill: After which batch it dies; 0 for none.
        saves: Whether there are snapshots.
        tells: Whether Ray hears of the reports.
    """
    import keras

    import keras_ratchet
    from keras_ratchet.integrations.ray import RayReportCallback

    directory.mkdir(parents=True, exist_ok=True)

    class Noted(RayReportCallback):
        def _tell(self, metrics, checkpoint):
            line = f"{metrics['epoch']} {checkpoint is not None}\n"
            with (directory / f"reports-{rank}.txt").open("a") as file:
                file.write(line)
            if tells:
                super()._tell(metrics, checkpoint)

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
    """Train in one process as a trial of Tune: two runs that Ray does not hear of, then its own."""
    from keras_ratchet.integrations.ray import run_directory

    others = [("whole", 0, True), ("unsaved", 0, False)]
    for name, kill, saves in (*others, ("killed", 2 * BATCHES + 5, True)):
        fit(Path(run_directory()) / name, kill, saves, tells=name == "killed")


def stopped_trial(config):
    """Train in one process as a trial of Tune that is killed once."""
    from keras_ratchet.integrations.ray import run_directory

    fit(Path(run_directory()), BATCHES + 5)


def fit(directory, kill, saves=True, tells=True):
    model, (x, y) = model_of(), data_of(0)
    callbacks = callbacks_of(directory, 0, kill, saves, tells)
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
            name=kind, storage_path=storage, failure_config=FailureConfig(max_failures=1)
        ),
    ).fit()
    print("checkpoint", kind, result.checkpoint.path)


def run_tune(kind, storage):
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    stop = ASHAScheduler(metric="loss", mode="min", grace_period=3, max_t=3)
    results = tune.Tuner(
        stopped_trial if kind == "asha" else trial,
        param_space={"number": tune.grid_search([0, 1] if kind == "asha" else [0])},
        tune_config=tune.TuneConfig(scheduler=stop if kind == "asha" else None),
        run_config=tune.RunConfig(
            name=kind, storage_path=storage, failure_config=tune.FailureConfig(max_failures=1)
        ),
    ).fit()
    for result in results:
        print("trial", kind, result.path, *result.metrics_dataframe["training_iteration"])


def start_ray(directory, attempts=4):
    """Start Ray, which gives up after 30 s where the machine is busy."""
    import ray

    options = {"num_cpus": 2, "include_dashboard": False, "address": "local"}
    for attempt in range(attempts):
        try:
            ray.init(**options, _temp_dir=f"{directory}{attempt}")
            return
        except Exception as error:
            ray.shutdown()
            if attempt + 1 == attempts:
                raise
            print(f"once more: {error}")


def main():
    kinds, storage = sys.argv[1:]
    import ray

    start_ray(os.path.join(storage, "r"))
    try:
        for kind in kinds.split(","):
            (run_tune if kind in ("tune", "asha") else run_train)(kind, storage)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    from support.ray_runs import main as run  # under its own name, which Ray's workers import

    run()
