"""Means of weights, tried in the model itself, so that the host holds only the members."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from keras_ratchet import _backends
from keras_ratchet._distributed.one import One
from keras_ratchet._engine.averaging.moving_statistics import StatisticsData, reestimate
from keras_ratchet._engine.averaging.validation import Validation
from keras_ratchet._engine.capture import rng
from keras_ratchet._engine.capture.best_weights import all_weights_of, preserved, weights_of
from keras_ratchet._engine.capture.finite import FiniteWatch
from keras_ratchet._engine.capture.model_state import finalize, streams_beyond
from keras_ratchet._formats.numeric import is_float, mean_of
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.policy.soup import Average, Candidate, choose
from keras_ratchet.types import AverageRecord, Model


@dataclass(frozen=True, slots=True)
class Member:
    """Weights that may go into an average, in the order of `model.weights`."""

    candidate: Candidate
    values: Sequence[NDArray[Any]]


def moving_statistics(
    variables: Sequence[Any], members: Sequence[Sequence[NDArray[Any]]]
) -> list[int]:
    """Return the indices of non-trainable float weights that differ between members.

    Those are moving statistics; frozen weights are the same in all members.

    Args:
        variables: The model's weights.
        members: Their values, once for each member.
    """
    return [
        i
        for i, variable in enumerate(variables)
        if not variable.trainable
        and is_float(members[0][i].dtype)
        and any(values[i].tobytes() != members[0][i].tobytes() for values in members[1:])
    ]


class Averager:
    """Assigns means of members to a model and measures them.

    Trainable floats are averaged. Integers, booleans and seeds are those of the first member,
    and moving statistics are estimated again.

    Args:
        model: The model; its weights are overwritten.
        members: From the best to the worst.
        monitor: The metric.
        validation: What it is measured on.
        watch: Knows which weights were not finite from the start.
        data: What moving statistics are estimated from, or None.
        cut: Returns whether to stop trying.
        ranks: The coordinator: a value is the mean over the ranks.
    """

    def __init__(
        self,
        model: Model,
        members: Sequence[Member],
        monitor: Monitor,
        validation: Validation,
        *,
        watch: FiniteWatch | None = None,
        data: StatisticsData | None = None,
        cut: Callable[[], bool] = lambda: False,
        ranks: Any = None,
    ) -> None:
        self._ranks = ranks or One()
        self._model = model
        self._members = members
        self._monitor = monitor
        self._validation = validation
        self._watch = watch or FiniteWatch()
        self._data = data
        self._cut = cut
        self._variables = all_weights_of(model)
        self.moving = moving_statistics(self._variables, [member.values for member in members])
        self._statistics: dict[tuple[int, ...], list[NDArray[Any]]] = {}

    def refusal(self) -> str | None:
        """Return why no average of these members can be taken, or None."""
        if not self.moving or self._data is not None:
            return None
        return needs_data_message(self._variables[self.moving[0]])

    def assign(self, indices: tuple[int, ...]) -> None:
        """Assign the mean of these members, with the statistics that were scored."""
        backend = _backends.current()
        for i, variable in enumerate(self._variables):
            first = self._members[indices[0]].values[i]
            if variable.trainable and is_float(first.dtype):
                first = mean_of(self._members[j].values[i] for j in indices)
            backend.assign(variable, first)
        for i, value in zip(self.moving, self._statistics.get(indices, ()), strict=False):
            backend.assign(self._variables[i], value)
        finalize(self._model)

    def score(self, indices: tuple[int, ...]) -> float:
        """Return the value of the mean of these members; NaN if one of its weights is not finite.

        Raises:
            OutOfTime: If there is no time for it.
        """
        if self._cut():
            raise OutOfTime
        self.assign(indices)
        if self.moving and len(indices) > 1:
            self._estimate(indices)
        if self._ranks.any(self._watch.find_bad(self._model) is not None, "weights not finite"):
            return float("nan")
        values = self._ranks.gather(self._value(), "value of an average")
        same = all(value == values[0] for value in values)
        return values[0] if same else sum(values) / len(values)

    def _value(self) -> float:
        def measure() -> float:
            return self._validation.value(self._model, self._monitor.name)

        value: float = self._ranks.together(measure, "validation of an average")
        return value

    def assign_mean(self, count: int) -> None:
        """Assign the mean of the first members, without measuring it."""
        indices = tuple(range(count))
        self.assign(indices)
        if self.moving:
            self._estimate(indices)

    def _estimate(self, indices: tuple[int, ...]) -> None:
        """Estimate the statistics of a mean; drop those of means that it does not extend."""
        assert self._data is not None
        reestimate(self._model, self._data)
        backend = _backends.current()
        found = [backend.view(self._variables[i]).copy() for i in self.moving]
        kept = {key: value for key, value in self._statistics.items() if set(key) < set(indices)}
        self._statistics = {**kept, indices: found}
        self.assign(indices)  # whatever else a layer has changed in training mode


class OutOfTime(Exception):
    """There is no time to try more averages."""


def average(
    averager: Averager,
    kind: Average,
    candidates: Sequence[Candidate],
    monitor: Monitor,
    best: float | None = None,
) -> AverageRecord:
    """Assign the best average, or the best member if no average is better.

    Args:
        averager: Assigns and measures.
        kind: "soup" or "mean".
        candidates: Names and values of the members, from the best to the worst.
        monitor: What is better.
        best: The value of the first member on the validation data, or None to measure it.

    Returns:
        What was tried and accepted.

    Raises:
        OutOfTime: If there was no time; the model's weights are then undefined.
    """
    if len(candidates) > 1 and best is None:
        best = averager.score((0,))
    known = candidates[0].value if best is None else best
    record = choose(kind, candidates, known, averager.score, monitor)
    averager.assign(record.indices)
    return record


def needs_data_message(variable: Any) -> str:
    """Return the sentence for a model with moving statistics and no data to estimate them."""
    return (
        f"the model has moving statistics ({variable.path}), which do not fit a mean of "
        "weights. Pass average_data=x_train (or a part of it) to re-estimate them"
    )


@contextlib.contextmanager
def preserve_non_weights(model: Model) -> Iterator[None]:
    """Restore, at the end, what evaluating changes besides weights: metrics, seeds, streams."""
    weights = {id(variable) for variable in weights_of(model) or ()}
    metrics = getattr(model, "metrics_variables", ())
    others = [*model.variables, *metrics, *streams_beyond(model)]
    streams = rng.capture()
    with preserved(variable for variable in others if id(variable) not in weights):
        try:
            yield
        finally:
            rng.restore(streams)
