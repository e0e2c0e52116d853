"""Training that never loses ground: Keras 3 callbacks for stopping, best weights and saving.

| name | what it is |
|---|---|
| `EarlyStopping` | drop-in for Keras's: stop on a metric, end with the best weights |
| `ModelCheckpoint` | drop-in for Keras's: files that cannot be torn |
| `MonitorCallback` | base of both, for callbacks of your own that watch a metric |
| `guard` | the callbacks' last work is done after an exception too |
| `StopReason` | why training stopped |
| `errors` | every exception raised on purpose |

Importing the package is free: Keras is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_ratchet import errors
    from keras_ratchet.callbacks.early_stopping import EarlyStopping
    from keras_ratchet.callbacks.guard import guard
    from keras_ratchet.callbacks.model_checkpoint import ModelCheckpoint
    from keras_ratchet.callbacks.monitor_callback import MonitorCallback
    from keras_ratchet.types import StopReason

__version__ = "0.1.0"

__all__ = [
    "EarlyStopping",
    "ModelCheckpoint",
    "MonitorCallback",
    "StopReason",
    "errors",
    "guard",
]

_HOME = {
    "EarlyStopping": "keras_ratchet.callbacks.early_stopping",
    "ModelCheckpoint": "keras_ratchet.callbacks.model_checkpoint",
    "MonitorCallback": "keras_ratchet.callbacks.monitor_callback",
    "StopReason": "keras_ratchet.types",
    "guard": "keras_ratchet.callbacks.guard",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("keras_ratchet.errors")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
