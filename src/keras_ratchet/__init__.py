r"""Training that never loses ground: Keras 3 callbacks for stopping, best weights and saving.

| name | what it is |
|---|---|
| `EarlyStopping` | drop-in for Keras's: stop on a metric, end with the best weights |
| `BackupAndRestore` | drop-in for Keras's: an interrupted run resumes bit for bit |
| `ModelCheckpoint` | drop-in for Keras's: files that cannot be torn |
| `Rollback` | a run that diverges is rolled back to its last good state and continues |
| `ReduceLROnPlateau`, `TerminateOnNaN` | drop-ins for Keras's that NaN cannot poison |
| `load_model`, `load_weights` | load the best or the latest checkpoint, verified first |
| `soup`, `mean` | averages of saved weights that are better than the best of them |
| `refit` | train again on all the data, for the best number of epochs |
| `checkpoints`, `verify` | what a directory holds; whether its bytes are what was saved |
| `follow` | the checkpoints of a run as they are committed, for an evaluator in another process |
| `KeepBest`, `KeepLast`, `KeepEvery`, `KeepNewer` | which files stay; combined with `\|` |
| `policy` | when to stop: `Patience(10) \| Reaches(0.99) \| AfterSeconds(3600)` and more |
| `plots` | pictures of a run |
| `MonitorCallback` | base class for callbacks of your own that watch a metric |
| `Run` | the callbacks and exact resume for a training loop written by hand |
| `data` | datasets for which resume is exact: `ResumableDataset`, `resumable` |
| `Coordinator` | how the processes of one training agree, for an engine of your own |
| `guard` | runs the callbacks' cleanup after an exception, too |
| `StopReason`, `CheckpointInfo` | why training stopped; what is known about a checkpoint |
| `AverageRecord` | which average of weights a model ended with, and why |
| `errors` | every exception raised on purpose |

Importing the package is free: Keras is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_ratchet import data, errors, plots, policy
    from keras_ratchet._distributed import Coordinator
    from keras_ratchet._storage.anywhere import checkpoints, verify
    from keras_ratchet.averaging import mean, soup
    from keras_ratchet.callbacks.backup_and_restore import BackupAndRestore
    from keras_ratchet.callbacks.early_stopping import EarlyStopping
    from keras_ratchet.callbacks.guard import guard
    from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint
    from keras_ratchet.callbacks.monitor_callback import MonitorCallback
    from keras_ratchet.callbacks.reduce_lr_on_plateau import ReduceLROnPlateau
    from keras_ratchet.callbacks.rollback import Rollback
    from keras_ratchet.callbacks.terminate_on_nan import TerminateOnNaN
    from keras_ratchet.following import follow
    from keras_ratchet.loading import load_model, load_weights
    from keras_ratchet.policy.retention import KeepBest, KeepEvery, KeepLast, KeepNewer
    from keras_ratchet.refitting import refit
    from keras_ratchet.run import Run
    from keras_ratchet.types import AverageRecord, CheckpointInfo, StopReason

    __version__: str

__all__ = [
    "BackupAndRestore",
    "EarlyStopping",
    "ModelCheckpoint",
    "MonitorCallback",
    "ReduceLROnPlateau",
    "Rollback",
    "TerminateOnNaN",
    "Run",
    "Coordinator",
    "guard",
    "load_model",
    "load_weights",
    "soup",
    "mean",
    "refit",
    "checkpoints",
    "verify",
    "follow",
    "KeepBest",
    "KeepLast",
    "KeepEvery",
    "KeepNewer",
    "StopReason",
    "CheckpointInfo",
    "AverageRecord",
    "data",
    "errors",
    "plots",
    "policy",
]

_HOME = {
    "BackupAndRestore": "keras_ratchet.callbacks.backup_and_restore",
    "EarlyStopping": "keras_ratchet.callbacks.early_stopping",
    "ModelCheckpoint": "keras_ratchet.callbacks.model_checkpoint",
    "MonitorCallback": "keras_ratchet.callbacks.monitor_callback",
    "ReduceLROnPlateau": "keras_ratchet.callbacks.reduce_lr_on_plateau",
    "Rollback": "keras_ratchet.callbacks.rollback",
    "TerminateOnNaN": "keras_ratchet.callbacks.terminate_on_nan",
    "Run": "keras_ratchet.run",
    "Coordinator": "keras_ratchet._distributed",
    "guard": "keras_ratchet.callbacks.guard",
    "load_model": "keras_ratchet.loading",
    "load_weights": "keras_ratchet.loading",
    "soup": "keras_ratchet.averaging",
    "mean": "keras_ratchet.averaging",
    "refit": "keras_ratchet.refitting",
    "checkpoints": "keras_ratchet._storage.anywhere",
    "verify": "keras_ratchet._storage.anywhere",
    "follow": "keras_ratchet.following",
    "KeepBest": "keras_ratchet.policy.retention",
    "KeepLast": "keras_ratchet.policy.retention",
    "KeepEvery": "keras_ratchet.policy.retention",
    "KeepNewer": "keras_ratchet.policy.retention",
    "StopReason": "keras_ratchet.types",
    "CheckpointInfo": "keras_ratchet.types",
    "AverageRecord": "keras_ratchet.types",
}


def __getattr__(name: str) -> Any:
    if name in ("data", "errors", "plots", "policy"):
        return importlib.import_module(f"keras_ratchet.{name}")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("keras-ratchet")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
