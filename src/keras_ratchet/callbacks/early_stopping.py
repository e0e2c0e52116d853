"""Stop when a metric no longer improves, and go back to the best weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras

from keras_ratchet._engine.capture.best_weights import check_optimizer
from keras_ratchet._engine.capture.ema import follow
from keras_ratchet._keras.printing import print_message
from keras_ratchet._warn import warn
from keras_ratchet.callbacks._averaging import keeper_of
from keras_ratchet.callbacks._best_weights import check_average_arguments
from keras_ratchet.callbacks._drop_in import stand_in
from keras_ratchet.callbacks._stop_rule import StoppingCallback
from keras_ratchet.errors import NonFiniteError
from keras_ratchet.policy.criterion import Criterion
from keras_ratchet.policy.monitor import DeltaMode, NanRule
from keras_ratchet.policy.soup import Average
from keras_ratchet.types import AverageRecord, Verdict

_log = logging.getLogger("keras_ratchet")


@stand_in
class EarlyStopping(StoppingCallback, keras.callbacks.EarlyStopping):
    """Stop training when a monitored metric has stopped improving.

    Takes every argument of `keras.callbacks.EarlyStopping`, in its place and with its meaning.
    docs/differences.md lists where the two differ on purpose.

    Args:
        monitor: Key of the metric in the logs.
        min_delta: How much better a value has to be to reset the patience. The weights that
            are restored are those of the best value, however small its lead.
        patience: Number of checks without an improvement after which training stops.
        verbose: 1 prints a line when training stops and when weights are restored.
        mode: "min", "max" or "auto".
        baseline: Training stops unless the metric beats this value within `patience` checks.
        restore_best_weights: Whether the model ends with the weights of its best epoch: after
            an early stop, after the last epoch, after another callback's stop and after
            Ctrl-C; inside `keras_ratchet.guard` after any exception too.
        start_from_epoch: Index of the first epoch that is looked at.
        min_delta_mode: "absolute", or "relative" to the magnitude of the best value.
        nan: What a NaN does: "ignore" (no improvement, counts toward patience), "stop", or
            "raise" a NonFiniteError after the best weights were restored.
        restore_optimizer: Whether the optimizer's slots, iterations and learning rate are
            restored with the weights. In a custom loop: the loop's optimizer (Keras or torch).
        criterion: When to stop, put together from `keras_ratchet.policy` (docs/criteria.md), in
            the place of `monitor`, `patience`, `min_delta`, `mode`, `baseline` and `nan`:
            `Patience(10) | Reaches("val_accuracy", 0.99) | AfterSeconds(3600)`. The first metric
            in it, from left to right, decides which weights are restored ("val_loss" if there is
            none).
        average: What is restored in place of the best epoch's weights if its validation value is
            better (docs/averages.md): "soup", the mean of some of the `average_k` best epochs,
            found greedily in at most `average_k - 1` validations when training ends; "mean", the
            mean of all of them, in one. After Ctrl-C, an exception or a preemption the best
            epoch is restored without validations.
        average_k: How many epochs are kept in host memory for that, at least 2.
        validation_data: What averages are measured on: by default what `fit` validates on; else
            data as `fit` takes it, or a function of the model that returns the value.
        average_data: Inputs, such as `x_train` or a part of it, from which moving statistics
            (BatchNormalization) are estimated anew for each average; a model that has them is
            not averaged without.

    Attributes:
        best: The value to improve on by `min_delta`, or None.
        best_value: The best value, whose weights are restored, or None.
        best_epoch: Index, from 0, of the epoch of `best_value` (0 if there is none).
        best_weights: The weights of that epoch while training runs, else None. Buffers that
            are overwritten in place: copy what you want to keep.
        average_record: An `AverageRecord` of what was averaged and why, once training has ended
            with `average`, else None.
        wait: Checks since the last improvement.
        stopped_epoch: Index of the epoch after which training was stopped, or 0.
        stop_reason: A `StopReason` once this callback has stopped training, else None.

    Raises:
        ConfigError: If an argument cannot work.
        MissingMetricError: At the end of the first epoch, if the metric is not in the logs and
            will not be; for a `val_` metric after the first validation without it; at the end of
            training where a callback of yours might have added it, and never did.
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
        criterion: Criterion | None = None,
        average: Average | None = None,
        average_k: int = 5,
        validation_data: Any = None,
        average_data: Any = None,
    ) -> None:
        super().__init__(
            criterion,
            start_from_epoch,
            monitor=monitor,
            min_delta=min_delta,
            patience=patience,
            mode=mode,
            baseline=baseline,
            min_delta_mode=min_delta_mode,
            nan=nan,
        )
        self.verbose = verbose
        self.restore_best_weights = restore_best_weights
        self.restore_optimizer = restore_optimizer
        check_average_arguments(
            average, average_k, restore_best_weights, validation_data, average_data
        )
        self.average = average
        self.average_k = average_k
        self.validation_data = validation_data
        self.average_data = average_data
        self._begin_keeping()

    def _without_run(self) -> dict[str, Any]:
        return {**super()._without_run(), "_keeper": keeper_of(self)}

    def _begin_keeping(self) -> None:
        self.best_weights: Any = None
        self.average_record: AverageRecord | None = None
        self._keeper = keeper_of(self)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the last run."""
        self._forget()
        self._begin_keeping()
        super().on_train_begin(logs)
        self._set_monitor_op_early()
        if self.restore_best_weights:
            check_optimizer(self._model, self.restore_optimizer)
            self._keeper.begin(self._model)

    def on_test_end(self, logs: Any = None) -> None:
        """Note what a validation has measured."""
        self._keeper.tested(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at the metrics; keep the weights if they are the best, stop if it is time."""
        super().on_epoch_end(epoch, logs)
        if self.monitor_op is None:
            self._settle_direction()
        value = None
        if self.restore_best_weights or self._stops_by_metric():
            value = self.get_monitor_value(logs)
        try:
            verdict = self._judge(epoch, logs or {}, None if value is None else float(value))
        except NonFiniteError as error:
            self._leave(error)
        if verdict:
            self._stop(epoch, verdict)

    def get_monitor_value(self, logs: Mapping[str, Any] | None) -> float | None:
        """Return the value to judge, or None if this epoch has none; a subclass may compute it.

        Args:
            logs: The logs of `on_epoch_end`.
        """
        return self._metric.read(logs or {}, self._writers)

    def _judge(self, epoch: int, logs: Mapping[str, Any], value: float | None) -> Verdict:
        """Keep the weights of this epoch if they are the best, and say whether to stop."""
        before = self.best_value
        if value is not None and self.restore_best_weights and self._rule.beats(value, before):
            value = self._keeper.trusted(self.model, self._swap(), value)
        verdict = self._decide(epoch, logs, value)
        if self.restore_best_weights and value is not None:
            is_best = self.best_value != before
            self.best_weights = self._keeper.offer(self.model, epoch, value, is_best)
        return verdict

    def on_train_end(self, logs: Any = None) -> None:
        """Restore the best weights."""
        if self.stop_reason is not None and self.verbose > 0:
            print_message(f"Epoch {self.stopped_epoch + 1}: early stopping: {self.stop_reason}")
        try:
            self._finish()
        except BaseException as error:  # in a validation of an average
            self._leave(error)
        looked = self._metric.seen or self.stop_reason is not None
        if self.restore_best_weights and self.best_value is None and looked:
            warn(self._nothing_to_restore())
        super().on_train_end(logs)
        self._never_came(self._check_metrics_at_end)

    def _wind_down(self, error: BaseException) -> None:
        kept = self._keeper.filled
        self._finish(f"training was ended by {type(error).__name__}")
        if kept:
            follow(self._model)

    def _finish(self, hurry: str = "") -> None:
        """Restore if there is something to restore, and free the memory."""
        if self._keeper.filled:
            if self.verbose > 0:
                print_message(
                    "Restoring model weights from the end of the best epoch: "
                    f"{self.best_epoch + 1}."
                )
            self.average_record = self._keeper.put_back(self.model, self._swap(), hurry)
            _log.info("restored the weights of epoch %d", self.best_epoch + 1)
            if self.verbose > 0 and self.average_record is not None:
                print_message(f"Average: {self.average_record}.")
        self._keeper.empty()
        self.best_weights = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart must not forget."""
        record = None if self.average_record is None else asdict(self.average_record)
        kept = {"kept": self._keeper.state_dict(), "constants": self._keeper.constants(self._model)}
        return {**self._decisions(), **kept, "average": record}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; training has begun."""
        self._load_decisions(state)
        self._keeper.load_constants(state["constants"], self._model)
        self.best_weights = self._keeper.load_state_dict(state["kept"], self._model)
        self.average_record = AverageRecord.from_dict(state.get("average"))

    def _nothing_to_restore(self) -> str:
        if not self._metric.seen:
            cause = f"{self.monitor} never came"
        elif self._checks:
            cause = f"{self.monitor} was NaN in every epoch"
        else:
            cause = f"no epoch reached start_from_epoch={self.start_from_epoch}"
        return f"restore_best_weights: {cause}, so the model keeps its last weights."
