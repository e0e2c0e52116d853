"""A backup that Keras's own BackupAndRestore wrote: weights, optimizer, and the epoch.

Its files are read, never changed or deleted. It holds no random streams, no states of callbacks
and no place within an epoch, so a run that resumes from it is exact from there on only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile

from keras_ratchet._engine.capture.model_state import Places
from keras_ratchet._engine.resume.train_state import capture_variables, restore_variables
from keras_ratchet._formats.safety import check_file
from keras_ratchet._warn import warn
from keras_ratchet.errors import CorruptError, LoadError, ResumeError
from keras_ratchet.policy._arguments import is_whole_number
from keras_ratchet.types import Model

_WEIGHTS = "latest.weights.h5"
_METADATA = "training_metadata.json"
_MAX_METADATA_BYTES = 1 << 20


def adopt(model: Model, directory: str) -> int:
    """Load the backup, if there is one; return the epoch to resume with.

    Args:
        model: The model, built, as is its optimizer.
        directory: Where the backup may be.

    Raises:
        CorruptError: If there is one, and neither it nor the copy beside it can be read.
        ResumeError: If it does not fit the model, which is unchanged then.
    """
    problems = []
    for suffix in ("", ".bkp"):
        weights = os.path.join(directory, _WEIGHTS + suffix)
        metadata = os.path.join(directory, _METADATA + suffix)
        if not (os.path.exists(weights) or os.path.exists(metadata)):
            continue
        try:
            epoch = _epoch(metadata)
            check_file(weights)
            _load(model, weights)
        except (LoadError, OSError, _Unreadable) as error:
            problems.append(str(error))
            continue
        _warn(weights, epoch, problems)
        return epoch
    if problems:
        raise CorruptError(
            f"The backup that Keras wrote in {directory!r} cannot be read. "
            f"{' '.join(problems)} To start from scratch, delete its files or use another "
            "directory.",
            see="keras-backup",
        )
    return 0


class _Unreadable(Exception):
    """What is wrong with the metadata."""


def _warn(path: str, epoch: int, problems: list[str]) -> None:
    damaged = f" ({' '.join(problems)})" if problems else ""
    warn(
        f"Resuming at epoch {epoch} from {path!r}, which Keras's BackupAndRestore wrote{damaged}: "
        f"it holds weights and optimizer, but neither random streams nor states of callbacks. "
        f"The file stays where it is; delete it when this run has ended."
    )


def _epoch(path: str) -> int:
    if not os.path.exists(path):
        return 0  # Keras was killed after it had written the weights of its first backup
    try:
        with open(path, encoding="utf-8") as file:
            epoch = json.loads(file.read(_MAX_METADATA_BYTES))["epoch"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _Unreadable(f"{path!r} cannot be read: {error!r}.") from error
    if not is_whole_number(epoch) or epoch < 0:
        raise _Unreadable(f"{path!r} says that epoch {epoch!r} is next.")
    return epoch


def _load(model: Model, path: str) -> None:
    named = Places().variables(model)
    before = capture_variables(named)
    try:
        with tempfile.TemporaryDirectory() as scratch:  # Keras goes by the name, .bkp is no good
            copy = shutil.copyfile(path, os.path.join(scratch, _WEIGHTS))
            model.load_weights(copy)
    except OSError:
        restore_variables(named, before)
        raise
    except Exception as error:
        restore_variables(named, before)
        raise ResumeError(
            f"The backup {path!r}, written by Keras, does not fit this model: {error} Nothing was "
            f"changed. Give this run a directory of its own, or delete that file.",
            see="keras-backup",
        ) from error
