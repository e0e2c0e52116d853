"""`soup` and `mean`: averages of checkpoints on disk."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from keras_ratchet._engine.averaging.averager import Averager, Member, average, preserve_non_weights
from keras_ratchet._engine.averaging.moving_statistics import StatisticsData
from keras_ratchet._engine.averaging.validation import Validation, validation_of
from keras_ratchet._engine.capture.best_weights import (
    VariableCopies,
    all_weights_of,
    preserved,
    weights_of,
)
from keras_ratchet._engine.capture.model_state import finalize
from keras_ratchet._keras.metrics import metric_direction
from keras_ratchet._storage import anywhere
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError, CorruptError, LoadError, UnknownDirectionError
from keras_ratchet.loading import accept, assign_weights
from keras_ratchet.policy.monitor import Mode, Monitor
from keras_ratchet.policy.retention import Ranking, of_newest_runs, ranking_of
from keras_ratchet.policy.soup import (
    Average,
    Candidate,
    check_average,
    distinct,
    order,
    place_for,
    unmeasured,
)
from keras_ratchet.types import AverageRecord, CheckpointInfo, Model

_log = logging.getLogger("keras_ratchet")
_SUFFIXES = (".keras", ".h5")
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def soup(
    model: Model,
    checkpoints: Paths,
    validation_data: Any,
    *,
    k: int = 5,
    monitor: str | None = None,
    mode: str = "auto",
    batch_size: int | None = None,
    steps: int | None = None,
    average_data: Any = None,
) -> AverageRecord:
    """Assign the greedy soup of saved weights to a model: a mean better than the best of them.

    From the best checkpoint to the worst, each is added to the mean and stays if that improves
    the value on the validation data (Wortsman et al. 2022). Digests are compared before anything
    is loaded. The optimizer is left alone; if anything fails, so are the weights.

    Args:
        model: A built and compiled model, in which averages are tried and which ends with the best.
        checkpoints: A directory, of which the best are taken, or paths of files.
        validation_data: As for `model.evaluate`: `(x, y)`, `(x, y, sample_weight)` or a
            dataset; or a function of the model that returns the value.
        k: How many checkpoints are candidates; `k` copies of the weights are in memory.
        monitor: The metric; by default the one that most of the checkpoints were saved by.
        mode: "min", "max", or "auto": as the checkpoints say, or the model.
        batch_size: As in `model.evaluate`.
        steps: As in `model.evaluate`.
        average_data: Inputs from which moving statistics (BatchNormalization) are estimated again
            for each average, such as `x_train` or a part of it; needed if the model has them.

    Returns:
        What was tried, what was accepted, and why.

    Raises:
        ConfigError: If the model has moving statistics and there is no `average_data`, or an
            argument cannot work.
        LoadError: If a checkpoint cannot be loaded, or they are of different models.
        MetricError: If the metric is not among the model's.

    Example:
        ```python
        model = keras_ratchet.load_model("run")  # the best one
        record = keras_ratchet.soup(model, "run", (x_val, y_val))
        print(record.accepted, record)
        model.save("soup.keras")
        ```
    """
    return _CheckpointAverager(model, checkpoints, k, monitor, mode).run(
        "soup", validation_of(validation_data, {}, batch_size, steps), average_data, batch_size
    )


def mean(
    model: Model,
    checkpoints: Paths,
    validation_data: Any = None,
    *,
    k: int = 5,
    monitor: str | None = None,
    mode: str = "auto",
    batch_size: int | None = None,
    steps: int | None = None,
    average_data: Any = None,
) -> AverageRecord:
    """Assign the mean of the best saved weights to a model.

    With validation data the model gets the mean only if it is better than the best checkpoint
    alone. Without, it gets the mean of the best according to their manifests, unmeasured.

    Args:
        model: A built model, which ends with the mean.
        checkpoints: As in `soup`.
        validation_data: As in `soup`, or None.
        k: The largest number of checkpoints to average.
        monitor: As in `soup`.
        mode: As in `soup`.
        batch_size: As in `soup`.
        steps: As in `soup`.
        average_data: As in `soup`.

    Returns:
        What was done, and why.

    Raises:
        ConfigError: As in `soup`, or if it is unknown which checkpoints are best.
        LoadError: If a checkpoint cannot be loaded, or they are of different models.
        MetricError: If the metric is not among the model's.

    Example:
        ```python
        model = keras_ratchet.load_model("run")
        record = keras_ratchet.mean(model, "run", k=3)  # not measured
        record = keras_ratchet.mean(model, ["a.keras", "b.keras"], (x_val, y_val))
        ```
    """
    measured = validation_data is not None
    validation = validation_of(validation_data, {}, batch_size, steps) if measured else None
    return _CheckpointAverager(model, checkpoints, k, monitor, mode).run(
        "mean", validation, average_data, batch_size
    )


class _CheckpointAverager:
    """Finds the checkpoints, loads the best of them and averages them in the model."""

    def __init__(
        self, model: Model, checkpoints: Paths, k: int, monitor: str | None, mode: str
    ) -> None:
        check_average(None, k)
        if not weights_of(model):
            raise ConfigError(
                "The model has no weights yet. Build it first: model.build(shape).", see="not-built"
            )
        self._model = model
        self._k = k
        self._named = not isinstance(checkpoints, str | os.PathLike)
        infos = _found(checkpoints)
        self._ranking = _ranking(infos, monitor, mode, model)
        self._infos = self._candidates(infos)
        self._kept: list[str] | None = None  # the weights that the files do not hold
        name, better = self._ranking.metrics[0]
        self._monitor = Monitor(name, better)

    def _candidates(self, infos: list[CheckpointInfo]) -> list[CheckpointInfo]:
        """Return the checkpoints to choose from: the ranked ones, or all if they are not ranked."""
        ranked = distinct(
            [i for i in self._ranking.sort(infos) if self._ranking.beats(i.metrics, None)]
        )
        self._is_ranked = bool(ranked) and (not self._named or len(ranked) == len(infos))
        return ranked if self._is_ranked else infos

    def run(
        self,
        kind: Average,
        validation: Validation | None,
        data: Any,
        batch_size: int | None,
    ) -> AverageRecord:
        """Make the average of `kind`."""
        if validation is not None:
            validation.check(self._model)
        statistics = None if data is None else StatisticsData(data, batch_size or 32)
        with _unless_it_fails(self._model), preserve_non_weights(self._model):
            members = self._members(validation)
            averager = Averager(
                self._model,
                members,
                self._monitor,
                validation or Validation({}, lambda model: math.nan),
                data=statistics,
            )
            if reason := averager.refusal():
                raise ConfigError(f"No average: {reason}.", see="average-members")
            found = self._average(averager, kind, members, validation)
        _log.info("%s of %d checkpoints: %s", kind, len(members), found.reason)
        return found

    def _average(
        self,
        averager: Averager,
        kind: Average,
        members: Sequence[Member],
        validation: Validation | None,
    ) -> AverageRecord:
        candidates = [member.candidate for member in members]
        if validation is None:
            averager.assign_mean(len(members))
            return unmeasured(kind, self._monitor.name, candidates)
        best = None if self._is_ranked else candidates[0].value
        return average(averager, kind, candidates, self._monitor, best)

    def _members(self, validation: Validation | None) -> list[Member]:
        """Load the best `k`; the model is left with the weights of the last one loaded."""
        if self._is_ranked:
            return self._the_first(self._infos)
        if validation is not None:
            return self._the_best(self._infos, validation)
        if len(self._infos) > self._k:
            raise ConfigError(
                f"There are {len(self._infos)} checkpoints, but nothing says which are the "
                f"best {self._k}. Pass validation_data=..., or k={len(self._infos)} for all.",
                see="average-members",
            )
        return self._the_first(self._infos)

    def _the_first(self, infos: Sequence[CheckpointInfo]) -> list[Member]:
        """Load the first `k` that are not corrupt."""
        members: list[Member] = []
        for info in infos:
            if len(members) < self._k and self._load(info):
                value = info.metrics.get(self._monitor.name, math.nan)
                members.append(Member(Candidate(info.name, value), self._copies().buffers))
        return _at_least_one(members)

    def _the_best(self, infos: Sequence[CheckpointInfo], validation: Validation) -> list[Member]:
        """Load and measure all, keeping the best `k`."""
        kept: list[tuple[Candidate, VariableCopies]] = []
        ages: list[float] = []
        for age, info in enumerate(infos):
            if not self._load(info):
                continue
            value = validation.value(self._model, self._monitor.name)
            values = [candidate.value for candidate, _ in kept]
            place = place_for(value, values, ages, self._k, self._monitor)
            if place is not None:
                spare = kept[place][1] if place < len(kept) else VariableCopies()
                kept[place : place + 1] = [(Candidate(info.name, value), self._copies(spare))]
                ages[place : place + 1] = [float(age)]
        ranks = order([candidate.value for candidate, _ in kept], ages, self._monitor)
        return _at_least_one([Member(kept[i][0], kept[i][1].buffers) for i in ranks])

    def _load(self, info: CheckpointInfo) -> bool:
        """Load a checkpoint into the model; return False for a corrupt one found in a directory."""
        try:
            path = accept(info)
        except CorruptError as error:
            if self._named:
                raise
            warn(f"{error} It is not part of the average.")
            return False
        try:
            with warnings.catch_warnings():  # the optimizer's variables are left alone
                warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
                kept = assign_weights(self._model, path)
        except LoadError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise LoadError(
                f"{path!r} does not fit the model: {error}", see="does-not-fit"
            ) from error
        self._check_alike(info, kept)
        return True

    def _check_alike(self, info: CheckpointInfo, kept: list[str]) -> None:
        """Raise a LoadError unless the file holds the same weights as those before it."""
        first, self._kept = self._kept, kept
        if first not in (None, kept):
            differing = sorted(set(first or ()) ^ set(kept))
            raise LoadError(
                f"{info.name!r} does not hold the same weights as the others: {differing[0]!r} "
                "was frozen when some of them were saved. Pass those that hold the same.",
                see="average-members",
            )

    def _copies(self, spare: VariableCopies | None = None) -> VariableCopies:
        copies = spare or VariableCopies()
        copies.capture(all_weights_of(self._model), {})
        return copies


def _found(checkpoints: Paths) -> list[CheckpointInfo]:
    """Return the checkpoints that can be averaged.

    Raises:
        LoadError: If there are none, or they are of different models.
    """
    if isinstance(checkpoints, str | os.PathLike):
        where = anywhere.path_or_url(checkpoints, "checkpoints")
        if os.path.isfile(where):
            raise ConfigError(
                f"checkpoints must be a directory or a list of files. Got the file {where!r}.",
                see="average-members",
            )
        infos = of_newest_runs(
            [info for info in anywhere.checkpoints(where) if not info.is_directory]
        )
    else:
        infos = [anywhere.checkpoint_at(path) for path in checkpoints]
    infos = [info for info in infos if info.name.endswith(_SUFFIXES)]
    if not infos:
        raise LoadError(f"there are no checkpoints to average in {checkpoints!r}.")
    models = {info.fingerprint: info.name for info in infos if info.fingerprint}
    if len(models) > 1:
        raise LoadError(
            f"these checkpoints belong to different models: {', '.join(models.values())}. Pass "
            "those of one model.",
            see="average-members",
        )
    return infos


def _ranking(infos: list[CheckpointInfo], monitor: str | None, mode: str, model: Model) -> Ranking:
    """Return the ranking by one metric."""
    known = ranking_of(infos)
    name = monitor or (known.metrics[0][0] if known.metrics else "val_loss")
    said = {n: m for info in infos for n, m in info.ranking}
    better = said.get(name) or metric_direction(model, name) if mode == "auto" else mode
    if better not in ("min", "max"):
        raise UnknownDirectionError(
            f"It is unknown whether a small or a large {name!r} is better. Pass mode='min' "
            f"or mode='max'. Got: {mode!r}."
        )
    direction: Mode = "min" if better == "min" else "max"
    return Ranking(((name, direction),))


def _at_least_one(members: list[Member]) -> list[Member]:
    if not members:
        raise CorruptError("none of the checkpoints can be used: each is corrupt or scores NaN.")
    return members


@contextlib.contextmanager
def _unless_it_fails(model: Model) -> Iterator[None]:
    """Restore the weights if the block fails, and the optimizer's variables in any case."""
    weights = VariableCopies()
    weights.capture(all_weights_of(model), {})
    with preserved(getattr(getattr(model, "optimizer", None), "variables", ())):
        try:
            yield
        except BaseException:
            weights.restore()
            finalize(model)
            raise
