"""What a criterion may look at beside the logs: time, steps, and validation batch by batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from keras_ratchet.callbacks._logs import batches_ended, metrics_of
from keras_ratchet.types import Moment, Position

_now_s = time.monotonic


class Measures:
    """Counts the time of a training and, where the hooks are called, steps and batches."""

    def __init__(self) -> None:
        self._before_s = 0.0
        self._begun_s = _now_s()
        self._steps: int | None = None
        self._last_batch: int | None = None
        self._running = _RunningMeans()

    def batch_has_ended(self, batch: int) -> None:
        """Count the steps up to this batch (index from 0)."""
        self._steps = (self._steps or 0) + batches_ended(self._last_batch, batch)
        self._last_batch = batch

    def test_batch_has_ended(self, batch: int, logs: Mapping[str, Any] | None) -> None:
        """Note the running means after this batch of the validation."""
        self._running.add(batch, metrics_of(logs))

    def moment(self, epoch: int, metrics: Mapping[str, float]) -> Moment:
        """Return the end of an epoch (index from 0); what was noted of the validation is spent."""
        batches = {f"val_{name}": values for name, values in self._running.values.items()}
        self._running = _RunningMeans()
        position = Position(epoch + 1, step=self._steps)
        return Moment(position, metrics, time_s=self._elapsed_s(), batches=batches)

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart must not forget."""
        return {"seconds": self._elapsed_s(), "steps": self._steps, "batch": self._last_batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self._before_s, self._begun_s = state["seconds"], _now_s()
        self._steps, self._last_batch = state["steps"], state["batch"]

    def _elapsed_s(self) -> float:
        return self._before_s + _now_s() - self._begun_s


class _RunningMeans:
    """Turns the running means that Keras logs in a validation back into the batches' own values.

    After `n` batches the mean is `m`, before them it was `m'` of `n'`: so the batches in between
    have the mean `(n m - n' m') / (n - n')`. Exact, up to float32, for metrics that are means and
    batches of one size; of a smaller last batch the deviation counts by its share of the samples,
    so that the values always have the logged metric as their mean.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self._before: Mapping[str, float] = {}
        self._done = 0

    def add(self, batch: int, means: Mapping[str, float]) -> None:
        """Take the running means after this batch (index from 0)."""
        done = batch + 1
        if done <= self._done:  # another validation has begun
            self.values, self._before, self._done = {}, {}, 0
        for name, mean in means.items():
            total = done * mean - self._done * self._before.get(name, 0.0)
            self.values.setdefault(name, []).append(total / (done - self._done))
        self._before, self._done = means, done
