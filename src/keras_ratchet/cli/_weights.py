"""The weights of a checkpoint, for the commands that look inside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from keras_ratchet._formats.readers import Weight, missing_weights, open_weights, read_config
from keras_ratchet._numbers import count
from keras_ratchet._storage import anywhere
from keras_ratchet._storage.verify import verify
from keras_ratchet.cli import _output, _select
from keras_ratchet.errors import CorruptError, LoadError


def file_of(path: str) -> str:
    """Return the local Keras file of a checkpoint; one on a store is fetched.

    Raises:
        LoadError: If it is a snapshot.
    """
    snapshot = _select.one(path)
    if snapshot.is_directory:
        raise LoadError(
            f"{path!r} is a snapshot for resuming a run, not a Keras file: `ratchet show` and "
            "`ratchet verify` read it.",
            see="not-a-model",
        )
    return anywhere.local_copy(snapshot.path)


def config_of(file: str) -> dict[str, Any] | None:
    """Return the config of the model in a file, or None if it holds weights only."""
    return read_config(file)


@contextlib.contextmanager
def opened(file: str, path: str, optimizer: bool) -> Iterator[list[Weight]]:
    """Verify a checkpoint and yield its weights.

    Args:
        file: Its local file.
        path: What the user calls it.
        optimizer: Whether the optimizer's variables are wanted too.

    Raises:
        CorruptError: If its bytes are not those that were saved.
        LoadError: If it holds no weights of a Keras model, or is not safe to read.
    """
    outcome = verify(file)
    if outcome.status == "corrupt":
        raise CorruptError(f"{path!r} is corrupt: {outcome.problem}.")
    if outcome.status == "unverified":
        _output.say(f"{path} has no manifest, so it is read unverified.", err=True)
    if missing := missing_weights(file):
        left_out = count(len(missing), "weight")
        _output.say(f"{path} has only what trained: {left_out} less than the model.", err=True)
    with open_weights(file) as weights:
        yield [weight for weight in weights if optimizer or not weight.of_optimizer]
