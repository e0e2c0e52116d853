"""Provenance: what a manifest says about the model and the software that saved it."""

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
from keras_ratchet.types import Model


def versions() -> dict[str, str]:
    """Return the versions of the software that writes a checkpoint."""
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
    """Return the time now, in seconds, or a time just after earlier saves if the clock went back.

    The newest checkpoint is the one with the latest time.
    """
    return max(time.time(), math.nextafter(max(earlier, default=0.0), math.inf))


def note_source(model: Any, path: str) -> None:
    """Remember, on the model itself, the file that its weights were loaded from."""
    model._keras_ratchet_source = os.path.realpath(path)


def source_of(model: Model) -> str | None:
    """Return the path of the file that `load_model` or `load_weights` loaded, or None."""
    return getattr(model, "_keras_ratchet_source", None)


def fingerprint(model: Model) -> str:
    """Return a digest of the model's weight names, shapes and dtypes, in their order."""
    weights = [[v.name, list(v.shape), str(v.dtype)] for v in weights_of(model) or ()]
    return str(xxhash.xxh3_128(json.dumps(weights).encode()).hexdigest())


def state_bytes(model: Model) -> int:
    """Return the size of the weights and of the optimizers' variables built so far, in bytes."""
    return sum(_bytes(v) for v in (*(weights_of(model) or ()), *all_variables(model)))


def _bytes(variable: Any) -> int:
    return math.prod(map(int, variable.shape)) * _width_bytes(str(variable.dtype))


@functools.cache
def _width_bytes(dtype: str) -> int:
    """Return the size of one value; one of an unknown dtype counts as one byte."""
    width = re.search(r"(8|16|32|64)", dtype)
    return int(width[0]) // 8 if width else 1
