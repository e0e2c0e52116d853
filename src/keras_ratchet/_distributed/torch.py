"""torch.distributed: who this process is, and its broadcast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch.distributed as dist


def rank_and_size() -> tuple[int, int]:
    """Return the index of this process and how many there are; (0, 1) without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def share(own: bytes | None) -> bytes:
    """Return rank 0's bytes on all ranks."""
    box = [own]
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    return box[0]


def alone() -> AbstractContextManager[None]:
    """Return a block in which this rank may work on the model alone."""
    return nullcontext()
