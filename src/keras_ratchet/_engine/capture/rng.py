"""The host's random number streams: captured and restored."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from keras_ratchet import _backends
from keras_ratchet._keras.seeds import global_seed_state

OF_DATA = ("python", "numpy", "torch_data")  # those that data may draw from


def capture() -> dict[str, Any]:
    """Return the state of Python's, NumPy's, Keras's and the backend's global generators."""
    backend = _backends.current()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "backend": backend.rng_state(),
    }
    if torch := _backends.torch_loading():  # a DataLoader draws from it on any backend
        state["torch_data"] = torch.rng_state()
    seeds = global_seed_state()
    if seeds is not None:
        state["keras"] = np.array(backend.view(seeds))
    return state


def restore(state: dict[str, Any]) -> None:
    """Restore the streams; what the state does not have is left as it is."""
    backend = _backends.current()
    if "python" in state:
        random.setstate(state["python"])
    if "numpy" in state:
        np.random.set_state(state["numpy"])
    torch = _backends.torch_loading()
    if torch is not None and "torch_data" in state:
        torch.set_rng_state(np.array(state["torch_data"]))
    backend.set_rng_state(state["backend"])
    if "keras" in state:
        seeds = global_seed_state(create=True)
        backend.assign(seeds, np.asarray(state["keras"]).astype(backend.view(seeds).dtype))
