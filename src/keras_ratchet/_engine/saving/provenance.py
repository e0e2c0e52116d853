"""What a manifest says about the model and the program that saved it."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import os
import platform
import re
import time
from collections.abc import Iterable
from typing import Any

import keras
import xxhash

from keras_ratchet._engine.capture.best_weights import weights_of
from keras_ratchet._engine.capture.optimizers import all_variables


def versions() -> dict[str, str]:
    """Return the versions that a checkpoint was written with."""
    backend = keras.backend.backend()
    return {
        "keras": keras.__version__,
        "backend": backend,
        backend: _version(backend),
        "python": platform.python_version(),
        "keras_ratchet": _version("keras-ratchet"),
    }


@functools.cache
def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def save_time(earlier: Iterable[float]) -> float:
    """Return the time now, in seconds; just after the earlier saves if the clock was set back.

    The newest checkpoint is the one with the latest time.
    """
    return max(time.time(), math.nextafter(max(earlier, default=0.0), math.inf))


def note_source(model: Any, path: str) -> None:
    """Note, on the model itself, the file that its weights were loaded from."""
    model._keras_ratchet_source = os.path.realpath(path)


def source_of(model: Any) -> str | None:
    """Return the path of the file that `load_model` or `load_weights` loaded, if they did."""
    return getattr(model, "_keras_ratchet_source", None)


def fingerprint(model: Any) -> str:
    """Return a digest of the model's weight names, shapes and dtypes, in their order."""
    facts = [[v.name, list(v.shape), str(v.dtype)] for v in weights_of(model) or ()]
    return str(xxhash.xxh3_128(json.dumps(facts).encode()).hexdigest())


def state_bytes(model: Any, weights_only: bool = False) -> int:
    """Return the size of the weights and of the optimizers' variables built so far, in bytes."""
    variables = list(weights_of(model) or ())
    if not weights_only:
        variables += all_variables(model)
    return sum(_bytes(v) for v in variables)


def _bytes(variable: Any) -> int:
    return math.prod(map(int, variable.shape)) * _width_bytes(str(variable.dtype))


@functools.cache
def _width_bytes(dtype: str) -> int:
    """Return the size of one value; what NumPy has no dtype for counts as one byte."""
    width = re.search(r"(8|16|32|64)", dtype)
    return int(width[0]) // 8 if width else 1
