"""Values as digests, so that two runs can be compared bit by bit without keeping them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import xxhash
from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._engine.capture import optimizers, rng
from keras_ratchet._engine.capture.model_state import Places, named_extras
from keras_ratchet._engine.resume.state_codec import fingerprint, owned
from keras_ratchet._keras import fit
from keras_ratchet.types import Model

_SHORT = 60  # characters of a value that are shown as they are
_OURS = "keras_ratchet."
_UNLIKE = ("run", "path", "attached_at")  # of our callbacks: a name made at random, a place, a time


def arrays_of(model: Model, places: Places) -> dict[str, NDArray[Any]]:
    """Return views of all variables by name; on jax `fit` gives the model its values first."""
    fit.synced(model)
    backend = _backends.current()
    named = places.variables(model) | named_extras(model)
    return {name: np.asarray(backend.view(variable)) for name, variable in named.items()}


def paths_of(model: Model, places: Places) -> dict[str, str]:
    """Return the paths that Keras gives to variables, by our names for them."""
    named = places.variables(model) | named_extras(model)
    return {n: str(getattr(v, "path", getattr(v, "name", n))) for n, v in named.items()}


def digest(array: NDArray[Any]) -> str:
    """Return a digest of an array's bytes."""
    if array.dtype.hasobject:
        return short(array.tolist())
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return str(xxhash.xxh3_64_hexdigest(flat.data))


def digests(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Return the digest of each array."""
    return {name: digest(array) for name, array in arrays.items()}


def streams() -> dict[str, str]:
    """Return digests of the global random streams."""
    return {name: fingerprint(state)[0] for name, state in rng.capture().items()}


def short(value: Any) -> str:
    """Return a value that people can read, or a digest of a long one."""
    text = repr(value)
    if len(text) <= _SHORT and " at 0x" not in text:
        return text
    return fingerprint(owned(value))[0] or type(value).__name__


def flat(states: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested state as `name.of.it: value`."""
    found: dict[str, str] = {}
    for key, value in states.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        else:
            found[name] = short(value)
    return found


def callbacks(states: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the states of callbacks, of ours without what differs in any two runs.

    Args:
        states: The state of each, by its class and number.
    """
    found: dict[str, str] = {}
    for key, state in states.items():
        left_out = _UNLIKE if key.startswith(_OURS) else ()
        kept = {name: value for name, value in state.items() if name not in left_out}
        found |= flat(kept, f"{key.rpartition('.')[2]}.")
    return found


def learning_rate(model: Any) -> float | None:
    """Return the present learning rate, if there is a Keras optimizer."""
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return None
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def torch_optimizers(model: Model) -> dict[str, str]:
    """Return the states of torch's own optimizers."""
    return flat({"torch": optimizers.torch_states(model)})
