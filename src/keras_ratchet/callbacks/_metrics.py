"""The monitored metric in the logs: there, not there yet, or never to come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_ratchet._warn import warn
from keras_ratchet.callbacks._moments import as_float
from keras_ratchet.errors import MetricError, MissingMetricError
from keras_ratchet.policy.monitor import missing_message


class MetricWatch:
    """Reads one metric and knows what its absence means.

    `fit` tells callbacks nothing of `validation_freq`, so a `val_` metric may come later as
    long as no validation has run without it. Any other metric has to be there at the end of
    the first epoch.

    Args:
        name: Key of the metric in the logs.
        owner: Name of the callback, for messages.
    """

    def __init__(self, name: str, owner: str) -> None:
        self._name = name
        self._owner = owner
        self._warned = False
        self._last: Mapping[str, Any] = {}
        self.seen = False

    def read(self, logs: Mapping[str, Any]) -> float | None:
        """Return the value, or None in an epoch without validation.

        Raises:
            MissingMetricError: If the metric will not appear.
            MetricError: If it is not one number.
        """
        self._last = logs
        if self._name in logs and logs[self._name] is not None:
            self.seen = True
            return self._scalar(logs[self._name])
        if self.seen:
            return None
        validated = any(key.startswith("val_") for key in logs)
        if validated or not self._name.startswith("val_"):
            raise MissingMetricError(self._message(logs))
        if not self._warned:
            self._warned = True
            warn(
                f"{self._owner}: no {self._name!r} yet, since this epoch ran no validation "
                f"(validation_freq > 1, or no validation data)."
            )
        return None

    def check_at_end(self) -> None:
        """Raise a MissingMetricError if training has ended and no validation ever ran."""
        if self._last and not self.seen:
            raise MissingMetricError(
                f"{self._message(self._last)} No validation ran in the whole training; pass "
                f"validation_data or validation_split to fit."
            )

    def _scalar(self, value: Any) -> float:
        number = as_float(value)
        if number is None:
            shape = getattr(value, "shape", None)
            raise MetricError(
                f"{self._owner} needs one number, but {self._name!r} is "
                f"{'of shape ' + str(tuple(shape)) if shape is not None else repr(value)}. "
                f"Give the metric an average, or monitor another one."
            )
        return number

    def _message(self, logs: Mapping[str, Any]) -> str:
        return (
            f"{self._owner}: {missing_message(self._name, logs)} If a callback of yours adds "
            f"it to the logs, put that callback first in the list."
        )


def training_metric_warning(name: str) -> str:
    """Return what a user should know who restores weights by a metric of the training."""
    return (
        f"EarlyStopping restores by {name!r}, a mean over the batches of an epoch: it describes "
        f"the weights during the epoch, not those kept at its end. Monitor a validation metric "
        f"such as 'val_{name}' for the weights that score best."
    )
