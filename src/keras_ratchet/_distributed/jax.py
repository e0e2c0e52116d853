"""JAX: who this process is, and its broadcast."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np

from keras_ratchet._keras.distribution import undistributed

WAITS_AT_EXIT = True
_BYTES = 4096
_FOR_EVER_MS = 24 * 3600 * 1000  # who waits has a limit of its own


def rank_and_size() -> tuple[int, int]:
    """Return the index of this process and how many there are."""
    return jax.process_index(), jax.process_count()


def group() -> object:
    """Return what stands for this group of processes: JAX has one as long as it runs."""
    return None


def is_one_machine() -> bool:
    """Return whether it is certain that all ranks are on this machine."""
    from keras_ratchet._distributed.sockets import is_loopback  # noqa: PLC0415  one needs none

    address = getattr(_state(), "coordinator_address", None) or ""
    return is_loopback(address.rpartition(":")[0])


_calls = itertools.count(1)  # the same on all ranks, which all come here for each group


def share(own: bytes | None) -> bytes:
    """Return rank 0's bytes on all ranks, once all are here.

    They travel through JAX's coordination service. In a collective, a rank that has no callback of
    ours would take part with one of its own.
    """
    client = getattr(_state(), "client", None)
    if client is None:
        return _broadcast(own)
    key = f"keras_ratchet/{next(_calls)}"
    rank, size = rank_and_size()
    if own is not None:
        client.key_value_set(key, own.hex())
        for other in range(1, size):
            client.blocking_key_value_get(f"{key}/{other}", _FOR_EVER_MS)
        return own
    found = bytes.fromhex(client.blocking_key_value_get(key, _FOR_EVER_MS))
    client.key_value_set(f"{key}/{rank}", "here")
    return found


def _state() -> Any:
    """Return what JAX knows of the other processes, or None where this version hides it."""
    try:
        from jax._src.distributed import global_state  # noqa: PLC0415  it may not be there
    except ImportError:
        return None
    return global_state


def _broadcast(own: bytes | None) -> bytes:
    """Do the same for at most 4,096 bytes, with a collective."""
    from jax.experimental import multihost_utils  # noqa: PLC0415  one process needs none

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
