"""JAX: who this process is, and its broadcast."""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax
import numpy as np
from jax.experimental import multihost_utils

from keras_ratchet._keras.distribution import undistributed

WAITS_AT_EXIT = True
_BYTES = 4096


def rank_and_size() -> tuple[int, int]:
    """Return the index of this process and how many there are."""
    return jax.process_index(), jax.process_count()


def group() -> object:
    """Return what stands for this group of processes: JAX has one as long as it runs."""
    return None


def is_one_machine() -> bool:
    """Return whether it is certain that all ranks are on this machine: JAX does not tell."""
    return False


def share(own: bytes | None) -> bytes:
    """Return rank 0's bytes, at most 4,096, on all ranks."""
    padded = np.zeros(_BYTES, np.uint8)
    if own is not None:
        padded[: len(own)] = np.frombuffer(own, np.uint8)
    shared = multihost_utils.broadcast_one_to_all(padded)
    return np.asarray(shared).tobytes()  # what follows a pickle does not count


def alone() -> AbstractContextManager[None]:
    """Return a block in which this rank may work on the model alone."""
    return undistributed()


def is_connected() -> bool:
    """Return whether `jax.distributed.initialize` was called; it must come before all else."""
    ask = getattr(jax.distributed, "is_initialized", None)  # since JAX 0.4.36
    return ask is not None and bool(ask())
