"""What scripts that `support.processes` starts call: become a rank, and end where it is told.

Import this before keras.
"""

import os
import signal
import sys

WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))
RANK = int(os.environ.get("RANK", "0"))


def join(distribution="data"):
    """Become a rank of the engine that KERAS_BACKEND names; return (rank, world size).

    Args:
        distribution: On jax, "data" for DataParallel with data that each rank has chosen itself;
            None to set none.
    """
    if WORLD_SIZE == 1:
        return RANK, WORLD_SIZE
    if os.environ["KERAS_BACKEND"] == "torch":
        import torch.distributed as dist

        dist.init_process_group("gloo")
        return dist.get_rank(), dist.get_world_size()
    import jax
    import keras

    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    keras.distribution.initialize(place, WORLD_SIZE, RANK)
    if distribution == "data":
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(parallel)
    return jax.process_index(), jax.process_count()


def kill_myself():
    """End as by the kernel's out-of-memory killer: without any clean-up."""
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
