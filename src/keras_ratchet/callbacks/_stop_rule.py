"""When to stop: Keras's arguments, or a criterion in their place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import keras

from keras_ratchet._warn import warn
from keras_ratchet.callbacks._logs import MetricWatch, Progress, Writers, metrics_of
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.criterion import (
    MISSING,
    Criterion,
    from_json,
    ranking_metric_of,
    resolve_directions,
    to_json,
)
from keras_ratchet.policy.patience import PatienceRule, PatienceState
from keras_ratchet.types import Verdict

EXCLUDED: Mapping[str, Any] = {  # by a criterion: arguments, and their defaults
    "monitor": "val_loss",
    "min_delta": 0,
    "patience": 0,
    "mode": "auto",
    "baseline": None,
    "min_delta_mode": "absolute",
    "nan": "ignore",
}


class StopRule:
    """Decides after each epoch whether to stop, and which epoch is the best one.

    Args:
        metric: Name of the metric that decides which epoch is best.
        criterion: When to stop; None for patience.
        owner: Name of the callback, for messages.

    Attributes:
        watch: Reads the metric.
        state: The best values, and the checks since then.
        criterion: The criterion at work, or None for patience.
    """

    def __init__(self, metric: str, criterion: Criterion | None, owner: str) -> None:
        self._metric = metric
        self._owner = owner
        self.criterion = None if criterion is None else CriterionRun(criterion, owner)
        self.start()

    def start(self) -> None:
        """Forget the last run."""
        self.state = PatienceState()
        self.watch = MetricWatch(self._metric, self._owner)
        if self.criterion is not None:
            self.criterion.start()

    @property
    def goes_by_metric(self) -> bool:
        """Whether the metric has a say in when to stop."""
        return self.criterion is None or self.criterion.goes_by_metric

    def check(
        self,
        patience: PatienceRule,
        epoch: int,
        value: float | None,
        logs: Mapping[str, Any],
        writers: Writers,
    ) -> Verdict:
        """Return whether to stop after an epoch.

        Args:
            patience: Decides which epoch is best and, without a criterion, when to stop.
            epoch: Index of the epoch.
            value: Of the metric, or None if this epoch has none.
            logs: The logs of the epoch.
            writers: Returns the names of whatever may still write a metric.

        Raises:
            NonFiniteError: If a metric is NaN for which `nan="raise"`.
        """
        verdict = Verdict(False, MISSING, f"{self._metric} is not in the logs")
        if value is not None:
            self.state, verdict = patience.check(self.state, epoch, value)
        if self.criterion is None or epoch < patience.start_from_epoch:
            return verdict
        return self.criterion.check(epoch, logs, value, writers)

    def check_at_end(self) -> None:
        """Raise a MissingMetricError if training has ended and a metric never came."""
        self.watch.check_at_end()
        if self.criterion is not None:
            self.criterion.check_at_end()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resume, as data for strict JSON."""
        return {
            "patience": to_json(asdict(self.state)),
            "seen": self.watch.seen,
            "ending": None if self.criterion is None else self.criterion.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.state = PatienceState(**from_json(state["patience"]))
        self.watch.seen = state["seen"]
        if self.criterion is not None:
            self.criterion.load_state_dict(state["ending"])


class CriterionRun:
    """A criterion in a run: its state, the metrics that it needs, and time, steps and batches.

    Args:
        criterion: What the user wrote.
        owner: Name of the callback, for messages.

    Attributes:
        ranking: The metric that decides which epoch is best.
        goes_by_metric: Whether the criterion looks at a metric at all.

    Raises:
        ConfigError: If it is no criterion, or one that cannot work.
    """

    def __init__(self, criterion: Criterion, owner: str) -> None:
        check_criterion(criterion)
        self._criterion = criterion
        self._owner = owner
        self.ranking = ranking_metric_of(criterion)
        self.goes_by_metric = bool(criterion.monitors())
        self.start()

    def start(self) -> None:
        """Forget the last run."""
        self._resolved = self._criterion
        self._state = from_json(to_json(self._criterion.initial()))
        expected = {name or self.ranking.metric for name in self._criterion.expects()}
        others = expected - {self.ranking.metric}
        self._watches = [MetricWatch(name, self._owner) for name in sorted(others)]
        self._progress = Progress()

    def install_hooks(self, callback: Any) -> None:
        """Install only the batch hooks of a callback that the criterion needs."""
        hooks: dict[str, tuple[str, Any]] = {
            "steps": ("on_train_batch_end", self._on_train_batch_end),
            "batches": ("on_test_batch_end", self._on_test_batch_end),
        }
        for need in self._criterion.needs():
            name, hook = hooks[need]
            if getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name):
                hook = functools.partial(_both, getattr(callback, name), hook)
            setattr(callback, name, hook)

    @property
    def needs_batch_hooks(self) -> bool:
        """Whether the criterion looks at batches."""
        return bool(self._criterion.needs())

    def open_names(self) -> list[str]:
        """Return the metrics whose direction only the model knows."""
        pairs = self._criterion.monitors()
        return [name or self.ranking.metric for name, mode in pairs if mode == "auto"]

    def resolve_directions(self, direction: Callable[[str], Any]) -> None:
        """Fill in the directions that were left open."""
        self._resolved = resolve_directions(self._criterion, direction)

    def check(
        self, epoch: int, logs: Mapping[str, Any], ranked: float | None, writers: Writers
    ) -> Verdict:
        """Return whether to stop after an epoch.

        Args:
            epoch: Index of the epoch.
            logs: Its logs.
            ranked: The value of the metric that decides which epoch is best, or None.
            writers: Returns the names of whatever may still write a metric.
        """
        for watch in self._watches:
            watch.read(logs, writers)
        metrics = metrics_of(logs)
        if ranked is not None:
            metrics[self.ranking.metric] = ranked
        moment = self._progress.moment(epoch, metrics)
        self._state, verdict = self._resolved.check(self._state, moment)
        return verdict

    def check_at_end(self) -> None:
        """Raise a MissingMetricError if a metric never came."""
        for watch in self._watches:
            watch.check_at_end()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resume, as data for strict JSON."""
        return {
            "outline": self._criterion.outline(),
            "state": to_json(self._state),
            "measures": self._progress.state_dict(),
            "seen": [watch.seen for watch in self._watches],
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue from a state; a criterion that is composed differently starts without one."""
        if state is None or state["outline"] != self._criterion.outline():
            before = "arguments" if state is None else state["outline"]
            warn(
                f"{self._owner}: the criterion is {self._criterion.outline()} and was {before} "
                f"when training was interrupted, so it starts without memory."
            )
            return
        self._state = from_json(state["state"])
        self._progress.load_state_dict(state["measures"])
        for watch, seen in zip(self._watches, state["seen"], strict=True):
            watch.seen = seen

    def _on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._progress.end_batch(batch)

    def _on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._progress.end_test_batch(batch, logs)


