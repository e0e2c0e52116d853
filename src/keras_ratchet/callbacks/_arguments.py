"""The arguments of ModelCheckpoint, checked when they are given."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal, get_args

from keras_ratchet._formats import Holds, format_of
from keras_ratchet._keras.metrics import is_metric, metrics_are_known
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy import naming
from keras_ratchet.policy.monitor import one_of
from keras_ratchet.policy.retention import Retention
from keras_ratchet.policy.schedule import EveryBatches, IfBusy
from keras_ratchet.types import Model

_ALWAYS = ("loss", "val_loss", "learning_rate", "lr")
OnSaveError = Literal["raise", "warn"]


def check_filepath(filepath: str, weights_only: bool, trainable_only: bool) -> Holds:
    """Return what files under this name hold; raise a ConfigError if they cannot be saved."""
    naming.validate(filepath)
    if trainable_only and not weights_only:
        raise ConfigError(
            "trainable_only=True needs save_weights_only=True, and a filepath that ends in "
            f"'.weights.h5': what trains is no whole model. Got: {filepath!r}.",
            see="trainable-only",
        )
    holds: Holds = "trainable" if trainable_only else "weights" if weights_only else "model"
    file_format = format_of(filepath, holds)
    if weights_only and (file_format is None or file_format.save_method != "save_weights"):
        raise ConfigError(
            f"With save_weights_only=True filepath must end in '.weights.h5'. Got: {filepath!r}.",
            see="filepath",
        )
    if file_format is None:
        raise ConfigError(
            f"filepath must end in '.keras' or '.h5'. Got: {filepath!r}.", see="filepath"
        )
    return holds


def check_monitors(
    monitor: str | tuple[str, ...], mode: str | tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the monitored names and their modes; a single mode is that of the first name."""
    names = (monitor,) if isinstance(monitor, str) else tuple(monitor)
    modes = (mode,) if isinstance(mode, str) else tuple(mode)
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"monitor must be the name of a metric or a tuple of names. Got: {monitor!r}.",
            see="monitor",
        )
    if len(modes) > len(names):
        raise ConfigError(
            f"mode has more entries than monitor. Got: {mode!r} for {monitor!r}.", see="monitor"
        )
    return names, modes + ("auto",) * (len(names) - len(modes))


def one_rule(retention: Retention | None, kept: Retention | None) -> Retention | None:
    """Return the rule that was given, as `retention` or as `keep_*` arguments."""
    if retention is not None and kept is not None:
        raise ConfigError(
            "Pass retention= or keep_*=, not both; rules combine with `|`.", see="keep"
        )
    return retention or kept


def batch_rule(save_freq: str | int) -> EveryBatches | None:
    """Return the rule that `save_freq` asks for; None for the end of epochs."""
    return None if save_freq == "epoch" else EveryBatches(save_freq)  # type: ignore[arg-type]


def check_choices(on_save_error: str, if_busy: str) -> None:
    """Raise a ConfigError if one of these arguments is not among its choices."""
    one_of("on_save_error", on_save_error, get_args(OnSaveError))
    one_of("if_busy", if_busy, get_args(IfBusy))


def check_placeholders(filepath: str, rule: Retention | None, best_and_last: bool) -> None:
    """Raise a ConfigError if files that have to differ would have the same name.

    Args:
        filepath: The file, or its template.
        rule: Which files stay, or None for all.
        best_and_last: Whether both the best model and the last one are saved.
    """
    directory, name = os.path.split(filepath)
    if rule is not None and (not naming.fields(name) or naming.fields(directory)):
        raise ConfigError(
            f"keep_* and retention choose among several files, so the last part of filepath "
            f"needs a placeholder, as in 'epoch-{{epoch:03d}}.keras', and its directories must "
            f"have none. Got: {filepath!r}.",
            see="keep",
        )
    if best_and_last and not naming.fields(name):
        raise ConfigError(
            "save_at_end would replace the best model with the last one. Use a second "
            f"ModelCheckpoint for the last one. Got: {filepath!r}.",
            see="keep",
        )


def check_place(callback: Any, callbacks: Iterable[Any], model: Model) -> None:
    """Raise a ConfigError if two callbacks save to one path, or if a directory cannot be filled in.

    Args:
        callback: A ModelCheckpoint.
        callbacks: All callbacks of the list.
        model: The model, at the start of training.
    """
    others = [c for c in callbacks if c is not callback]
    path = os.path.realpath(callback.filepath)
    for other in others:
        same = isinstance(other, type(callback)) or isinstance(callback, type(other))
        if same and os.path.realpath(getattr(other, "filepath", "")) == path:
            raise ConfigError(
                f"Two ModelCheckpoints save to {callback.filepath!r}, so each would mistake "
                "the other's file for its own. Give each its own path.",
                see="callback-list",
            )
    strangers = [c for c in others if not _is_known(c)]
    unknown = [] if strangers else list(_unknown(callback.filepath, model))
    if unknown:
        raise ConfigError(
            naming.unknown_directory_message(callback.filepath, unknown[0]), see="filepath"
        )


def _is_known(callback: Any) -> bool:
    """Return whether a callback is Keras's or ours, which add no unknown metrics."""
    return type(callback).__module__.partition(".")[0] in ("keras", "keras_ratchet")


def _unknown(filepath: str, model: Model) -> Iterable[str]:
    """Yield the placeholders in the directories of a path that cannot be metrics of a model."""
    for name in naming.fields(os.path.dirname(filepath)):
        if name in (*naming.COUNTERS, *_ALWAYS) or not metrics_are_known(model, [name]):
            continue
        if not is_metric(model, name):
            yield name
