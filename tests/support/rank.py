"""What scripts that `support.processes` starts call: become a rank, and end where it is told.

Import this before keras.
"""

import os
import signal
import sys


def join(distribution="data"):
    """Become a rank of the engine that KERAS_BACKEND names; return (rank, world size).

    Args:
        distribution: On jax, "data" for DataParallel with data that each rank has chosen itself;
            None to set none.
    """
    own, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return 0, 1
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch.distributed as dist

        dist.init_process_group("gloo")
        return dist.get_rank(), dist.get_world_size()
    import jax
    import keras

    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    keras.distribution.initialize(place, size, own)
    if distribution == "data":
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(parallel)
    return jax.process_index(), jax.process_count()


def part():
    """Leave the engine in order, when all ranks do: for a process without handlers at its exit."""
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()
    else:
        import jax

        jax.distributed.shutdown()


def kill_myself():
    """End as by the kernel's out-of-memory killer: without any clean-up."""
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