def check_criterion(criterion: object, given: Mapping[str, Any] = EXCLUDED) -> None:
    """Raise a ConfigError unless an object is a criterion that may stand alone.

    Args:
        criterion: The object.
        given: The arguments that a criterion excludes.
    """
    names = [name for name, default in EXCLUDED.items() if given[name] != default]
    if names:
        raise ConfigError(
            "criterion= decides what is monitored and when to stop, so it excludes "
            f"{', '.join(names)}. Put them into the criterion, as in Patience(10, "
            "'val_loss').",
            see="criterion",
        )
    if not isinstance(criterion, Criterion):
        raise ConfigError(
            "criterion must be a criterion from keras_ratchet.policy, as in Patience(10) | "
            f"NotFinite(). Got: {criterion!r}.",
            see="criterion",
        )


def _both(first: Any, second: Any, batch: int, logs: Any = None) -> None:
    first(batch, logs)
    second(batch, logs)


def reason_to_hurry(callbacks: Iterable[Any], is_interrupted: bool) -> str:
    """Return why there is no time for a validation when training ends, or "".

    Args:
        callbacks: Those of the run; one of them may have stopped it for a signal or a deadline.
        is_interrupted: Whether Ctrl-C was pressed.
    """
    if is_interrupted:
        return "training ended with Ctrl-C"
    for callback in callbacks:
        stop = getattr(callback, "stop_reason", None)
        if getattr(stop, "kind", "") in ("signal", "deadline"):
            return f"the process has to stop ({stop})"
    return ""
