"""A model into one file that cannot be torn: taken apart now, written now or later."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from keras_ratchet._engine.capture.best_weights import weights_of
from keras_ratchet._engine.capture.extra_state import weights_beyond
from keras_ratchet._engine.capture.finite import FiniteWatch, Look
from keras_ratchet._engine.capture.variable_buffers import Values, VariableBuffers
from keras_ratchet._engine.saving.provenance import state_bytes
from keras_ratchet._formats import format_of
from keras_ratchet._formats.base import Format
from keras_ratchet._keras import saving
from keras_ratchet._storage import disk, single_file, space
from keras_ratchet._storage.manifest import Manifest
from keras_ratchet.errors import ConfigError, SaveError


def check_target(path: str, fixed: bool) -> None:
    """Raise now what a save to `path` would raise later.

    Args:
        path: The file, or (if not `fixed`) the part of a template before its first placeholder.
        fixed: Whether `path` is the whole name of the file.

    Raises:
        SaveError: If the directory cannot be made or written, or the path is a directory.
        ConfigError: If the name is longer than the file system can have.
    """
    directory = os.path.abspath(os.path.dirname(path))
    try:
        disk.make_directories(directory)
        disk.probe(directory)
    except OSError as error:
        raise SaveError(
            error.errno, f"cannot write checkpoints to {directory!r}: {error.strerror}"
        ) from error
    room = disk.name_limit(directory) - single_file.LONGEST_ADDITION
    if fixed and len(os.fsencode(os.path.basename(path))) > room:
        raise ConfigError(
            f"The file name in filepath is too long: {room} bytes are allowed in "
            f"{directory!r}, where the manifest's name is {single_file.LONGEST_ADDITION} bytes "
            f"longer. Got: {path!r}."
        )
    if fixed and os.path.isdir(path):
        raise SaveError(
            errno.EISDIR,
            "Please specify a non-directory filepath for ModelCheckpoint. "
            f"Filepath used is an existing directory: {path}",
        )


def deleted_message(directory: str) -> str:
    """Return the warning that a directory was deleted while training saves there."""
    return (
        f"{directory!r} was deleted during training. It is created again; what was saved there "
        "before is lost."
    )


class FrozenFile(Protocol):
    """A model at the moment of a save."""

    @property
    def in_line_only(self) -> bool:
        """Whether it has to be written before training goes on."""

    def not_finite(self) -> str | None:
        """Return the path of the first weight that holds NaN or infinity, or None."""

    def fill(self, draft: disk.FileDraft) -> None:
        """Write and sync the draft."""


class ModelSaver:
    """Takes models apart and writes their files, for the saves of one callback.

    Args:
        whole: Whether a `.weights.h5` file, too, is to hold the whole model.

    Attributes:
        watch: Knows which weights are not finite on purpose.
    """

    def __init__(self, whole: bool = False) -> None:
        self.watch = FiniteWatch()
        self._whole = whole
        self._forms: dict[str, Format] = {}
        self._holder = VariableBuffers()

    def freeze(self, model: Any, path: str, lasting: bool) -> FrozenFile:
        """Take what a file needs out of a model, in the format that its suffix names.

        Args:
            model: A built Keras model.
            path: The file.
            lasting: Whether training goes on before the file is written.
        """
        form = self._form(path)
        method = "save_weights" if form.suffix == ".weights.h5" else "save"
        if saving.has_own_saving(model, method):
            return _OwnFile(model, method, self.watch)
        held: list[Values] = []

        def hold(sources: Sequence[Any]) -> Values:
            held.append(self._holder.hold(sources, lasting))
            return held[0]

        frozen = form.freeze(model, hold)
        beyond = weights_beyond(model)
        looks = self.watch.looks([*(weights_of(model) or ()), *beyond])
        return _HeldFile(form, frozen, held[0], looks, self.watch.bad_among(beyond))

    def free(self) -> None:
        """Give memory back."""
        self._forms.clear()
        self._holder.free()
        self.watch.clear()

    def _form(self, path: str) -> Format:
        form = format_of(path, self._whole)
        if form is None:
            raise ConfigError(f"filepath must end in .keras, .weights.h5 or .h5. Got: {path!r}.")
        return self._forms.setdefault(form.suffix, form)


@dataclass(frozen=True, slots=True)
class _HeldFile:
    form: Format
    frozen: Any
    values: Values
    weights: dict[int, tuple[str, Look]]
    bad_beyond: str | None  # of what is no variable there were no values to look at later
    in_line_only: bool = False

    def not_finite(self) -> str | None:
        for source, array in zip(self.values.sources, self.values.arrays(), strict=True):
            path, is_accepted = self.weights.get(id(source), ("", None))
            if is_accepted is not None and not is_accepted(array):
                return path
        return self.bad_beyond

    def fill(self, draft: disk.FileDraft) -> None:
        draft.write(lambda file: self.form.write(self.frozen, file))


@dataclass(frozen=True, slots=True)
class _OwnFile:
    """A model whose class overrides Keras's saving: it knows better than we do."""

    model: Any
    method: str
    watch: FiniteWatch
    in_line_only: bool = True

    def not_finite(self) -> str | None:
        return self.watch.bad(self.model)

    def fill(self, draft: disk.FileDraft) -> None:
        getattr(self.model, self.method)(draft.path)
        draft.sync()


def write_file(
    frozen: FrozenFile,
    path: str,
    facts: Manifest,
    needed_bytes: int,
    make_way: Callable[[str], None] = lambda path: None,
) -> Manifest:
    """Write a file.

    Whatever happens meanwhile, `path` is the whole older file or the whole new one.

    Args:
        frozen: The model.
        path: The file; directories above it are made.
        facts: The manifest but for its files.
        needed_bytes: About how large the file will be.
        make_way: Called with the place of the file (links followed) when the draft is whole.

    Returns:
        The manifest.

    Raises:
        OSError: If the disk refuses; the older file is untouched.
    """
    directory = os.path.abspath(os.path.dirname(path))
    disk.make_directories(directory)
    space.require(directory, needed_bytes)

    def fill(draft: disk.FileDraft) -> None:
        frozen.fill(draft)
        make_way(draft.target)

    return single_file.save_file(path, fill, facts)


def save_model(model: Any, path: str, facts: Manifest, whole: bool = False) -> Manifest:
    """Save a model, or its weights, here and now; see `ModelSaver` and `write_file`."""
    frozen = ModelSaver(whole).freeze(model, path, lasting=False)
    return write_file(frozen, path, facts, state_bytes(model))


def save_error(error: OSError, path: str) -> SaveError:
    """Return the error that tells a user what a failed save means."""
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        said = space.told(os.path.dirname(os.path.abspath(path)))
        what = f"{what}{said and f' ({said})'}. Free some space, or keep fewer checkpoints"
    return SaveError(
        error.errno, f"could not save {path!r}: {what}. Files saved earlier are untouched."
    )
