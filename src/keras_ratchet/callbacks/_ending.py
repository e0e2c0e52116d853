"""A composed criterion at work in a training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_ratchet._warn import warn
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.callbacks._measures import Measures
from keras_ratchet.callbacks._metrics import MetricWatch, Writers, no_writers
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.criterion import Criterion, from_json, to_json
from keras_ratchet.policy.ranking_metric import ranking_metric_of, resolve_directions
from keras_ratchet.types import Verdict


class Ending:
    """Asks a criterion at the end of each epoch, and remembers for it.

    Args:
        criterion: What the user wrote.
        owner: Name of the callback, for messages.

    Raises:
        ConfigError: If it is no criterion, or one that cannot work.
    """

    def __init__(self, criterion: Criterion, owner: str) -> None:
        if not isinstance(criterion, Criterion):
            raise ConfigError(
                f"criterion is made of keras_ratchet.policy, as in Patience(10) | NotFinite(). "
                f"Got: {criterion!r}."
            )
        self._criterion = criterion
        self._owner = owner
        self.judge = ranking_metric_of(criterion)
        self.expected = {name or self.judge.metric for name in criterion.expects()}
        self.goes_by_metric = bool(criterion.monitors())
        self.begin()

    def begin(self) -> None:
        """Forget the last run."""
        self._resolved = self._criterion
        self._state = from_json(to_json(self._criterion.initial()))
        others = self.expected - {self.judge.metric}
        self._watches = [MetricWatch(name, self._owner) for name in sorted(others)]
        self._measures = Measures()

    def arm(self, callback: Any) -> None:
        """Have the hooks of a callback called that the criterion needs, and no others."""
        hooks = {"steps": "on_train_batch_end", "batches": "on_test_batch_end"}
        for need in self._criterion.needs():
            mine = {"steps": self._batch_has_ended, "batches": self._test_batch_has_ended}[need]
            name = hooks[need]
            if getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name):
                mine = functools.partial(_both, getattr(callback, name), mine)
            setattr(callback, name, mine)

    @property
    def needs_batch_hooks(self) -> bool:
        """Whether the criterion looks at batches."""
        return bool(self._criterion.needs())

    def open_names(self) -> list[str]:
        """Return the metrics whose direction only the model can tell."""
        pairs = self._criterion.monitors()
        return [name or self.judge.metric for name, mode in pairs if mode == "auto"]

    def resolve_directions(self, direction: Callable[[str], Any]) -> None:
        """Fill in the directions that were left open."""
        self._resolved = resolve_directions(self._criterion, direction)

    def check(
        self,
        epoch: int,
        logs: Mapping[str, Any],
        judged: float | None,
        writers: Writers = no_writers,
    ) -> Verdict:
        """Say whether to stop after an epoch (index from 0).

        Args:
            epoch: The epoch.
            logs: Its logs.
            judged: The value of the metric that decides what is best, or None.
            writers: Returns the names of those that may still write a metric.
        """
        for watch in self._watches:
            watch.read(logs, writers)
        metrics = metrics_of(logs)
        if judged is not None:
            metrics[self.judge.metric] = judged
        moment = self._measures.moment(epoch, metrics)
        self._state, verdict = self._resolved.check(self._state, moment)
        return verdict

    def check_at_end(self) -> None:
        """Raise a MissingMetricError if a metric never came."""
        for watch in self._watches:
            watch.check_at_end()

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart must not forget."""
        return {
            "outline": self._criterion.outline(),
            "state": to_json(self._state),
            "measures": self._measures.state_dict(),
            "seen": [watch.seen for watch in self._watches],
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from there; a criterion that is put together differently begins anew."""
        if state is None or state["outline"] != self._criterion.outline():
            before = "arguments" if state is None else state["outline"]
            warn(
                f"{self._owner}: the criterion is {self._criterion.outline()} and was {before} "
                f"when training was interrupted, so it begins without memory."
            )
            return
        self._state = from_json(state["state"])
        self._measures.load_state_dict(state["measures"])
        for watch, seen in zip(self._watches, state["seen"], strict=True):
            watch.seen = seen

    def _batch_has_ended(self, batch: int, logs: Any = None) -> None:
        self._measures.batch_has_ended(batch)

    def _test_batch_has_ended(self, batch: int, logs: Any = None) -> None:
        self._measures.test_batch_has_ended(batch, logs)


def _both(first: Any, second: Any, batch: int, logs: Any = None) -> None:
    first(batch, logs)
    second(batch, logs)
