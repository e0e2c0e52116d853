"""Stop when a metric no longer improves, and go back to the best weights."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from keras_ratchet import _compat
from keras_ratchet._engine.best_weights import BestWeights, check_optimizer, not_finite
from keras_ratchet._engine.scored import follow, restored, scored_sources
from keras_ratchet.callbacks._metrics import MetricWatch, training_metric_warning
from keras_ratchet.callbacks._moments import end_of_epoch
from keras_ratchet.callbacks._patience import PatientCallback
from keras_ratchet.errors import NonFiniteError
from keras_ratchet.policy.criterion import PatienceState
from keras_ratchet.policy.monitor import DeltaMode, NanRule
from keras_ratchet.types import StopReason, Verdict

_log = logging.getLogger("keras_ratchet")


class EarlyStopping(PatientCallback):
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

    Attributes:
        best: The value to improve on by `min_delta`, or None.
        best_value: The best value, whose weights are restored, or None.
        best_epoch: Index, from 0, of the epoch of `best_value` (0 if there is none).
        best_weights: The weights of that epoch while training runs, else None. One buffer that
            is overwritten in place: copy what you want to keep.
        wait: Checks since the last improvement.
        stopped_epoch: Index of the epoch after which training was stopped, or 0.
        stop_reason: A `StopReason` once this callback has stopped training, else None.

    Raises:
        ConfigError: If an argument cannot work.
        MissingMetricError: At the end of the first epoch, if the metric is not in the logs and
            will not be; for a `val_` metric after the first validation without it.
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
    ) -> None:
        super().__init__(monitor, mode, None, min_delta, min_delta_mode=min_delta_mode, nan=nan)
        self.patience = patience
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self.restore_optimizer = restore_optimizer
        self._patience()  # raises if the numbers cannot work
        self._reset()

    def _reset(self) -> None:
        self._take(PatienceState())
        self.stopped_epoch = 0
        self.stop_reason: StopReason | None = None
        self.best_weights: Any = None
        self._kept = BestWeights(self.restore_optimizer)
        self._warned = False
        self._metric = MetricWatch(self.monitor, type(self).__name__)

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the last run."""
        self._reset()
        super().on_train_begin(logs)
        self._set_monitor_op_early()
        if self.restore_best_weights:
            check_optimizer(self._model, self.restore_optimizer)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Look at the metric; keep the weights if they are the best, stop if it is time."""
        if self._epoch_is_partial():
            self._raise_if_interrupted()
        if self.monitor_op is None:
            self._set_monitor_op()
        value = self.get_monitor_value(logs)
        if value is not None:
            self._judge(epoch, float(value))

    def get_monitor_value(self, logs: Mapping[str, Any] | None) -> float | None:
        """Return the value to judge, or None if this epoch has none; a subclass may compute it.

        Args:
            logs: The logs of `on_epoch_end`.
        """
        return self._metric.read(logs or {})

    def _judge(self, epoch: int, value: float) -> None:
        candidate = self.restore_best_weights and self._rule.beats(value, self.best_value)
        sources = scored_sources(self.model, self._swap(), self.monitor) if candidate else {}
        if candidate and (bad := not_finite(self.model, sources)):
            _log.warning("%s=%g counts as NaN: weight %s is not finite", self.monitor, value, bad)
            value = math.nan
        moment = end_of_epoch(epoch, {self.monitor: value})
        before = self.best_value
        state, verdict = self._patience().check(self._state(), moment)
        self._take(state)
        if self.restore_best_weights and state.best_epoch == epoch and state.best != before:
            self._warn_of_training_metric()
            self.best_weights = self._kept.keep(self.model, sources)
        if verdict:
            self._stop(epoch, verdict)

    def _stop(self, epoch: int, verdict: Verdict) -> None:
        if verdict.kind == "nan" and self.nan == "raise":
            self._leave(NonFiniteError(f"{verdict.reason} in epoch {epoch + 1} (nan='raise')."))
        self.stopped_epoch = epoch
        self.stop_reason = StopReason(verdict.kind, verdict.reason, verdict.values, epoch)
        _log.info("stopped after epoch %d: %s", epoch + 1, verdict.reason)
        self.model.stop_training = True
        swap = self._swap()
        if swap is not None and swap.swap_on_epoch:
            _compat.finish_swap(swap)

    def on_train_end(self, logs: Any = None) -> None:
        """Restore the best weights."""
        if self.stop_reason is not None and self.verbose > 0:
            _compat.print_message(
                f"Epoch {self.stopped_epoch + 1}: early stopping: {self.stop_reason}"
            )
        self._finish()
        if self.restore_best_weights and self.best_value is None and self._metric.seen:
            warnings.warn(self._nothing_to_restore(), stacklevel=2)
        super().on_train_end(logs)
        if not getattr(self._model, "stop_training", False):
            self._metric.check_at_end()

    def _wind_down(self, error: BaseException) -> None:
        kept = self._kept.filled
        self._finish()
        if kept:
            follow(self._model)

    def _finish(self) -> None:
        """Restore if there is something to restore, and free the memory."""
        if self._kept.filled:
            if self.verbose > 0:
                _compat.print_message(
                    "Restoring model weights from the end of the best epoch: "
                    f"{self.best_epoch + 1}."
                )
            self._kept.restore(self.model)
            restored(self._swap())
            _log.info("restored the weights of epoch %d", self.best_epoch + 1)
        self._kept = BestWeights(self.restore_optimizer)
        self.best_weights = None

    def _warn_of_training_metric(self) -> None:
        if self._warned or not _compat.is_training_metric(self._model, self.monitor):
            return
        self._warned = True
        warnings.warn(training_metric_warning(self.monitor), stacklevel=4)

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart must not forget."""
        reason = self.stop_reason
        return {
            "patience": self._state().to_json(),
            "stopped_epoch": self.stopped_epoch,
            "stop_reason": None
            if reason is None
            else {**asdict(reason), "values": dict(reason.values)},
            "kept": self._kept.state_dict(),
            "seen": self._metric.seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; training has begun."""
        self._take(PatienceState.from_json(state["patience"]))
        self.stopped_epoch = state["stopped_epoch"]
        reason = state["stop_reason"]
        self.stop_reason = None if reason is None else StopReason(**reason)
        self._metric.seen = state["seen"]
        self.best_weights = self._kept.load_state_dict(state["kept"], self._model)

    def _nothing_to_restore(self) -> str:
        if self._checks:
            cause = f"{self.monitor} was NaN in every epoch"
        else:
            cause = f"no epoch reached start_from_epoch={self.start_from_epoch}"
        return f"restore_best_weights: {cause}, so the model keeps its last weights."
