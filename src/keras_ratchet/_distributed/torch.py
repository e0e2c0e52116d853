"""torch.distributed: who this process is, and its broadcast."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch.distributed as dist

from keras_ratchet._distributed.sockets import is_loopback

WAITS_AT_EXIT = False


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
    sizes = [os.environ.get(name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    return sizes == [str(dist.get_world_size())] * 2 or is_loopback(
        os.environ.get("MASTER_ADDR", "")
    )


def share(own: bytes | None) -> bytes:
    """Return rank 0's bytes on all ranks."""
    box = [own]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    return box[0]


def alone() -> AbstractContextManager[None]:
    """Return a block in which this rank may work on the model alone."""
    return nullcontext()
