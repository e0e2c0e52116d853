"""Where a checkpoint comes from: what its manifest says of model, software and run.

A run continues an earlier one that saved in the same place, or is a new one.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import secrets
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import keras
import numpy as np
import xxhash

from keras_ratchet import _backends
from keras_ratchet._backends.slices import held_as
from keras_ratchet._engine.capture.best_weights import weights_of
from keras_ratchet._engine.capture.optimizers import all_variables
from keras_ratchet._formats import Holds
from keras_ratchet._formats.readers import Weight, missing_weights, open_weights
from keras_ratchet._keras.marks import are_same
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.errors import LoadError
from keras_ratchet.policy.retention import age
from keras_ratchet.types import CheckpointInfo, Model, Position

_T = TypeVar("_T")
# what was computed of models that live; nothing here keeps one alive
_known: weakref.WeakKeyDictionary[Any, dict[Any, tuple[list[Any], Any]]]
_known = weakref.WeakKeyDictionary()
_log = logging.getLogger("keras_ratchet")
_MAX_COMPARED = 10  # files; comparing one takes about 2 ms for each layer


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


def manifest_for(
    model: Model,
    position: Position,
    metrics: Mapping[str, float],
    reason: str,
    saved_at: float,
    **more: Any,
) -> Manifest:
    """Return the manifest of a checkpoint, without its files.

    Args:
        model: The model.
        position: How much training is done.
        metrics: The logs.
        reason: Why it is saved.
        saved_at: When, in seconds since 1970.
        **more: Further fields.
    """
    return Manifest(
        files={},
        position=position,
        metrics=dict(metrics),
        reason=reason,
        saved_at=saved_at,
        versions=versions(),
        fingerprint=fingerprint(model),
        **more,
    )


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
    return _of_variables(model, weights_of(model) or [], _fingerprint)


def _fingerprint(weights: list[Any]) -> str:
    described = [[v.name, list(v.shape), str(v.dtype)] for v in weights]
    return str(xxhash.xxh3_128(json.dumps(described).encode()).hexdigest())


def state_bytes(model: Model, holds: Holds = "weights") -> int:
    """Return the size of the weights and of the optimizers' variables built so far, in bytes.

    Args:
        model: The model.
        holds: "trainable" leaves out the weights that do not train.
    """
    weights = weights_of(model) or ()
    counted = [v for v in weights if v.trainable] if holds == "trainable" else weights
    return _of_variables(model, [*counted, *all_variables(model)], _sum_bytes, holds)


def _sum_bytes(variables: list[Any]) -> int:
    return sum(map(_bytes, variables))


def _of_variables(
    model: Model, variables: list[Any], compute: Callable[[list[Any]], _T], which: str = ""
) -> _T:
    """Return what follows from variables, which is computed again only if they are others."""
    try:
        known = _known.setdefault(model, {})
        held = [weakref.ref(variable) for variable in variables]
    except TypeError:  # objects of classes that are no keys, or cannot be referred to
        return compute(variables)
    key = compute, which
    if key not in known or not are_same([v() for v in known[key][0]], variables):
        known[key] = held, compute(variables)
    found: _T = known[key][1]
    return found


def _bytes(variable: Any) -> int:
    return math.prod(map(int, variable.shape)) * _width_bytes(str(variable.dtype))


@functools.cache
def _width_bytes(dtype: str) -> int:
    """Return the size of one value; one of an unknown dtype counts as one byte."""
    width = re.search(r"(8|16|32|64)", dtype)
    return int(width[0]) // 8 if width else 1


def run_of(callback_list: Any) -> str:
    """Return the name of a run; all callbacks of one list have the same one."""
    name = getattr(callback_list, "_keras_ratchet_run", None)
    if name is None:
        name = secrets.token_hex(8)
        if callback_list is not None:
            callback_list._keras_ratchet_run = name
    return str(name)


def earlier(
    model: Model, saved: Iterable[CheckpointInfo], initial_epoch: int, asked: bool
) -> CheckpointInfo | None:
    """Return a file of the run that this one continues, or None if it is a new one.

    It continues one if asked to, if its first epoch is not epoch 0, or if the model has the weights
    of a file that was saved here. A file of another architecture counts only if asked for.

    Args:
        model: The model, at the start of training.
        saved: The files that were saved under the same path or template.
        initial_epoch: Index of the first epoch.
        asked: Whether `fresh=False` was given.
    """
    newest_first = sorted(saved, key=age, reverse=True)
    if asked:
        return next(iter(newest_first), None)
    own = fingerprint(model) if weights_of(model) else ""
    fitting = [s for s in newest_first if "" in (own, s.fingerprint) or s.fingerprint == own]
    if initial_epoch:
        return next(iter(fitting), None)
    source = source_of(model)
    likely_first = sorted(fitting, key=lambda s: s.path != source)[:_MAX_COMPARED]
    return next((s for s in likely_first if has_weights_of(model, s.path)), None)


def has_weights_of(model: Model, path: str) -> bool:
    """Return whether a model's weights are those of a file, whatever their names.

    Of a file without what is frozen, only the weights that train are compared. The first weight
    that is not in the file ends the comparison, so next to nothing is read of a file with other
    weights.
    """
    smallest_first = sorted(weights_of(model) or (), key=lambda v: math.prod(map(int, v.shape)))
    try:
        if missing_weights(path) is not None:
            smallest_first = [v for v in smallest_first if v.trainable]
        with open_weights(path) as weights:
            left = [weight for weight in weights if not weight.of_optimizer]
            return bool(smallest_first) and all(_remove_equal(left, v) for v in smallest_first)
    except (OSError, LoadError) as error:
        _log.info("%s cannot be compared with the model: %s", path, error)
        return False


def _remove_equal(left: list[Weight], variable: Any) -> bool:
    """Remove a weight that is equal to a variable from a list; return whether there is one."""
    value = _backends.current().view(variable)
    shape = tuple(variable.shape)
    same = (w for w in left if w.shape == shape and _are_equal(held_as(w.read(), value), value))
    found = next(same, None)
    if found is not None:
        left.remove(found)
    return found is not None


def _are_equal(one: Any, other: Any) -> bool:
    return bool(np.asarray(one).tobytes() == other.tobytes())
