"""A training in several processes to which something happens: `python rank_faults.py FAULT DIR`."""

import errno
import os
import sys
import time
import warnings

from support import rank

FAULTS = (
    "disk full",  # rank 0's, from the second epoch on
    "disk full, warn",  # likewise, for ModelCheckpoint(on_save_error="warn") alone
    "raise",  # an exception on rank 1 in mid-epoch
    "short",  # fewer batches on rank 1
    "short, unknown",  # likewise, where the loop's data does not tell how many it has
    "apart",  # a directory of each rank's own
    "sigterm",  # to rank 1 in mid-epoch
    "wait",  # both wait there until there is a file "go"
    "",  # nothing
)


def main(fault, where):
    own, _ = rank.join()
    import keras
    from support import rank_training

    from keras_ratchet._distributed import channel, step
    from keras_ratchet._storage import disk

    class Full(disk.Disk):
        """A disk that is full; if that is only warned of, for the files of ModelCheckpoint."""

        def write(self, fd, data):
            path = os.readlink(f"/proc/self/fd/{fd}")
            if fault == "disk full" or "backup" not in path:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(fd, data)

    class Strikes(rank_training.Reports):
        """What happens, at the third batch of the second epoch."""

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            if (self._now, batch) != (1, 2):
                return
            print("struck", flush=True)
            if fault.startswith("disk full") and own == 0:
                disk.current = Full()
            while fault == "wait" and not os.path.exists("go"):
                time.sleep(0.02)
            if fault == "raise" and own == 1:
                raise ValueError("boom")
            if fault == "sigterm" and own == 1:
                os.kill(os.getpid(), 15)

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            print(f"epoch {epoch + 1} has ended", flush=True)

    if fault == "sigterm":
        rank_training.MORE |= {"signals": "SIGTERM", "exit_code": 77}
    if fault == "disk full, warn":
        rank_training.BEST |= {"on_save_error": "warn"}
    if fault == "short, unknown":
        channel.NOTICE_S, step.PATIENCE_S = 2.0, 5.0
        rank_training.LENGTH_IS_KNOWN = False
    if fault.startswith("short"):
        rank_training.ROWS[1] = rank_training.BATCH * (rank_training.PER_EPOCH - 2)
    where = os.path.join(where, str(own)) if fault == "apart" else where
    os.makedirs(where, exist_ok=True)
    os.chdir(where)
    warnings.simplefilter("default")
    by_hand = keras.backend.backend() == "torch" and keras.__version__ < "3.16"
    train = rank_training.loop if by_hand else rank_training.fit
    found = train(own, 4, Strikes(lambda text: None))
    print("ended with", found["early stopping"], found["weights"], flush=True)
    rank.part()


if __name__ == "__main__":
    main(*sys.argv[1:])
