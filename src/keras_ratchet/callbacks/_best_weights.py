"""The weights of the best epoch, or of the best few: captured in a run, restored at its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_ratchet._distributed.one import One
from keras_ratchet._engine.averaging.averager import (
    Averager,
    OutOfTime,
    average,
    needs_data_message,
    preserve_non_weights,
)
from keras_ratchet._engine.averaging.moving_statistics import StatisticsData
from keras_ratchet._engine.averaging.top_k_weights import TopKWeights
from keras_ratchet._engine.averaging.validation import Validation, validation_of
from keras_ratchet._engine.capture.best_weights import BestWeights, weights_of
from keras_ratchet._engine.capture.device_copies import KeepOn
from keras_ratchet._engine.capture.ema import mark_not_swapped, scored_sources
from keras_ratchet._engine.capture.finite import FiniteWatch
from keras_ratchet._keras import fit
from keras_ratchet._keras.metrics import is_training_metric
from keras_ratchet._warn import warn
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.errors import ConfigError, MetricError
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.policy.soup import Average, check_average, refused
from keras_ratchet.types import AverageRecord, Model

_log = logging.getLogger("keras_ratchet")


class BestEpoch:
    """The weights of the best epoch.

    Args:
        metric: Name of the metric that decides which epoch is best.
        optimizer: Whether, or which, optimizer is captured too; see BestWeights.
        keep_on: Where they are kept.
    """

    def __init__(self, metric: str, optimizer: Any, keep_on: KeepOn) -> None:
        self._metric = metric
        self._optimizer = optimizer
        self._keep_on = keep_on
        self._has_warned = False
        self.ranks: Any = One()
        self.clear()

    @property
    def is_captured(self) -> bool:
        """Whether there is something to restore."""
        return self._best.is_captured

    def clear(self) -> None:
        """Free the memory."""
        self._best = BestWeights(self._optimizer, self._keep_on)
        self._watch = FiniteWatch(on_device=self._keep_on == "device")
        self._swap: Any = None
        self._sources: Mapping[int, Any] = {}

    def start(self, model: Model, swap: Any, ranks: Any) -> None:
        """Record which weights are not finite when a run starts.

        Args:
            model: The model.
            swap: The `SwapEMAWeights` of the callback list, or None.
            ranks: The coordinator.
        """
        self._swap = swap
        self.ranks = ranks
        self._watch.start(model)

    def on_validation_end(self, logs: Any) -> None:
        """Record what a validation of `fit` measured, before other callbacks may change it."""

    def finite_or_nan(self, model: Model, value: float) -> float:
        """Return the value of this epoch, or NaN if the weights that were scored are not finite."""
        bad = self._find_bad(model)
        found = self.ranks.gather(bad, "weights that are not finite")
        bad = next((path for path in found if path is not None), None)  # on whatever rank
        if bad is None:
            return value
        _log.warning("%s=%g counts as NaN: weight %s is not finite", self._metric, value, bad)
        return math.nan

    def _find_bad(self, model: Model) -> str | None:
        """Return the path of a weight that was scored and is not finite, or None."""
        if self._swap is not None:  # the last validation has scored others
            self._sources = scored_sources(model, self._swap, self._metric)
        return self._watch.find_bad(model, sources=self._sources)

    def capture_best(self, model: Model, epoch: int, value: float, order: Monitor) -> Any:
        """Capture the weights of an epoch that is the best so far.

        Args:
            model: The model.
            epoch: Index of the epoch.
            value: Its value, from `finite_or_nan`.
            order: What is better.

        Returns:
            The weights, in buffers that the next call overwrites.
        """
        is_checked = self._has_warned or self._metric.startswith("val_")
        if not is_checked and is_training_metric(model, self._metric):
            self._has_warned = True
            warn(
                f"EarlyStopping restores by {self._metric!r}, a mean over the batches of an "
                "epoch: it describes the weights during the epoch, not those at its end. "
                f"Monitor a validation metric such as 'val_{self._metric}' to restore the "
                "weights that score best."
            )
        return self._capture(model, epoch, value, order)

    def _capture(self, model: Model, epoch: int, value: float, order: Monitor) -> Any:
        return self._best.capture(model, self._sources)

    def capture_runner_up(self, model: Model, epoch: int, value: float, order: Monitor) -> None:
        """Capture the weights of an epoch that is not the best, if they are wanted."""

    def restore(
        self, model: Model, order: Monitor, skip_reason: str, hurry: Callable[[], str]
    ) -> AverageRecord | None:
        """Restore what was captured.

        Args:
            model: The model.
            order: What is better.
            skip_reason: Why no average is tried; "" to try one.
            hurry: Returns why there is no time for a validation, or "".

        Returns:
            What became of the average, if one was asked for.
        """
        self._best.restore(model)
        mark_not_swapped(self._swap)
        return None

    def state_dict(self, order: Monitor) -> dict[str, Any]:
        """Return what is captured, as plain data and arrays."""
        return self._best.state_dict()

    def load_state_dict(
        self, state: Mapping[str, Any], model: Model, epoch: int, value: float | None
    ) -> Any:
        """Take over what `state_dict` returned; return the weights, or None.

        Args:
            state: The state, of this class or of a subclass.
            model: The model.
            epoch: Index of the best epoch.
            value: Its value.
        """
        return self._best.load_state_dict(state, model)

    def constants(self, model: Model) -> dict[str, Any]:
        """Return which weights were not finite when the run started."""
        return self._watch.state_dict(model)

    def load_constants(self, state: Any, model: Model) -> None:
        """Take over what `constants` returned."""
        self._watch.load_state_dict(state, model)


@dataclass(frozen=True, slots=True)
class AverageOptions:
    """How EarlyStopping averages the best epochs; the arguments are described there.

    Args:
        kind: `average`.
        k: `average_k`.
        validation_data: As there.
        average_data: As there.

    Raises:
        ConfigError: If they cannot work.
    """

    kind: Average | None
    k: int
    validation_data: Any
    average_data: Any

    def __post_init__(self) -> None:
        check_average(self.kind, self.k)
        has_data = self.validation_data is not None or self.average_data is not None
        if self.kind is None and has_data:
            raise ConfigError(
                "validation_data and average_data apply to averages only. Pass average='soup' "
                "or average='mean' with them.",
                see="averages",
            )


class BestEpochsAverage(BestEpoch):
    """The weights of the best few epochs; their average is restored if it is better.

    Args:
        metric: Name of the metric that decides which epochs are best.
        optimizer: Whether, or which, optimizer is captured with the best one.
        keep_on: Where they are kept.
        kind: "soup" or "mean".
        options: Of the average.
    """

    def __init__(
        self,
        metric: str,
        optimizer: Any,
        keep_on: KeepOn,
        kind: Average,
        options: AverageOptions,
    ) -> None:
        self._kind = kind
        self._options = options
        self._refusal = ""
        self._validated: float | None = None
        self._validated_best: float | None = None
        super().__init__(metric, optimizer, keep_on)

    def clear(self) -> None:
        """Free the memory."""
        super().clear()
        self._top = TopKWeights(self._options.k, self._optimizer, self._keep_on)
        self._best = self._top.best
        self._validation: Validation | None = None
        self._data: StatisticsData | None = None

    def start(self, model: Model, swap: Any, ranks: Any) -> None:
        """Find out what averages are measured on: by default what `fit` validates on.

        Raises:
            ConfigError: If nothing can be measured.
        """
        super().start(model, swap, ranks)
        if weights_of(model) is None:
            raise ConfigError(
                "average= needs a Keras model, whose weights are variables.", see="averages"
            )
        fits = fit.evaluate_arguments()
        self._validation = validation_of(self._options.validation_data, fits)
        self._validation.check(model)
        if self._options.average_data is not None:
            size = fits.get("batch_size") or 32
            self._data = StatisticsData(self._options.average_data, size)

    def on_validation_end(self, logs: Any) -> None:
        """Record what a validation of `fit` measured, before other callbacks may change it."""
        self._validated = metrics_of(logs).get(self._metric.removeprefix("val_"))

    def _capture(self, model: Model, epoch: int, value: float, order: Monitor) -> Any:
        self._validated_best = self._validated
        self._add(model, epoch, value, order)
        return self._best.weights

    def capture_runner_up(self, model: Model, epoch: int, value: float, order: Monitor) -> None:
        """Capture the weights of an epoch that is not the best if it is among the best few."""
        if not self.is_captured or not self._top.wants(value, order):
            return
        bad = self._find_bad(model)
        if not self.ranks.any(bad is not None, "weights not finite"):
            self._add(model, epoch, value, order)

    def _add(self, model: Model, epoch: int, value: float, order: Monitor) -> None:
        self._top.capture(model, self._sources, epoch, value, order)
        if (
            self._data is None
            and not self._refusal
            and (found := self._top.moving_statistics(model))
        ):
            self._refuse(needs_data_message(found[0]))  # early, not after the whole training

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        self._top.drop_runners_up()
        message = f"average={self._kind!r} is not possible: {reason}."
        warn(f"{message} The best epoch will be restored.")

    def restore(
        self, model: Model, order: Monitor, skip_reason: str, hurry: Callable[[], str]
    ) -> AverageRecord:
        """Restore the best epoch's weights; then try averages, unless there is a reason not to.

        As in `BestEpoch.restore`.
        """
        super().restore(model, order, skip_reason, hurry)
        best = self._top.members(order)[0].candidate
        reason = self._refusal or skip_reason or hurry()
        if not reason:
            try:
                return self._average(model, order, hurry)
            except OutOfTime:
                reason = hurry()
            except MetricError as error:
                reason = str(error)
                warn(f"average={self._kind!r}: {refused(self._kind, order, best, reason)}")
            super().restore(model, order, skip_reason, hurry)
        return refused(self._kind, order, best, reason)

    def _average(self, model: Model, order: Monitor, hurry: Callable[[], str]) -> AverageRecord:
        assert self._validation is not None
        members = self._top.members(order)
        candidates = [member.candidate for member in members]
        is_fits = self._validation.is_fits and self._swap is None
        is_own = is_fits and self._validated_best == self._top.value
        is_measured = not self.ranks.any(not is_own, "whether the best epoch is measured")
        with preserve_non_weights(model):
            averager = Averager(
                model,
                members,
                order,
                self._validation,
                watch=self._watch,
                data=self._data,
                cut=lambda: bool(hurry()),
                ranks=self.ranks,
            )
            best = candidates[0].value if is_measured else None
            record = average(averager, self._kind, candidates, order, best)
        mark_not_swapped(self._swap)
        return record

    def state_dict(self, order: Monitor) -> dict[str, Any]:
        """Return what is captured, as plain data and arrays."""
        state = self._top.state_dict(order)
        return {**state, "tested": self._validated_best, "refusal": self._refusal} if state else {}

    def load_state_dict(
        self, state: Mapping[str, Any], model: Model, epoch: int, value: float | None
    ) -> Any:
        """Take over a state, of this class or of `BestEpoch`; return the weights, or None."""
        if not state:
            return None
        self._validated_best = state.get("tested")
        self._refusal = state.get("refusal", "")
        own: dict[str, Any] = {"epoch": epoch, "value": value, "others": []}
        best = self._top.load_state_dict({**own, **state}, model)
        if self._refusal:
            self._top.drop_runners_up()
        return best


def best_epoch_of(
    metric: str, optimizer: Any, keep_on: KeepOn, options: AverageOptions
) -> BestEpoch:
    """Return what captures weights with these options."""
    if options.kind is None:
        return BestEpoch(metric, optimizer, keep_on)
    return BestEpochsAverage(metric, optimizer, keep_on, options.kind, options)
