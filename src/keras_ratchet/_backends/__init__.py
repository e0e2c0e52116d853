"""FRAMEWORKS: what differs between torch, tensorflow and jax, one small module each."""

from __future__ import annotations

import importlib
from typing import cast

from keras_ratchet._backends.base import Backend


def current() -> Backend:
    """Return the module of the backend that Keras runs on; no other one is imported."""
    import keras

    name = f"{__name__}.{keras.backend.backend()}"
    return cast(Backend, importlib.import_module(name))
