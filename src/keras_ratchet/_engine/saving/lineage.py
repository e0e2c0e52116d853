"""Whether a run continues an earlier one that saved here, or is a new one."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_ratchet._engine.capture.best_weights import weights_of
from keras_ratchet._engine.saving.provenance import fingerprint, source_of
from keras_ratchet._formats.readers import Weight, open_weights
from keras_ratchet.errors import LoadError
from keras_ratchet.policy.retention import age
from keras_ratchet.types import CheckpointInfo, Model

_log = logging.getLogger("keras_ratchet")
_MAX_COMPARED = 10  # files; comparing one takes about 2 ms for each layer


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

    The first weight that is not in the file ends the comparison, so next to nothing is read of
    a file with other weights.
    """
    smallest_first = sorted(weights_of(model) or (), key=lambda v: math.prod(map(int, v.shape)))
    try:
        with open_weights(path) as weights:
            left = [weight for weight in weights if not weight.of_optimizer]
            return bool(smallest_first) and all(_remove_equal(left, v) for v in smallest_first)
    except (OSError, LoadError) as error:
        _log.info("%s cannot be compared with the model: %s", path, error)
        return False


def _remove_equal(left: list[Weight], variable: Any) -> bool:
    """Remove a weight that is equal to a variable from a list; return whether there is one."""
    value = np.asarray(keras.ops.convert_to_numpy(variable))
    same = (w for w in left if w.shape == value.shape and _are_equal(w.read(), value))
    found = next(same, None)
    if found is not None:
        left.remove(found)
    return found is not None


def _are_equal(one: Any, other: Any) -> bool:
    return bool(np.asarray(one).tobytes() == other.tobytes())
