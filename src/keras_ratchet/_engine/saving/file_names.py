"""The name of the file to which a moment is saved, from its template."""

from __future__ import annotations

import os
from collections.abc import Callable

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy import naming
from keras_ratchet.policy.monitor import missing_message
from keras_ratchet.types import Moment


def path_of(template: str, moment: Moment, warn_once: Callable[[str, str], None]) -> str:
    """Return the file that a moment is saved to.

    Args:
        template: The path with placeholders.
        moment: Position and metrics.
        warn_once: Called with the name of each metric that is missing, and a sentence.

    Raises:
        ConfigError: If a directory in it has a placeholder that nothing fills in.
    """
    position = moment.position
    values: dict[str, float] = {"epoch": moment.epoch + 1}
    if position.batch:
        values["batch"] = position.batch
    values |= moment.metrics
    path, missing = naming.render(template, values)
    for name in missing:
        if name in naming.fields(os.path.dirname(template)) and "val_" not in name:
            raise ConfigError(naming.unknown_directory_message(template, name), see="filepath")
        warn_once(name, f"filepath {template!r}: {missing_message(name, values)}")
    return path
