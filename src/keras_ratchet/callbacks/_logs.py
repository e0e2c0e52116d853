"""What callbacks read from hooks: moments, metrics that may be missing, and progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_ratchet._keras import fit
from keras_ratchet._warn import warn
from keras_ratchet.errors import MetricError, MissingMetricError
from keras_ratchet.policy.monitor import missing_message
from keras_ratchet.types import CallbackList, Moment, Position

Writers = Callable[[], Sequence[str]]
_NO_VALIDATION = (
    "No validation ran during training; pass validation_data or validation_split to fit."
)
_NEVER_VALIDATES = "`fit` has no validation; pass it validation_data or validation_split."
_LOOP = "your loop"
_now_s = time.monotonic


def end_of_epoch(epoch: int, metrics: Mapping[str, float], steps: int | None = None) -> Moment:
    """Return the moment at which the epoch with index `epoch` has ended."""
    return Moment(Position.counted(epoch + 1, 0, steps), metrics)


def moment_of(
    epoch: int, batch: int | None, logs: Mapping[str, Any] | None, steps: int | None = None
) -> Moment:
    """Return the end of an epoch, or that of a batch in it (indices from 0).

    Args:
        epoch: The epoch.
        batch: The batch, or None for the end of the epoch.
        logs: What the hook was given.
        steps: Batches in an epoch, if that is known.
    """
    if batch is None:
        return end_of_epoch(epoch, metrics_of(logs), steps)
    position = Position.counted(epoch, batch + 1, steps)
    return Moment(position, metrics_of(logs), end_of_epoch=False)


def batches_ended(last: int | None, batch: int) -> int:
    """Return how many batches have ended since batch `last`, up to `batch` (indices from 0)."""
    if last is None or batch <= last:  # a new epoch
        return batch + 1
    return batch - last


def metrics_of(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the scalars of `logs` as floats; arrays of more than one element are left out."""
    scalars = {name: as_float(value) for name, value in (logs or {}).items()}
    return {name: value for name, value in scalars.items() if value is not None}


def as_float(value: Any) -> float | None:
    """Return a number, or an array or tensor of one element, as a float; None for the rest."""
    if hasattr(value, "numpy") and not hasattr(value, "item"):
        value = value.numpy()  # a TensorFlow tensor
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def no_writers() -> Sequence[str]:
    """Return no names: no code can still write the metric."""
    return ()


def writers_before(callback: Any, callback_list: CallbackList, in_fit: bool) -> list[str]:
    """Return the names of whatever may add metrics to the logs before a callback reads them.

    Args:
        callback: The callback.
        callback_list: The list that it is in, or None.
        in_fit: Whether `fit` drives it; a loop written by hand writes the logs itself.
    """
    if not in_fit or callback_list is None:
        return [_LOOP]
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

    Where `fit` validates, a `val_` metric may come later (`validation_freq`) as long as no
    validation has run without it. Any other metric must be there at the end of the first epoch,
    unless other code may still write it: a callback that computes it every few epochs, or a loop
    written by hand.

    Args:
        name: Key of the metric in the logs.
        owner: Name of the callback, for messages.

    Attributes:
        seen: Whether the metric has been in the logs.
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
            writers: Returns the names of whatever may still write the metric.

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
        """Warn once that the metric has not come yet; raise if it will not come."""
        validated = any(key.startswith("val_") for key in logs)
        in_loop = _LOOP in writers and not fit.locals_of_fit()
        if not validated and not in_loop and self._name.startswith("val_"):
            if not writers and fit.never_validates():
                raise MissingMetricError(f"{self._message(logs)} {_NEVER_VALIDATES}")
            self._missing = f"{self._message(logs)} {_NO_VALIDATION}"
            why = "this epoch ran no validation (validation_freq > 1, or no validation data)."
            self._warn_once(f"no {self._name!r} yet, since {why}")
        elif writers:
            who = " or ".join(writers)
            how = f" In a Run, pass it to run.log({self._name}=...)." if in_loop else ""
            self._missing = f"{self._message(logs)} {who} did not add it during training.{how}"
            found = missing_message(self._name, logs)
            self._warn_once(f"no {self._name!r} yet. {found} Waiting for {who} to add it.{how}")
        else:
            raise MissingMetricError(self._message(logs))

    def _warn_once(self, what: str) -> None:
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
                "Reduce the metric to one number, or monitor another one."
            )
        return number

    def _message(self, logs: Mapping[str, Any]) -> str:
        return (
            f"{self._owner}: {missing_message(self._name, logs)} If a callback of yours adds "
            f"it to the logs, put that callback first in the list."
        )


class Progress:
    """Counts the time of a run and, where the batch hooks are called, steps and batches."""

    def __init__(self) -> None:
        self._before_s = 0.0
        self._started_s = _now_s()
        self._steps: int | None = None
        self._last_batch: int | None = None
        self._running = _RunningMeans()

    def end_batch(self, batch: int) -> None:
        """Count the steps up to the batch with this index."""
        self._steps = (self._steps or 0) + batches_ended(self._last_batch, batch)
        self._last_batch = batch

    def end_test_batch(self, batch: int, logs: Mapping[str, Any] | None) -> None:
        """Store the running means after the validation batch with this index."""
        self._running.add(batch, metrics_of(logs))

    def moment(self, epoch: int, metrics: Mapping[str, float]) -> Moment:
        """Return the end of an epoch (index from 0), and forget the batches of its validation."""
        batches = {f"val_{name}": values for name, values in self._running.values.items()}
        self._running = _RunningMeans()
        position = Position(epoch + 1, step=self._steps)
        return Moment(position, metrics, time_s=self._elapsed_s(), batches=batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resume."""
        return {"seconds": self._elapsed_s(), "steps": self._steps, "batch": self._last_batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue counting from a state that `state_dict` returned."""
        self._before_s, self._started_s = state["seconds"], _now_s()
        self._steps, self._last_batch = state["steps"], state["batch"]

    def _elapsed_s(self) -> float:
        return self._before_s + _now_s() - self._started_s


class _RunningMeans:
    """Recovers the batches' own values from the running means that Keras logs in a validation.

    If the mean is `m` after `n` batches and was `m'` after `n'`, the batches in between have the
    mean `(n m - n' m') / (n - n')`. This is exact, up to float32, for metrics that are means over
    batches of one size; the deviation of a smaller last batch counts by its share of the samples,
    so that the mean of the values is always the logged metric.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self._before: Mapping[str, float] = {}
        self._done = 0

    def add(self, batch: int, means: Mapping[str, float]) -> None:
        """Add the running means after the batch with this index."""
        done = batch + 1
        if done <= self._done:  # another validation has started
            self.values, self._before, self._done = {}, {}, 0
        for name, mean in means.items():
            total = done * mean - self._done * self._before.get(name, 0.0)
            self.values.setdefault(name, []).append(total / (done - self._done))
        self._before, self._done = means, done
