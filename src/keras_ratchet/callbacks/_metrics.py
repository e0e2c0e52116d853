"""The monitored metric in the logs: there, not there yet, or never to come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_ratchet._warn import warn
from keras_ratchet.callbacks._logs import as_float
from keras_ratchet.errors import MetricError, MissingMetricError
from keras_ratchet.policy.monitor import missing_message

Writers = Callable[[], Sequence[str]]
_NO_VALIDATION = (
    "No validation ran in the whole training; pass validation_data or validation_split to fit."
)


def no_writers() -> Sequence[str]:
    """Return no names: nobody's code can write the metric any more."""
    return ()


def writers_before(callback: Any, callback_list: Any, in_fit: bool) -> list[str]:
    """Return the names of those whose code may add metrics to the logs before a callback reads.

    Args:
        callback: The callback.
        callback_list: The list that it is in, or None.
        in_fit: Whether `fit` drives it; a loop of one's own writes logs by itself.
    """
    if not in_fit or callback_list is None:
        return ["your loop"]
    found: list[str] = []
    for other in callback_list.callbacks:
        if other is callback:
            return found
        hook = other.on_epoch_end
        root = getattr(hook, "__module__", "").partition(".")[0]
        if root not in ("keras", "keras_ratchet"):  # so is what a LambdaCallback was given
            found.append(type(other).__name__)
    return found


class MetricWatch:
    """Reads one metric and knows what its absence means.

    `fit` tells callbacks nothing of `validation_freq`, so a `val_` metric may come later as
    long as no validation has run without it. Any other metric has to be there at the end of
    the first epoch, unless somebody's code may still write it: a callback that computes it every
    so many epochs, or a loop of one's own.

    Args:
        name: Key of the metric in the logs.
        owner: Name of the callback, for messages.
    """

    def __init__(self, name: str, owner: str) -> None:
        self._name = name
        self._owner = owner
        self._warned = False
        self._missing = ""
        self.seen = False

    def read(self, logs: Mapping[str, Any], writers: Writers = no_writers) -> float | None:
        """Return the value, or None in an epoch that has none.

        Args:
            logs: The logs.
            writers: Returns the names of those that may still write the metric.

        Raises:
            MissingMetricError: If the metric will not appear.
            MetricError: If it is not one number.
        """
        if self._name in logs and logs[self._name] is not None:
            self.seen = True
            return self._scalar(logs[self._name])
        if not self.seen:
            self._wait({n: v for n, v in logs.items() if v is not None}, writers())
        return None

    def _wait(self, logs: Mapping[str, Any], writers: Sequence[str]) -> None:
        """Note that the metric has not come yet; raise if it will not."""
        validated = any(key.startswith("val_") for key in logs)
        if not validated and self._name.startswith("val_"):
            self._missing = f"{self._message(logs)} {_NO_VALIDATION}"
            why = "this epoch ran no validation (validation_freq > 1, or no validation data)."
            self._say(f"no {self._name!r} yet, since {why}")
        elif writers:
            who = " or ".join(writers)
            self._missing = f"{self._message(logs)} {who} did not add it in the whole training."
            found = missing_message(self._name, logs)
            self._say(f"no {self._name!r} yet. {found} Waiting for {who} to add it.")
        else:
            raise MissingMetricError(self._message(logs))

    def _say(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warn(f"{self._owner}: {what}")

    def check_at_end(self) -> None:
        """Raise a MissingMetricError if training has ended and the metric never came."""
        if self._missing and not self.seen:
            raise MissingMetricError(self._missing)

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
