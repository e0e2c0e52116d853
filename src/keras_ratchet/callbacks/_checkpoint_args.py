"""The arguments of ModelCheckpoint, checked when they are given."""

from __future__ import annotations

import os

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy import naming
from keras_ratchet.policy.retention import Retention


def check_filepath(filepath: str, weights_only: bool) -> None:
    """Raise a ConfigError unless files can be saved under this name."""
    naming.validate(filepath)
    if "://" in filepath:
        raise ConfigError(
            f"filepath has to be on a mounted file system; remote stores are not supported yet. "
            f"Got: {filepath!r}."
        )
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
        raise ConfigError(f"monitor is a metric's name or a tuple of names. Got: {monitor!r}.")
    if len(modes) > len(names):
        raise ConfigError(f"mode has more entries than monitor. Got: {mode!r} for {monitor!r}.")
    return names, modes + ("auto",) * (len(names) - len(modes))


def retention_of(
    filepath: str,
    save_best_only: bool,
    save_at_end: bool,
    retention: Retention | None,
    kept: Retention | None,
) -> Retention | None:
    """Return the rule that the `keep_*` arguments and `retention` make together."""
    if retention is not None and kept is not None:
        raise ConfigError("Give retention= or keep_*=, not both; rules combine with `|`.")
    rule = retention or kept
    directory, name = os.path.split(filepath)
    if rule is not None and (not naming.fields(name) or naming.fields(directory)):
        raise ConfigError(
            f"keep_* and retention choose among several files, so the last part of filepath "
            f"needs a placeholder, as in 'epoch-{{epoch:03d}}.keras', and its directories must "
            f"have none. Got: {filepath!r}."
        )
    if save_at_end and save_best_only and not naming.fields(name):
        raise ConfigError(
            f"save_at_end would put the last model in the place of the best one. Use a second "
            f"ModelCheckpoint for the last. Got: {filepath!r}."
        )
    return rule
