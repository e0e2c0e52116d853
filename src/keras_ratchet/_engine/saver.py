"""Saves a model into one file that cannot be torn."""

from __future__ import annotations

import errno
import os
from typing import Any

from keras_ratchet import _compat_saving
from keras_ratchet._engine.facts import state_bytes
from keras_ratchet._engine.holding import Holder
from keras_ratchet._formats import format_of
from keras_ratchet._formats.base import Format
from keras_ratchet._storage import durable, files, space
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.errors import ConfigError, SaveError


def check_target(path: str, fixed: bool) -> None:
    """Raise now what a save to `path` would raise later.

    Args:
        path: The file, or (if not `fixed`) the part of a template before its first placeholder.
        fixed: Whether `path` is the whole name of the file.

    Raises:
        SaveError: If the directory cannot be made or written, or the path is a directory.
    """
    directory = os.path.abspath(os.path.dirname(path))
    try:
        durable.make_directories(directory)
        durable.probe(directory)
    except OSError as error:
        raise SaveError(
            error.errno, f"cannot write checkpoints to {directory!r}: {error.strerror}"
        ) from error
    if fixed and os.path.isdir(path):
        raise SaveError(
            errno.EISDIR,
            "Please specify a non-directory filepath for ModelCheckpoint. "
            f"Filepath used is an existing directory: {path}",
        )


def save_model(model: Any, path: str, facts: Manifest, whole: bool = False) -> Manifest:
    """Save a model, or its weights, in the format that the suffix of `path` names.

    Whatever happens meanwhile, `path` is the whole older file or the whole new one.

    Args:
        model: A built Keras model.
        path: The file; directories above it are made.
        facts: The manifest but for its files.
        whole: Whether a `.weights.h5` file, too, is to hold the whole model.

    Returns:
        The manifest.

    Raises:
        OSError: If the disk refuses; the older file is untouched.
    """
    form = format_of(path, whole)
    if form is None:
        raise ConfigError(f"filepath must end in .keras, .weights.h5 or .h5. Got: {path!r}.")
    directory = os.path.abspath(os.path.dirname(path))
    durable.make_directories(directory)
    space.require(directory, state_bytes(model))
    return files.save_file(path, lambda draft: _fill(draft, model, form), facts)


def _fill(draft: durable.FileDraft, model: Any, form: Format) -> None:
    method = "save_weights" if form.suffix == ".weights.h5" else "save"
    if _compat_saving.has_own_saving(model, method):  # the model's class knows better than we do
        getattr(model, method)(draft.path)
        draft.sync()
        return
    frozen = form.freeze(model, Holder(lasting=False).hold)
    draft.write(lambda file: form.write(frozen, file))


def save_error(error: OSError, path: str) -> SaveError:
    """Return the error that tells a user what a failed save means."""
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        what = f"{what}. Free some space, or keep fewer checkpoints"
    return SaveError(
        error.errno, f"could not save {path!r}: {what}. Files saved earlier are untouched."
    )
