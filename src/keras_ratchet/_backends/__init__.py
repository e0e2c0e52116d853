"""FRAMEWORKS: what differs between torch, tensorflow and jax, in a small module each."""

from __future__ import annotations

import importlib
import sys
from typing import Any, cast

from keras_ratchet._backends.base import Backend


def current() -> Backend:
    """Return the module of the backend that Keras runs on; no other one is imported."""
    import keras

    name = f"{__name__}.{keras.backend.backend()}"
    return cast(Backend, importlib.import_module(name))


def torch_loading() -> Any:
    """Return the helpers for torch's data loading if torch is in use, on whatever backend."""
    if "torch" not in sys.modules:
        return None
    return importlib.import_module(f"{__name__}.torch_data")


def tensorflow_loading() -> Any:
    """Return the helpers for `tf.data` if TensorFlow is in use, on whatever backend."""
    if not hasattr(sys.modules.get("tensorflow"), "data"):
        return None
    return importlib.import_module(f"{__name__}.tensorflow_data")


def torch_plain(state: Any) -> Any:
    """Return the state of a torch object with its tensors, if it has any, as arrays."""
    torch = torch_loading()
    return state if torch is None or state is None else torch.plain(state)


def torch_tensors(state: Any) -> Any:
    """Return what `torch_plain` was given."""
    torch = torch_loading()
    return state if torch is None or state is None else torch.tensors(state)
