"""A model into one file: frozen at one moment, written then or later, whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from keras_ratchet import _backends
from keras_ratchet._engine.capture.best_weights import weights_of
from keras_ratchet._engine.capture.finite import FiniteWatch, path_of
from keras_ratchet._engine.capture.model_state import weights_beyond
from keras_ratchet._engine.capture.optimizers import optimizers_of
from keras_ratchet._engine.capture.variable_buffers import Values
from keras_ratchet._formats.base import Format
from keras_ratchet._formats.image import Places
from keras_ratchet._keras import saving
from keras_ratchet._storage import disk, single_file, space
from keras_ratchet._storage.atomic import AtomicFile
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.errors import ConfigError, SaveError
from keras_ratchet.types import Model


class Capture(Protocol):
    """Captures the values of variables, as a format asks for them."""

    def __call__(self, sources: Sequence[Any], places: Places | None = None) -> Values: ...


class FrozenModel(Protocol):
    """A model at the moment of a save."""

    @property
    def blocks(self) -> bool:
        """Whether it has to be written before training continues."""

    def bad_weight(self) -> str | None:
        """Return the path of the first weight that holds NaN or infinity, or None."""

    def write(self, draft: AtomicFile) -> None:
        """Write and sync the draft."""


def freeze_model(
    model: Model, file_format: Format, capture: Capture, watch: FiniteWatch
) -> FrozenModel:
    """Return what a file needs of a model.

    Args:
        model: A built Keras model.
        file_format: The format of the file.
        capture: Captures the values of variables.
        watch: Knows which weights are not finite on purpose.
    """
    if saving.has_own_saving(model, file_format.save_method):
        return _OwnSave(model, file_format.save_method, watch)
    captured: list[Values] = []

    def capture_once(sources: Sequence[Any], places: Places | None = None) -> Values:
        captured.append(capture(sources, places))
        return captured[0]

    frozen = file_format.freeze(model, capture_once)
    beyond = watch.reach.weights_of(model)
    watched = frozenset(map(id, (*(weights_of(model) or ()), *beyond)))
    return _Frozen(file_format, frozen, captured[0], watch, watched, watch.find_bad_of(beyond))


def whole_variables(model: Model, file_format: Format) -> list[Any]:
    """Return the variables whose whole values a file may need.

    Raises:
        ConfigError: If some are split over processes, and the model saves itself.
    """
    found = [*(weights_of(model) or ()), *getattr(model, "variables", ()), *weights_beyond(model)]
    for optimizer in optimizers_of(model).values():
        found += optimizer.variables
    found = list({id(variable): variable for variable in found}.values())
    split = [variable for variable in found if _backends.current().is_split(variable)]
    if split and saving.has_own_saving(model, file_format.save_method):
        raise ConfigError(
            f"{type(model).__name__} has its own {file_format.save_method}, which cannot read "
            f"weights that are split over processes, such as {split[0].path!r}. Save snapshots "
            "only (BackupAndRestore), or remove that method.",
            see="split-weights",
        )
    return found


@dataclass(frozen=True, slots=True)
class _Frozen:
    """A model that is written by our formats."""

    file_format: Format
    frozen: Any
    values: Values
    watch: FiniteWatch
    watched: frozenset[int]  # the identities of the weights
    bad_beyond: str | None  # what is not a variable can be checked only when it is frozen
    blocks: bool = False

    def bad_weight(self) -> str | None:
        for source, array in zip(self.values.sources, self.values.arrays(), strict=True):
            if id(source) in self.watched and not self.watch.check(source, array):
                return path_of(source)
        return self.bad_beyond

    def write(self, draft: AtomicFile) -> None:
        draft.write(lambda file: self.file_format.write(self.frozen, file))


@dataclass(frozen=True, slots=True)
class _OwnSave:
    """A model whose class overrides Keras's saving, and so is saved by it."""

    model: Model
    method: str
    watch: FiniteWatch
    blocks: bool = True

    def bad_weight(self) -> str | None:
        return self.watch.find_bad(self.model)

    def write(self, draft: AtomicFile) -> None:
        getattr(self.model, self.method)(draft.path)
        draft.sync()


def write_model_file(
    frozen: FrozenModel,
    path: str,
    manifest: Manifest,
    needed_bytes: int,
    before_commit: Callable[[str], None] = lambda path: None,
) -> Manifest:
    """Write a file; whatever happens, `path` is the whole older file or the whole new one.

    Args:
        frozen: The model.
        path: The file; directories above it are made.
        manifest: The manifest without its files.
        needed_bytes: About how large the file will be.
        before_commit: Called with the path (links followed) when the draft is complete.

    Returns:
        The whole manifest.

    Raises:
        OSError: If the disk refuses; the older file is untouched.
    """
    directory = os.path.abspath(os.path.dirname(path))
    disk.make_directories(directory)
    space.require(directory, needed_bytes)

    def fill(draft: AtomicFile) -> None:
        frozen.write(draft)
        before_commit(draft.target)

    return single_file.save_file(path, fill, manifest)


def save_error(error: OSError, path: str) -> SaveError:
    """Return the error that explains to a user why a checkpoint was not saved."""
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        said = space.describe(os.path.dirname(os.path.abspath(path)))
        what = f"{what}{said and f' ({said})'}. Free some space, or keep fewer checkpoints"
    return caused(
        SaveError(
            error.errno, f"could not save {path!r}: {what}. Files saved earlier are untouched."
        ),
        error,
    )


def caused(error: SaveError, cause: OSError) -> SaveError:
    """Return an error with its cause, and with the cause's traceback."""
    error.__cause__ = cause
    return error.with_traceback(cause.__traceback__)
