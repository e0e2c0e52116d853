"""Loading checkpoints: they are verified first, and a damaged one is replaced by another."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, NoReturn

import keras

from keras_ratchet._engine.capture.model_state import finalize
from keras_ratchet._engine.saving.provenance import note_source
from keras_ratchet._formats import format_of
from keras_ratchet._formats.overlay import lay_over
from keras_ratchet._formats.readers import missing_weights, read_config
from keras_ratchet._formats.safety import check_file
from keras_ratchet._keras.legacy_h5 import compile_from_file
from keras_ratchet._storage import anywhere
from keras_ratchet._storage.objects.location import is_url
from keras_ratchet._storage.verify import verify
from keras_ratchet._warn import warn
from keras_ratchet.errors import CorruptError, LoadError
from keras_ratchet.policy.monitor import close_matches
from keras_ratchet.policy.retention import age, of_newest_runs, ranking_of
from keras_ratchet.types import CheckpointInfo, Model

_log = logging.getLogger("keras_ratchet")


def load_model(
    path: str | os.PathLike[str],
    which: str = "best",
    *,
    custom_objects: Mapping[str, Any] | None = None,
    compile: bool = True,
    safe_mode: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Load a whole model from a file, or from a directory of checkpoints.

    The file is compared with its manifest before Keras reads it. In a directory, a checkpoint that
    does not verify is skipped with a warning that names its problem, and the next best (or next
    newest) one is loaded; only checkpoints of the newest run can be the best. Retention never
    deletes the file that a model in training was loaded from.

    Args:
        path: A `.keras` or `.h5` file, or a directory; or the URL of one on an object store, from
            which it is fetched to the local cache.
        which: In a directory: "best", "latest", or a file's name.
        custom_objects: As in `keras.models.load_model`.
        compile: As in `keras.models.load_model`. A `.h5` file is compiled as it was, with the state
            of its optimizer, which Keras loses, and with losses and metrics given by name
            ("mse"), which Keras refuses.
        safe_mode: As in `keras.models.load_model`: False runs code in the file, which models with
            a `Lambda` or a `TorchModuleWrapper` need. Digests reveal damage, not malice: use it
            only for files from people whom you trust.
        storage_options: For a URL: arguments of its fsspec file system.

    Returns:
        The model.

    Raises:
        LoadError: If no checkpoint can be loaded safely; the message names each problem.
        CorruptError: If the file that was asked for is not what was saved.
    """
    where = anywhere.path_or_url(path, "path")
    chosen = _choose(where, which, True, storage_options)
    model = _loaded(chosen, custom_objects, compile, safe_mode)
    note_source(model, chosen)
    return model


def _loaded(
    path: str, custom_objects: Mapping[str, Any] | None, compile: bool, safe_mode: bool
) -> Any:
    """Load a file as Keras does, and compile a `.h5` as it was, which Keras cannot do."""
    if missing_weights(path) is not None:
        raise LoadError(
            f"{path!r} holds only what trained, no whole model. Build the model, load the base "
            "that it was trained on, then keras_ratchet.load_weights(model, path).",
            see="trainable-only",
        )
    if path.endswith(".h5") and read_config(path) is None:  # a `.keras` file always has one
        raise LoadError(
            f"{path!r} holds weights, no whole model. Build the model, then "
            "keras_ratchet.load_weights(model, path).",
            see="not-a-model",
        )
    arguments = {"custom_objects": custom_objects, "safe_mode": safe_mode}
    if not compile or not path.endswith(".h5"):
        return keras.models.load_model(path, compile=compile, **arguments)
    model = keras.models.load_model(path, compile=False, **arguments)
    try:
        compile_from_file(model, path, custom_objects)
    except (ValueError, TypeError, KeyError):  # an old file, which Keras can compile
        return keras.models.load_model(path, compile=True, **arguments)
    return model


