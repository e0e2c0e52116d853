"""Trainings that trackers, the Hub, Optuna and KerasTuner hear of; some kill themselves.

    python -m support.integration_runs tracked DIRECTORY [KILL]  # all trackers in one list
    python -m support.integration_runs study DIRECTORY [KILL]    # of Optuna
    python -m support.integration_runs search DIRECTORY [KILL]   # of KerasTuner

With KILL, a number of batches, the process dies by SIGKILL after so many. TensorFlow is not there.
"""

import support.without_tensorflow  # noqa: F401  # isort: skip

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np

import keras_ratchet as kr

EPOCHS, BATCHES = 5, 4


def model_of(units=4, rate=0.05):
    keras.utils.set_random_seed(3)
    layers = [keras.Input((4,)), keras.layers.Dense(units), keras.layers.Dropout(0.1)]
    model = keras.Sequential([*layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(rate), "mse")
    return model


def data_of():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(8 * BATCHES, 4)).astype("float32")
    y = x.sum(1, keepdims=True)
    return {"x": x, "y": y, "batch_size": 8, "validation_data": (x[:8], -y[:8])}


class Killer(keras.callbacks.Callback):
    """Dies after so many batches, of all the trainings of the process."""

    left = 0

    def on_train_batch_end(self, batch, logs=None):
        Killer.left -= 1
        if Killer.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def __deepcopy__(self, memo):
        return self


def digest(model):
    values = [keras.ops.convert_to_numpy(v).tobytes() for v in model.variables]
    return hashlib.sha256(b"".join(values)).hexdigest()


def tracked(directory):
    from keras_ratchet.integrations.huggingface import HubUploader
    from keras_ratchet.integrations.mlflow import MLflowTracker
    from keras_ratchet.integrations.tensorboard import TensorBoardDecisions
    from keras_ratchet.integrations.wandb import WandbTracker

    mlflow = MLflowTracker(
        "digits", "run-1", tracking_uri=f"sqlite:///{directory}/mlflow.db", upload="improved"
    )
    wandb = WandbTracker("digits", name="run-1", mode="offline", dir=str(directory))
    hub = HubUploader("me/digits", private=True)
    callbacks = [
        TensorBoardDecisions(directory / "logs"),
        mlflow,  # before those of which they hear
        wandb,
        hub,
        kr.ModelCheckpoint(directory / "best.keras", monitor="loss", save_best_only=True),
        kr.EarlyStopping(monitor="val_loss", mode="min", patience=3, restore_best_weights=True),
        kr.BackupAndRestore(directory / "backup", save_freq=3, delete_checkpoint=False),
        Killer(),
    ]
    model = model_of()
    history = model.fit(**data_of(), epochs=EPOCHS, callbacks=callbacks, verbose=0)
    out = {"history": history.history, "run_id": mlflow.run_id, "wandb": wandb.run_id}
    (directory / "out.json").write_text(json.dumps(out))


def study(directory):
    import optuna

    from keras_ratchet.integrations.optuna import (
        OptunaPruning,
        retry_interrupted,
        trial_directory,
    )

    class PruneBadRates(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.params["rate"] > 0.4 and trial.last_step == 1

    def objective(trial):
        rate = trial.suggest_categorical("rate", [0.05, 0.5, 0.01])
        place = trial_directory(directory, trial)
        pruning = OptunaPruning(trial, monitor="loss")
        backup = kr.BackupAndRestore(f"{place}/backup", save_freq=3, delete_checkpoint=False)
        best = kr.ModelCheckpoint(f"{place}/best.keras", monitor="loss", save_best_only=True)
        model = model_of(rate=rate)
        history = model.fit(
            **data_of(), epochs=EPOCHS, callbacks=[pruning, backup, best, Killer()], verbose=0
        )
        resumed = backup.resumed_from
        trial.set_user_attr("resumed", None if resumed is None else resumed.epoch)
        trial.set_user_attr("digest", digest(model))
        pruning.raise_if_pruned()
        return min(history.history["loss"])

    made = optuna.create_study(
        storage=f"sqlite:///{directory}/study.db",
        study_name="rates",
        load_if_exists=True,
        pruner=PruneBadRates(),
    )
    for rate in () if made.trials else (0.05, 0.5, 0.01):
        made.enqueue_trial({"rate": rate})
    retry_interrupted(made)
    while made.get_trials(states=[optuna.trial.TrialState.WAITING]):
        made.optimize(objective, n_trials=1)
    out = [
        {
            "state": trial.state.name,
            "value": trial.value,
            "rate": trial.params["rate"],
            "steps": trial.intermediate_values,
            **trial.user_attrs,
        }
        for trial in made.trials
    ]
    (directory / "out.json").write_text(json.dumps(out))


def studies(directory):
    import warnings

    import optuna

    from keras_ratchet.integrations.optuna import trial_directory

    said = []
    for name in ("first", "first", "second"):
        study = optuna.create_study(study_name=name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            place = trial_directory(directory / "trials", study.ask())
        study.tell(0, 1.0)
        assert trial_directory(directory / "trials", study.best_trial) == place
        said.append([str(warning.message) for warning in caught])
    (directory / "out.json").write_text(json.dumps(said))


def search(directory):
    import keras_tuner

    from keras_ratchet.integrations.keras_tuner import ResumableTrials, trial_directory

    class Search(ResumableTrials, keras_tuner.RandomSearch):
        pass

    def build(hp):
        return model_of(rate=hp.Choice("rate", [0.05, 0.01, 0.1]))

    tuner = Search(
        build,
        "val_loss",
        max_trials=2,
        executions_per_trial=2,
        seed=1,
        directory=directory,
        project_name="search",
        backup={"save_freq": 3},
    )
    callbacks = [kr.EarlyStopping(monitor="loss", patience=3), Killer()]
    tuner.search(**data_of(), epochs=3, callbacks=callbacks, verbose=0)
    trials = sorted(tuner.oracle.trials.values(), key=lambda trial: trial.trial_id)
    out = {
        "trials": [[t.trial_id, t.status, t.score, t.hyperparameters.values] for t in trials],
        "best": digest(tuner.get_best_models()[0]),
        "batches": -Killer.left,
        "left": sorted(os.listdir(trial_directory(tuner, trials[0]))),
    }
    (directory / "out.json").write_text(json.dumps(out))


def main(kind, directory, kill="0"):
    Killer.left = int(kill)
    globals()[kind](Path(directory))
    assert "tensorflow" not in sys.modules
    print("without TensorFlow, on", keras.backend.backend())


if __name__ == "__main__":
    main(*sys.argv[1:])
