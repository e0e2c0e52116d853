"""Whether a ModelCheckpoint's path can work beside the other callbacks, and with this model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from keras_ratchet._keras.metrics import is_metric, metrics_are_known
from keras_ratchet._storage.paths import local_path
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy import naming

_ALWAYS = ("loss", "val_loss", "learning_rate", "lr")


def check_place(callback: Any, callbacks: Iterable[Any], model: Any) -> None:
    """Raise a ConfigError if files would get into each other's way, or to a place nobody meant.

    Args:
        callback: A ModelCheckpoint.
        callbacks: All callbacks of the list.
        model: The model, when training begins.
    """
    others = [c for c in callbacks if c is not callback]
    path = os.path.realpath(local_path(callback.filepath, "filepath"))
    for other in others:
        same = isinstance(other, type(callback)) or isinstance(callback, type(other))
        if same and os.path.realpath(getattr(other, "filepath", "")) == path:
            raise ConfigError(
                f"Two ModelCheckpoints save to {callback.filepath!r}, so each would mistake "
                "the other's file for its own. Give each its own path."
            )
    strangers = [c for c in others if not _is_known(c)]
    unknown = [] if strangers else list(_unknown(callback.filepath, model))
    if unknown:
        raise ConfigError(naming.unknown_directory_message(callback.filepath, unknown[0]))


def _is_known(callback: Any) -> bool:
    """Return whether a callback is Keras's or ours, and so adds no metric that nobody foresees."""
    return type(callback).__module__.partition(".")[0] in ("keras", "keras_ratchet")


def _unknown(filepath: str, model: Any) -> Iterable[str]:
    """Yield the placeholders in the directories of a path that cannot be metrics of a model."""
    for name in naming.fields(os.path.dirname(filepath)):
        if name in (*naming.COUNTERS, *_ALWAYS) or not metrics_are_known(model, [name]):
            continue
        if not is_metric(model, name):
            yield name
