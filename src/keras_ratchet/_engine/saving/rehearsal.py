"""Checks at the start of a run, so that what would fail at the first save fails at once."""

from __future__ import annotations

import errno
import logging
import os
from typing import Any

from numpy.typing import NDArray

from keras_ratchet._engine.capture import rng
from keras_ratchet._engine.capture.best_weights import weights_of
from keras_ratchet._formats.base import Format
from keras_ratchet._formats.trainable_h5 import TrainableH5
from keras_ratchet._keras import rebuilding, saving
from keras_ratchet._storage import atomic, disk, single_file
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError, SaveError
from keras_ratchet.types import Model

_log = logging.getLogger("keras_ratchet")


def check_target(path: str, fixed: bool) -> None:
    """Raise now what a save to `path` would raise later.

    Args:
        path: The file, or (if not `fixed`) the part of a template before its first placeholder.
        fixed: Whether `path` is the whole name of the file.

    Raises:
        SaveError: If the directory cannot be made or written, or the path is a directory.
        ConfigError: If the name is longer than the file system allows.
    """
    directory = os.path.abspath(os.path.dirname(path))
    try:
        disk.make_directories(directory)
        atomic.probe(directory)
    except OSError as error:
        raise SaveError(
            error.errno, f"cannot write checkpoints to {directory!r}: {error.strerror}"
        ) from error
    limit = atomic.name_limit(directory) - single_file.LONGEST_ADDITION
    if fixed and len(os.fsencode(os.path.basename(path))) > limit:
        raise ConfigError(
            f"The file name in filepath is too long: {limit} bytes are allowed in "
            f"{directory!r}, where the manifest's name is {single_file.LONGEST_ADDITION} bytes "
            f"longer. Got: {path!r}.",
            see="filepath",
        )
    if fixed and os.path.isdir(path):
        raise SaveError(
            errno.EISDIR,
            "Please specify a non-directory filepath for ModelCheckpoint. "
            f"Filepath used is an existing directory: {path}",
            see="filepath",
        )


class _NoValues:
    """Stands for the values."""

    image = None

    def arrays(self) -> list[NDArray[Any]]:
        """Return nothing."""
        return []


def rehearse(model: Model, path: str, file_format: Format) -> None:
    """Freeze a model without its values, and warn if it could not be loaded again.

    This takes about a millisecond for each layer. Variables are not read and nothing is written. A
    model without variables yet (on TensorFlow, before its first batch) is not checked.

    Args:
        model: The model, at the start of the run.
        path: The file, or its template.
        file_format: The format of the file.

    Raises:
        ConfigError: If it can never be saved in this format.
    """
    known = getattr(model, "built", False) and bool(weights_of(model))
    saves_itself = saving.has_own_saving(model, file_format.save_method)
    if saves_itself and isinstance(file_format, TrainableH5):
        raise ConfigError(
            f"{type(model).__name__} has its own save_weights, which saves what is frozen, too. "
            "Remove that method, or trainable_only=True.",
            see="trainable-only",
        )
    if not known or saves_itself:
        return
    try:
        file_format.freeze(model, lambda *_: _NoValues())
    except ConfigError:
        raise
    except NotImplementedError as error:
        raise ConfigError(
            f"{path!r} cannot be saved: {_first_line(error)} Or save weights only: a path that "
            f"ends in '.weights.h5', with save_weights_only=True.",
            see="not-savable",
        ) from error
    except Exception as error:
        warn(
            f"{path!r} cannot be saved yet: {type(error).__name__}: {_first_line(error)} If "
            "this is still so at the first save, training ends there."
        )
        return
    if file_format.save_method == "save":
        _check_rebuilding(model, path)


def _check_rebuilding(model: Model, path: str) -> None:
    """Warn of layers that cannot be made again when the file is loaded."""
    name = os.path.basename(path)
    if code := rebuilding.layers_that_run_code(model):
        kinds = " and ".join(code)
        _log.warning("%s contains %s: load it with load_model(..., safe_mode=False)", name, kinds)
    layers = rebuilding.own_layers(model)
    if not layers:
        return
    streams = rng.capture()
    try:
        for layer in layers:
            problem = rebuilding.complaint(layer, [type(each) for each in layers])
            if problem is not None:
                kind = type(layer).__name__
                warn(
                    f"{name!r} can be saved but not loaded: a {kind} cannot be created from "
                    f"its config ({problem}). Its __init__ should pass **kwargs to "
                    "super().__init__, and its get_config should return its arguments; or save "
                    "weights only."
                )
    finally:
        rng.restore(streams)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4])
