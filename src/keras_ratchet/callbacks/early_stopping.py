"""Stop when a metric no longer improves, and restore the best weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import keras

from keras_ratchet._distributed import Coordinator
from keras_ratchet._engine.capture.best_weights import check_optimizer
from keras_ratchet._engine.capture.device_copies import KeepOn, check_keep_on
from keras_ratchet._engine.capture.ema import reset_averages
from keras_ratchet._keras.callbacks import print_message
from keras_ratchet._keras.ema import finish_swap
from keras_ratchet._warn import warn
from keras_ratchet.callbacks import _journal
from keras_ratchet.callbacks._best_weights import AverageOptions, BestEpoch, best_epoch_of
from keras_ratchet.callbacks._drop_in import stand_in
from keras_ratchet.callbacks._ranks import mean_of_ranks
from keras_ratchet.callbacks._stop_rule import (
    EXCLUDED,
    StopRule,
    check_criterion,
    reason_to_hurry,
)
from keras_ratchet.callbacks.monitor_callback import MonitorCallback
from keras_ratchet.errors import ConfigError, NonFiniteError
from keras_ratchet.policy.criterion import Criterion, from_json, ranking_metric_of, to_json
from keras_ratchet.policy.monitor import DeltaMode, NanRule
from keras_ratchet.policy.patience import Patience, PatienceRule
from keras_ratchet.policy.soup import Average
from keras_ratchet.types import AverageRecord, StopReason, Verdict

_log = logging.getLogger("keras_ratchet")


@stand_in
class EarlyStopping(MonitorCallback, keras.callbacks.EarlyStopping):
    """Stop training when a monitored metric has stopped improving.

    Takes every argument of `keras.callbacks.EarlyStopping`, in its place and with its meaning.
    docs/differences.md lists where the two differ on purpose.

    Args:
        monitor: Key of the metric in the logs.
        min_delta: How much better a value must be to reset the patience. The weights that are
            restored are those of the best value, by however small a margin.
        patience: Number of checks without an improvement after which training stops.
        verbose: 1 prints a line when training stops and when weights are restored.
        mode: "min", "max" or "auto".
        baseline: Training stops unless the metric beats this value within `patience` checks.
        restore_best_weights: Whether the model ends with the weights of its best epoch: after
            an early stop, after the last epoch, after another callback stopped training and after
            Ctrl-C; inside `keras_ratchet.guard` after any exception too.
        start_from_epoch: Index of the first epoch whose metric is checked.
        min_delta_mode: "absolute", or "relative" to the magnitude of the best value.
        nan: What a NaN does: "ignore" (no improvement, counts toward patience), "stop", or
            "raise" a NonFiniteError after the best weights were restored.
        restore_optimizer: Whether the optimizer's slots, iterations and learning rate are
            restored with the weights. In a custom loop pass its optimizer (Keras or torch).
        keep_on: Where the best weights are kept: "host", or "device" for where the model's are,
            from where nothing has to cross the bus; there has to be room (docs/saving.md).
        criterion: When to stop, composed from `keras_ratchet.policy` (docs/criteria.md), instead
            of `monitor`, `patience`, `min_delta`, `mode`, `baseline` and `nan`:
            `Patience(10) | Reaches("val_accuracy", 0.99) | AfterSeconds(3600)`. The first metric
            in it, from left to right, decides which weights are restored ("val_loss" if there is
            none).
        average: What is restored instead of the best epoch's weights if its validation value is
            better (docs/averages.md): "soup", the mean of some of the `average_k` best epochs,
            found greedily in at most `average_k - 1` validations when training ends; "mean", the
            mean of all of them, in one validation. After Ctrl-C, an exception or a preemption the
            best epoch is restored without validations.
        average_k: How many epochs are kept for that (where `keep_on` says), at least 2.
        validation_data: What averages are measured on: by default what `fit` validates on; else
            data as `fit` takes it, or a function of the model that returns the value.
        average_data: Inputs, such as `x_train` or a part of it, from which moving statistics
            (BatchNormalization) are estimated again for each average. Without them a model that
            has such statistics is not averaged.
        coordinator: How processes agree, see `keras_ratchet.Coordinator`.

    Attributes:
        best: The value to improve on by `min_delta`, or None.
        best_value: The best value, whose weights are restored, or None.
        best_epoch: Index, from 0, of the epoch of `best_value` (0 if there is none).
        best_weights: The weights of that epoch while training runs, else None. Buffers that
            are overwritten in place: copy them if you need them later. With `keep_on="device"`
            they are tensors of the backend.
        average_record: An `AverageRecord` of what was averaged and why, once training has ended
            with `average`, else None.
        wait: Checks since the last improvement.
        stopped_epoch: Index of the epoch after which training was stopped, or 0.
        stop_reason: A `StopReason` once this callback has stopped training, else None.

    Raises:
        ConfigError: If an argument cannot work.
        MissingMetricError: At the end of the first epoch, if the metric is not in the logs and
            cannot appear later; for a `val_` metric after the first validation without it; at the
            end of training if a callback of yours might have added it and did not.
        NonFiniteError: If the metric is NaN and `nan="raise"`.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        *,
        min_delta_mode: DeltaMode = "absolute",
        nan: NanRule = "ignore",
        restore_optimizer: Any = False,
        keep_on: KeepOn = "host",
        criterion: Criterion | None = None,
        average: Average | None = None,
        average_k: int = 5,
        validation_data: Any = None,
        average_data: Any = None,
        coordinator: Coordinator | None = None,
    ) -> None:
        if criterion is not None:
            given = (monitor, min_delta, patience, mode, baseline, min_delta_mode, nan)
            self._check_criterion(criterion, dict(zip(EXCLUDED, given, strict=True)))
            ranking = ranking_metric_of(criterion)
            monitor, mode = ranking.metric, ranking.mode
        self._stop_rule = StopRule(monitor, criterion, type(self).__name__)
        super().__init__(
            monitor,
            mode,
            None,
            min_delta,
            min_delta_mode=min_delta_mode,
            nan=nan,
            coordinator=coordinator,
        )
        Patience(patience, monitor, baseline=baseline, start_from_epoch=start_from_epoch)  # checks
        self.criterion = criterion
        self.patience = patience
        self.baseline = baseline
        self.start_from_epoch = start_from_epoch
        self.verbose = verbose
        self.restore_best_weights = restore_best_weights
        self.restore_optimizer = restore_optimizer
        check_keep_on(keep_on)
        self.keep_on: KeepOn = keep_on
        AverageOptions(average, average_k, validation_data, average_data)  # checks
        if average is not None and not restore_best_weights:
            raise ConfigError(
                f"average={average!r} decides which weights are restored. Pass "
                "restore_best_weights=True with it.",
                see="averages",
            )
        self.average = average
        self.average_k = average_k
        self.validation_data = validation_data
        self.average_data = average_data
        if self._stop_rule.criterion is not None:
            self._stop_rule.criterion.install_hooks(self)
        self._reset()

    def _check_criterion(self, criterion: object, given: Mapping[str, Any]) -> None:
        if self._decides_itself:
            raise ConfigError(
                f"criterion= decides when to stop, so {type(self).__name__}._is_improvement "
                "would never be called. Use only one of the two.",
                see="criterion",
            )
        check_criterion(criterion, given)

    def _reset(self) -> None:
        self._stop_rule.start()
        self.stopped_epoch = 0
        self.stop_reason: StopReason | None = None
        self.best_weights: Any = None
        self.average_record: AverageRecord | None = None
        self._best_weights = self._new_best_weights()

    def _new_best_weights(self) -> BestEpoch:
        options = AverageOptions(
            self.average, self.average_k, self.validation_data, self.average_data
        )
        return best_epoch_of(self.monitor, self.restore_optimizer, self.keep_on, options)

    def _without_run(self) -> dict[str, Any]:
        rule = copy.copy(self._stop_rule)  # a copy of a callback has a state of its own
        kept = {"_stop_rule": rule, "_best_weights": self._new_best_weights()}
        return {**super()._without_run(), **kept}

    @property
    def wait(self) -> int:
        """Checks since the last improvement."""
        return self._stop_rule.state.wait

    @wait.setter
    def wait(self, checks: int) -> None:
        self._stop_rule.state = replace(self._stop_rule.state, wait=checks)

    @property
    def best(self) -> float | None:
        """The value to improve on by `min_delta`, or None."""
        return self._stop_rule.state.reference

    @best.setter
    def best(self, value: float | None) -> None:
        self._stop_rule.state = replace(self._stop_rule.state, reference=value)

    @property
    def best_value(self) -> float | None:
        """The best value, or None."""
        return self._stop_rule.state.best

    @best_value.setter
    def best_value(self, value: float | None) -> None:
        epoch = None if value is None else self.best_epoch
        self._stop_rule.state = replace(self._stop_rule.state, best=value, best_epoch=epoch)

    @property
    def best_epoch(self) -> int:
        """Index, from 0, of the epoch of `best_value`."""
        return self._stop_rule.state.best_epoch or 0

    @best_epoch.setter
    def best_epoch(self, epoch: int) -> None:
        self._stop_rule.state = replace(self._stop_rule.state, best_epoch=epoch)

    @property
    def _needs_batch_hooks(self) -> bool:
        criterion = self._stop_rule.criterion
        return criterion is not None and criterion.needs_batch_hooks

    def _settle_direction(self) -> None:
        super()._settle_direction()
        if self._stop_rule.criterion is not None:
            self._stop_rule.criterion.resolve_directions(self._known_direction)

    def _open_names(self) -> list[str]:
        criterion = self._stop_rule.criterion
        return super()._open_names() if criterion is None else criterion.open_names()

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the last run."""
        self._reset()
        super().on_train_begin(logs)
        self._set_monitor_op_early()
        if self.restore_best_weights:
            check_optimizer(self._model, self.restore_optimizer)
            self._best_weights.start(self._model, self._swap(), self._ranks)

    def on_test_end(self, logs: Any = None) -> None:
        """Record what a validation has measured."""
        self._best_weights.on_validation_end(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Check the metrics; capture the weights if they are the best, stop if it is time."""
        super().on_epoch_end(epoch, logs)
        if self.monitor_op is None:
            self._settle_direction()
        value = None
        if self.restore_best_weights or self._stop_rule.goes_by_metric:
            value = self.get_monitor_value(logs)
        if type(self).get_monitor_value is not EarlyStopping.get_monitor_value:
            value = mean_of_ranks(self._ranks, value, "the value to check")
        try:
            verdict = self._check(epoch, None if value is None else float(value), logs or {})
        except NonFiniteError as error:
            self._leave(error)
        if self.criterion is not None:  # which may look at a clock
            verdict = self._ranks.broadcast(verdict, "criterion")
        if verdict:
            self._stop(epoch, verdict)

    def get_monitor_value(self, logs: Mapping[str, Any] | None) -> float | None:
        """Return the value to check, or None if this epoch has none; a subclass may compute it.

        Args:
            logs: The logs of `on_epoch_end`.
        """
        return self._stop_rule.watch.read(logs or {}, self._writers)

    def _check(self, epoch: int, value: float | None, logs: Mapping[str, Any]) -> Verdict:
        """Return whether to stop, once the weights of this epoch are captured if need be."""
        patience = PatienceRule(self._rule, self.patience, self.baseline, self.start_from_epoch)
        if value is None or not self.restore_best_weights:
            return self._stop_rule.check(patience, epoch, value, logs, self._writers)
        before = self.best_value
        if self._rule.beats(value, before):
            value = self._best_weights.finite_or_nan(self.model, value)
        verdict = self._stop_rule.check(patience, epoch, value, logs, self._writers)
        if self.best_value != before:
            self.best_weights = self._best_weights.capture_best(
                self.model, epoch, value, self._rule
            )
        elif self.average is not None and epoch >= self.start_from_epoch:
            self._best_weights.capture_runner_up(self.model, epoch, value, self._rule)
        return verdict

    def _stop(self, epoch: int, verdict: Verdict) -> None:
        self.stopped_epoch = epoch
        self.stop_reason = StopReason(
            verdict.kind, verdict.reason, verdict.values, epoch, verdict.kinds
        )
        _log.info("stopped after epoch %d: %s", epoch + 1, verdict.reason)
        self.model.stop_training = True
        swap = self._swap()
        if swap is not None and swap.swap_on_epoch:
            finish_swap(swap)

    def on_train_end(self, logs: Any = None) -> None:
        """Restore the best weights."""
        if self.stop_reason is not None and self.verbose > 0:
            print_message(f"Epoch {self.stopped_epoch + 1}: early stopping: {self.stop_reason}")
        try:
            self._restore()
        except BaseException as error:  # in a validation of an average
            self._leave(error)
        has_checked = self._stop_rule.watch.seen or self.stop_reason is not None
        if self.restore_best_weights and self.best_value is None and has_checked:
            warn(self._nothing_to_restore())
        super().on_train_end(logs)
        self._check_at_end(self._stop_rule.check_at_end)

    def _wind_down(self, error: BaseException) -> None:
        is_captured = self._best_weights.is_captured
        self._restore(f"training ended with {type(error).__name__}")
        if is_captured:
            reset_averages(self._model)

    def _restore(self, skip_average: str = "") -> None:
        """Restore what was captured, if anything was, and free the memory."""
        if self._best_weights.is_captured:
            if self.verbose > 0:
                print_message(
                    "Restoring model weights from the end of the best epoch: "
                    f"{self.best_epoch + 1}."
                )
            self.average_record = self._best_weights.restore(
                self.model, self._rule, skip_average, self._hurry
            )
            if self.average_record is not None:
                self._tell_average(self.average_record)
            _log.info("restored the weights of epoch %d", self.best_epoch + 1)
        self._best_weights.clear()
        self.best_weights = None

    def _tell_average(self, record: AverageRecord) -> None:
        _log.info("average: %s", record)
        fields = {name: value for name, value in asdict(record).items() if name != "indices"}
        _journal.note(self._list, "average", epoch=self.best_epoch + 1, **fields)
        if self.verbose > 0:
            print_message(f"Average: {record}.")

    def _hurry(self) -> str:
        """Return why there is no time for a validation on any rank, or ""."""
        callbacks = getattr(self._list, "callbacks", ())
        own = reason_to_hurry(callbacks, self._ctrl_c.asked)
        return next(filter(None, self._ranks.gather(own, "whether there is time")), "")

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resume."""
        rule = self._stop_rule.state_dict()
        reason, record = self.stop_reason, self.average_record
        return {
            "patience": rule.pop("patience"),
            "stopped_epoch": self.stopped_epoch,
            "stop_reason": None if reason is None else to_json(reason.to_dict()),
            **rule,
            "kept": self._best_weights.state_dict(self._rule),
            "constants": self._best_weights.constants(self._model),
            "average": None if record is None else asdict(record),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        self._stop_rule.load_state_dict(state)
        self.stopped_epoch = state["stopped_epoch"]
        self.stop_reason = StopReason.from_dict(from_json(state["stop_reason"]))
        self._best_weights.load_constants(state["constants"], self._model)
        self.best_weights = self._best_weights.load_state_dict(
            state["kept"], self._model, self.best_epoch, self.best_value
        )
        self.average_record = AverageRecord.from_dict(state.get("average"))

    def _nothing_to_restore(self) -> str:
        if not self._stop_rule.watch.seen:
            cause = f"{self.monitor} never came"
        elif self._stop_rule.state.checks:
            cause = f"{self.monitor} was NaN in every epoch"
        else:
            cause = f"no epoch reached start_from_epoch={self.start_from_epoch}"
        return f"restore_best_weights: {cause}, so the model keeps its last weights."
