"""The state of a model that is no Keras variable of its own: kept and restored with the others.

Buffers and parameters of torch modules, a `tf.Variable`, each replica's statistics under a
strategy, states of stateful RNNs, seeds of metrics and losses: whatever `reach` finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._engine.capture.reach import Reach, reach
from keras_ratchet._keras.anatomy import layers_of

EXTRA = "extra/"


def named_extras(model: Any, found: Reach | None = None) -> dict[str, Any]:
    """Return all of it, each with a name that is the same in the next run of the script.

    Args:
        model: The model.
        found: What is reachable in it, if that is known.
    """
    extras = (reach(model) if found is None else found).extras
    return {f"{EXTRA}{extra.key}": extra.variable for extra in extras}


def weights_beyond(model: Any) -> list[Any]:
    """Return what the model computes with beside its weights."""
    return [extra.variable for extra in reach(model).extras if extra.is_weight]


def streams_beyond(model: Any) -> list[Any]:
    """Return states of random generators that are none of the model's variables."""
    return [extra.variable for extra in reach(model).extras if not extra.is_weight]


def restore_extras(model: Any, saved: Mapping[str, NDArray[Any]]) -> None:
    """Restore what was saved and is there, and what follows from variables that were restored."""
    backend = _backends.current()
    for name, variable in named_extras(model).items():
        if name in saved:
            dtype = backend.view(variable).dtype
            backend.assign(variable, saved[name].astype(dtype, copy=False))
    finalize(model)


def missing_extras(model: Any, saved: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return a sentence if something was saved and has no place now, else nothing."""
    here = named_extras(model)
    gone = sorted(name for name in saved if name.startswith(EXTRA) and name not in here)
    if not gone:
        return []
    names = ", ".join(name.removeprefix(EXTRA) for name in gone)
    return [f"state beside the model's variables that was saved has no place now: {names}"]


def finalize(model: Any) -> None:
    """Let layers derive anew what they compute from variables that were set (Normalization)."""
    for layer in layers_of(model):
        if layer.built and layer.variables and hasattr(layer, "finalize_state"):
            layer.finalize_state()
