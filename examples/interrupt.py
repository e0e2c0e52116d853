"""Shared by the other examples: a child process that kills itself in the middle of an epoch."""

import hashlib
import os
import signal
import subprocess
import sys

import keras

import keras_ratchet


class KillAt(keras.callbacks.Callback):
    """Kills its own process with SIGKILL, which cannot be caught, after a batch of an epoch.

    Args:
        epoch: Index of the epoch.
        batch: Index of the batch.
    """

    def __init__(self, epoch, batch):
        super().__init__()
        self.at = (epoch, batch)
        self._epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        """Record the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Kill the process, if this is the batch."""
        if (self._epoch, batch) == self.at:
            print("\n" if sys.stdout.isatty() else "", end="")  # a line of progress may be open
            print(f"Killed by SIGKILL in epoch {self._epoch + 1}, after batch {batch + 1}.")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(script, *arguments):
    """Run a script in a child process that must be killed by SIGKILL."""
    child = subprocess.run([sys.executable, script, *arguments], check=False)
    if child.returncode != -signal.SIGKILL:
        raise SystemExit(
            f"The child should have been killed, but it exited with {child.returncode}."
        )


def resumes_in(backup):
    """Return where a run with this backup directory resumes, or None if it starts from scratch."""
    snapshots = keras_ratchet.checkpoints(backup) if backup.is_dir() else []
    if not snapshots:
        return None
    position = snapshots[-1].position
    return f"epoch {position.epoch + 1}, after batch {position.batch}"


def digest(model):
    """Return a digest of a model's weights."""
    whole = hashlib.sha256(b"".join(weights.tobytes() for weights in model.get_weights()))
    return whole.hexdigest()[:16]


def same_weights(one, other):
    """Return whether two models hold the same weights, bit for bit."""
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)
