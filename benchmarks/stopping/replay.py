"""A recorded run, replayed: where each rule stops and what it ends with.

The decisions are those of the package: criteria and their judge, the order of a Monitor, the
places among the best k, and what an average accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_ratchet._formats.numeric import mean_of
from keras_ratchet.policy import Criterion, Moment, Monitor
from keras_ratchet.policy.criterion import ranking_metric_of, resolve_directions
from keras_ratchet.policy.monitor import Mode
from keras_ratchet.policy.soup import Average, Candidate, choose, order, place_for
from keras_ratchet.types import AverageRecord
from stopping.records import Record
from stopping.rules import Rule
from stopping.tasks import Split

_ROUNDING = 1e-6  # relative: what float32 leaves of a loss that is added up in another order


def stops_after(criterion: Criterion, moments: Sequence[Moment]) -> int:
    """Return after how many epochs a criterion stops; all of them if it never does."""
    rule = resolve_directions(criterion, lambda name: None)
    state = rule.initial()
    for moment in moments:
        state, verdict = rule.check(state, moment)
        if verdict:
            return moment.position.epoch
    return len(moments)


def best_of(values: Sequence[float], monitor: Monitor, strict: bool = False) -> int:
    """Return the index of the best value.

    Args:
        values: By epoch.
        monitor: What is better.
        strict: Whether `min_delta` decides, as in `keras.callbacks.EarlyStopping`.
    """
    beats = monitor.improves if strict else monitor.beats
    index, best = 0, None
    for i, value in enumerate(values):
        if beats(value, best):
            index, best = i, value
    return index


def kept(values: Sequence[float], k: int, monitor: Monitor) -> list[int]:
    """Return the epochs that are kept for an average while values come in, the best first."""
    epochs: list[int] = []
    for epoch, value in enumerate(values):
        place = place_for(value, [values[e] for e in epochs], epochs, k, monitor)
        if place is not None:
            epochs[place : place + 1] = [epoch]
    return [epochs[i] for i in order([values[e] for e in epochs], epochs, monitor)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule ended with in one run.

    Attributes:
        rule: Its name.
        epochs: How many epochs were trained in all.
        loss: On test data.
        accuracy: On test data; None for a regression.
        accepted: Whether an average was accepted; None where none was asked for.
        val_ratio: Validation loss of what the average ended with, relative to that of the best
            epoch, both measured here again (in float64, without Keras).
    """

    rule: str
    epochs: float
    loss: float
    accuracy: float | None
    accepted: bool | None = None
    val_ratio: float | None = None


@dataclass(slots=True)
class Replay:
    """One run and what is needed to try its averages.

    Attributes:
        record: The run.
        joined: The run on training and validation data.
        split: Its data.
        trainer: Which measures weights.
    """

    record: Record
    joined: Record
    split: Split
    trainer: Any
    _stops: dict[Criterion, int] = field(default_factory=dict)
    _scores: dict[tuple[int, ...], float] = field(default_factory=dict)
    _moments: list[Moment] = field(default_factory=list)

    def outcomes(self, rules: Sequence[Rule]) -> list[Outcome]:
        """Return what each rule ends with; rules on a metric that the run has not are left out."""
        self._moments = self.record.moments()
        metrics = self.record.metrics
        return [
            self._outcome(rule)
            for rule in rules
            if ranking_metric_of(rule.criterion).metric in metrics
        ]

    def _outcome(self, rule: Rule) -> Outcome:
        stop = self._stop(rule.criterion)
        monitor = _monitor(rule.criterion)
        values = [float(v) for v in self.record.metrics[monitor.name][:stop]]
        if rule.average is not None:
            return self._averaged(rule, stop, values, monitor)
        best = best_of(values, monitor, rule.restores == "best by min_delta")
        if rule.restores == "last":
            return self._at(rule, stop, self.record, stop - 1)
        if rule.restores == "refit, epochs":
            return self._at(rule, stop + best + 1, self.joined, best)
        if rule.restores == "refit, steps":
            half, whole = len(self.split.train[0]), len(self.split.joined().train[0])
            epochs = max(round((best + 1) * half / whole), 1)
            return self._at(rule, stop + epochs, self.joined, epochs - 1)
        return self._at(rule, stop, self.record, best)

    def _stop(self, criterion: Criterion) -> int:
        if criterion not in self._stops:
            self._stops[criterion] = stops_after(criterion, self._moments)
        return self._stops[criterion]

    def _at(self, rule: Rule, trained: int, record: Record, epoch: int) -> Outcome:
        accuracy = record.test.get("accuracy")
        return Outcome(
            rule.name,
            trained,
            float(record.test["loss"][epoch]),
            None if accuracy is None else float(accuracy[epoch]),
        )

    def _averaged(self, rule: Rule, stop: int, values: list[float], monitor: Monitor) -> Outcome:
        epochs = kept(values, rule.k, monitor)
        record = self.average(rule.average or "soup", epochs, values, monitor)
        members = tuple(epochs[i] for i in record.indices)
        weights = self._mean(members)
        ratio = _loss64(weights, self.split.val) / _loss64(self._mean((epochs[0],)), self.split.val)
        if not (record.value <= record.best and ratio <= 1 + _ROUNDING):
            raise AssertionError(f"{rule.name}: validation is worse by {ratio - 1:g}: {record}")
        test = self.trainer.losses(weights, self.split.test)
        return Outcome(
            rule.name, stop, test["loss"], test.get("accuracy"), len(members) > 1, float(ratio)
        )

    def average(
        self, kind: Average, epochs: list[int], values: Sequence[float], monitor: Monitor
    ) -> AverageRecord:
        """Return what the package's rule accepts of these epochs, the best of them first."""
        candidates = [Candidate(f"epoch {e + 1}", values[e]) for e in epochs]

        def score(indices: tuple[int, ...]) -> float:
            return self._score(tuple(epochs[i] for i in indices))

        return choose(kind, candidates, score((0,)), score, monitor)

    def _score(self, epochs: tuple[int, ...]) -> float:
        if epochs not in self._scores:
            measured = self.trainer.losses(self._mean(epochs), self.split.val)
            self._scores[epochs] = measured["loss"]
        return self._scores[epochs]

    def _mean(self, epochs: tuple[int, ...]) -> list[np.ndarray]:
        return [mean_of(values[e] for e in epochs) for values in self.record.weights]


def _monitor(criterion: Criterion) -> Monitor:
    judge = ranking_metric_of(criterion)
    mode: Mode = "max" if judge.mode == "max" else "min"
    return Monitor(judge.metric, mode, getattr(criterion, "min_delta", 0.0))


def _loss64(weights: Sequence[np.ndarray], data: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the loss of a multilayer perceptron, by hand: nothing that chose takes part."""
    x, y = data[0].astype("float64"), data[1]
    layers = [w.astype("float64") for w in weights]
    for i in range(0, len(layers), 2):
        x = x @ layers[i] + layers[i + 1]
        x = np.maximum(x, 0) if i + 2 < len(layers) else x
    if y.ndim == 2:
        return float(np.square(x - y).mean())
    x = x - x.max(axis=1, keepdims=True)
    return float((np.log(np.exp(x).sum(axis=1)) - x[np.arange(len(y)), y]).mean())
