"""The arguments of ModelCheckpoint, checked when they are given."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, get_args

from keras_ratchet._engine.saving.checkpoint_store import CheckpointStore
from keras_ratchet._engine.saving.checkpointer import Checkpointer
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy import naming
from keras_ratchet.policy.monitor import one_of
from keras_ratchet.policy.retention import Ranking, Retention, Ties
from keras_ratchet.policy.schedule import EveryBatches, IfBusy

OnSaveError = Literal["raise", "warn"]


def check_filepath(filepath: str, weights_only: bool) -> None:
    """Raise a ConfigError unless files can be saved under this name."""
    naming.validate(filepath)
    if weights_only and not filepath.endswith(".weights.h5"):
        raise ConfigError(
            f"With save_weights_only=True filepath must end in '.weights.h5'. Got: {filepath!r}."
        )
    if not weights_only and not filepath.endswith((".keras", ".h5")):
        raise ConfigError(f"filepath must end in '.keras' or '.h5'. Got: {filepath!r}.")


def check_monitors(
    monitor: str | tuple[str, ...], mode: str | tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the monitored names and their modes; one mode serves the first name only."""
    names = (monitor,) if isinstance(monitor, str) else tuple(monitor)
    modes = (mode,) if isinstance(mode, str) else tuple(mode)
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"monitor must be the name of a metric or a tuple of names. Got: {monitor!r}."
        )
    if len(modes) > len(names):
        raise ConfigError(f"mode has more entries than monitor. Got: {mode!r} for {monitor!r}.")
    return names, modes + ("auto",) * (len(names) - len(modes))


def one_rule(retention: Retention | None, kept: Retention | None) -> Retention | None:
    """Return the rule that was given, whole or as `keep_*` arguments."""
    if retention is not None and kept is not None:
        raise ConfigError("Pass retention= or keep_*=, not both; rules combine with `|`.")
    return retention or kept


def batch_trigger(save_freq: str | int) -> EveryBatches | None:
    """Return the trigger that `save_freq` asks for, None for ends of epochs."""
    return None if save_freq == "epoch" else EveryBatches(save_freq)  # type: ignore[arg-type]


def checkpointer_of(
    filepath: str,
    *,
    retention: Retention | None,
    best_only: bool,
    weights_only: bool,
    at_end: bool,
    ties: Ties,
    on_save_error: OnSaveError,
    background: bool | None,
    if_busy: IfBusy,
    say: Callable[[str], None],
) -> Checkpointer:
    """Return what saves as the arguments ask for."""
    check_filepath(filepath, weights_only)
    _check_names(filepath, retention, best_only and at_end)
    one_of("on_save_error", on_save_error, get_args(OnSaveError))
    one_of("if_busy", if_busy, get_args(IfBusy))
    return Checkpointer(
        CheckpointStore(filepath, retention, Ranking((), ties), not weights_only, background),
        best_only=best_only,
        warn_only=on_save_error == "warn",
        say=say,
        skip_if_busy=if_busy == "skip",
    )


def _check_names(filepath: str, rule: Retention | None, best_and_last: bool) -> None:
    directory, name = os.path.split(filepath)
    if rule is not None and (not naming.fields(name) or naming.fields(directory)):
        raise ConfigError(
            f"keep_* and retention choose among several files, so the last part of filepath "
            f"needs a placeholder, as in 'epoch-{{epoch:03d}}.keras', and its directories must "
            f"have none. Got: {filepath!r}."
        )
    if best_and_last and not naming.fields(name):
        raise ConfigError(
            "save_at_end would replace the best model with the last one. Use a second "
            f"ModelCheckpoint for the last one. Got: {filepath!r}."
        )