def load_weights(
    model: Model,
    path: str | os.PathLike[str],
    which: str = "best",
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Load weights into a model from a file, or from a directory of checkpoints.

    A file that was saved with `trainable_only=True` is laid over the model: what it does not hold
    keeps its value, so load the base first. A line of the log says so, and if the file does not fit
    the model, nothing is changed.

    Args:
        model: The model. Compile it and build its optimizer first if that is to be loaded too:
            `model.optimizer.build(model.trainable_variables)`.
        path: A `.weights.h5`, `.keras` or `.h5` file, or a directory; or the URL of one.
        which: In a directory: "best", "latest", or a file's name.
        storage_options: For a URL: arguments of its fsspec file system.

    Returns:
        The paths of the weights that keep their values because the file does not hold them; of
        files that hold all, an empty list.

    Raises:
        LoadError: If no checkpoint can be loaded safely; the message names each problem.
        CorruptError: If the file that was asked for is not what was saved.
    """
    where = anywhere.path_or_url(path, "path")
    chosen = _choose(where, which, False, storage_options)
    kept = assign_weights(model, chosen)
    if kept:
        _log.warning(
            "%s holds only what trained: %d weights of the model keep the values that they have, "
            "such as %r; they should be those of the base",
            chosen,
            len(kept),
            kept[0],
        )
    note_source(model, chosen)
    return kept


def assign_weights(model: Model, path: str) -> list[str]:
    """Assign the weights of a file; return the paths of those that it does not hold."""
    if missing_weights(path) is None:
        model.load_weights(path)
        return []
    kept = lay_over(model, path)
    finalize(model)
    return kept


def _choose(path: str, which: str, whole: bool, options: Mapping[str, Any] | None) -> str:
    """Return the path of the file to load."""
    if not anywhere.is_directory(path, options):
        return accept(_at(path, options), options)
    listed = anywhere.checkpoints(path, storage_options=options)
    if which not in ("best", "latest"):
        named = [info for info in listed if info.name == which]
        if not named:
            there = ", ".join(info.name for info in listed if _fits(info.name, whole)) or "none"
            raise LoadError(f"there is no checkpoint {which!r} in {path!r}. There are: {there}.")
        return accept(named[0], options)
    infos = [info for info in listed if _fits(info.name, whole)]
    if not infos:
        _refuse(path, [info.name for info in listed])
    candidates = _order(infos, which)
    problems = _unranked_problems(infos, candidates)
    return _first_good(path, candidates, problems, options)


def _at(path: str, options: Mapping[str, Any] | None) -> CheckpointInfo:
    """Return what is known of one checkpoint; if it is not there, say which name is near."""
    try:
        return anywhere.checkpoint_at(path, options)
    except LoadError as error:
        directory, name = os.path.split(os.path.abspath(path))
        if is_url(path) or not os.path.isdir(directory):
            raise
        near = close_matches(name, [info.name for info in anywhere.checkpoints(directory)])
        if not near:
            raise
        meant = " or ".join(map(repr, near))
        raise LoadError(f"{error} Did you mean {meant}?") from None


def _refuse(path: str, names: list[str]) -> NoReturn:
    """Say what a directory holds, of which nothing can be loaded as it was asked for."""
    weights = [name for name in names if format_of(name) is not None]
    if weights:
        raise LoadError(
            f"there is no whole model in {path!r}, only weights, such as {weights[-1]!r}. Build "
            f"the model, then keras_ratchet.load_weights(model, {path!r}).",
            see="not-a-model",
        )
    if names:
        raise LoadError(
            f"there are only snapshots in {path!r}, such as {names[-1]!r}: BackupAndRestore "
            "resumes a run from them. A file that can be loaded is what ModelCheckpoint saves.",
            see="not-a-model",
        )
    raise LoadError(f"there are no checkpoints in {path!r}: no .keras, .weights.h5 or .h5 file.")


def _unranked_problems(infos: list[CheckpointInfo], candidates: list[CheckpointInfo]) -> list[str]:
    """Return the problems of checkpoints that have no rank, as their manifests are damaged."""
    ranked = {info.name for info in candidates}
    bare = [i.path for i in infos if not (i.has_manifest or i.name in ranked or is_url(i.path))]
    unknown = [verify(path) for path in bare]
    return [f"{v.path!r} is corrupt: {v.problem}." for v in unknown if v.status == "corrupt"]


def _fits(name: str, whole: bool) -> bool:
    found = format_of(name)
    return found is not None and not (whole and found.save_method == "save_weights")


def _order(infos: list[CheckpointInfo], which: str) -> list[CheckpointInfo]:
    """Return the candidates in order of preference."""
    if which == "latest":
        return sorted(infos, key=age, reverse=True)
    newest = of_newest_runs(infos)
    return ranking_of(newest).sort(newest)


def _first_good(
    path: str,
    candidates: list[CheckpointInfo],
    problems: list[str],
    options: Mapping[str, Any] | None,
) -> str:
    for info in candidates:
        try:
            chosen = accept(info, options)
        except LoadError as error:
            problems.append(str(error))
            continue
        if problems:
            message = f"{' '.join(problems)} Loading {info.name} instead."
            warn(message)
        return chosen
    if not problems:  # of "latest" there is always a candidate
        raise LoadError(
            f"there is no best checkpoint in {path!r}. No file there says by which metric it was "
            'saved; which="latest" is the newest one.'
        )
    raise CorruptError(f"no checkpoint in {path!r} can be loaded: {' '.join(problems)}")


def accept(info: CheckpointInfo, options: Mapping[str, Any] | None = None) -> str:
    """Return the local path of a checkpoint that verifies and is safe, or raise."""
    if info.is_directory or os.path.isdir(info.path):  # the latter if its manifest is damaged
        raise LoadError(
            f"{info.path!r} is a snapshot: BackupAndRestore resumes a run from it. A file that "
            "can be loaded is what ModelCheckpoint saves.",
            see="not-a-model",
        )
    path = anywhere.local_copy(info.path, options)
    outcome = verify(path)
    if outcome.status == "corrupt":
        raise CorruptError(f"{info.path!r} is corrupt: {outcome.problem}.")
    check_file(path)
    if outcome.status == "unverified":
        warn(
            f"{info.path!r} has no manifest, so it is loaded unverified. `ratchet adopt` "
            "writes one."
        )
    return path
