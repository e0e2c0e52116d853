"""torch.distributed: who this process is, and its broadcast."""

from __future__ import annotations

import itertools
import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch.distributed as dist

WAITS_AT_EXIT = False
_FOR_EVER = timedelta(days=1)  # who waits has a limit of its own


def rank_and_size() -> tuple[int, int]:
    """Return the index of this process and how many there are; (0, 1) without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def group() -> object:
    """Return what stands for this group of processes: another object after a new start."""
    return dist.group.WORLD


def is_one_machine() -> bool:
    """Return whether it is certain that all ranks are on this machine."""
    from keras_ratchet._distributed.sockets import is_loopback  # noqa: PLC0415  one needs none

    sizes = [os.environ.get(name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    return sizes == [str(dist.get_world_size())] * 2 or is_loopback(
        os.environ.get("MASTER_ADDR", "")
    )


_calls = itertools.count(1)  # the same on all ranks, which all come here for each group


def share(own: bytes | None) -> bytes:
    """Return rank 0's bytes on all ranks, once all are here.

    They travel through the store by which the process group was made. In a collective, a rank that
    has no callback of ours would take part with one of its own.
    """
    store = _store()
    if store is None:
        return _broadcast(own)
    key = f"keras_ratchet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_calls)}"
    rank, size = rank_and_size()
    if own is not None:
        store.set(key, own)
        store.wait([f"{key}/{other}" for other in range(1, size)], _FOR_EVER)
        return own
    store.wait([key], _FOR_EVER)
    found: bytes = store.get(key)
    store.set(f"{key}/{rank}", b"here")
    return found


def _store() -> Any:
    """Return the store of the default group, or None where this version of torch hides it."""
    try:
        return dist.distributed_c10d._get_default_store()
    except (AttributeError, ValueError):
        return None


def _broadcast(own: bytes | None) -> bytes:
    box = [own]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    return box[0]


def alone() -> AbstractContextManager[None]:
    """Return a block in which this rank may work on the model alone."""
    return nullcontext()
