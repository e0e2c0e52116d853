"""When to stop: Keras's arguments, or a criterion in their place."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from keras_ratchet._keras.ema import finish_swap
from keras_ratchet.callbacks._ending import Ending
from keras_ratchet.callbacks._metrics import MetricWatch
from keras_ratchet.callbacks._patience import PatientCallback
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.criterion import Criterion, from_json, to_json
from keras_ratchet.policy.patience import PatienceState
from keras_ratchet.types import StopReason, Verdict

_log = logging.getLogger("keras_ratchet")
_EXCLUDED = {  # by criterion=, and their defaults
    "monitor": "val_loss",
    "min_delta": 0,
    "patience": 0,
    "mode": "auto",
    "baseline": None,
    "min_delta_mode": "absolute",
    "nan": "ignore",
}


class StoppingCallback(PatientCallback):
    """Decides after each epoch whether to stop, and knows why it did.

    Args:
        criterion: The criterion, or None for Keras's rule.
        start_from_epoch: Index of the first epoch that is looked at.
        **rule: The arguments of Keras's rule.
    """

    def __init__(self, criterion: Criterion | None, start_from_epoch: int, **rule: Any) -> None:
        self._ending: Ending | None = None
        if criterion is not None:
            _refuse_beside_criterion(rule)
            if self._decides_itself:
                raise ConfigError(
                    f"criterion= says by itself when to stop, so {type(self).__name__}."
                    f"_is_improvement would not be asked. Leave one of the two out."
                )
            self._ending = Ending(criterion, type(self).__name__)
            self._ending.arm(self)
            rule |= {"monitor": self._ending.judge.metric, "mode": self._ending.judge.mode}
        self.criterion = criterion
        self.patience = rule.pop("patience")
        self.baseline = rule.pop("baseline")
        self.start_from_epoch = start_from_epoch
        super().__init__(**rule)
        self._patience()  # raises if the numbers cannot work
        self._forget()

    def _forget(self) -> None:
        """Forget the last run."""
        self._take(PatienceState())
        self.stopped_epoch = 0
        self.stop_reason: StopReason | None = None
        self._metric = MetricWatch(self.monitor, type(self).__name__)
        if self._ending is not None:
            self._ending.begin()

    @property
    def _needs_batch_hooks(self) -> bool:
        return self._ending is not None and self._ending.needs_batch_hooks

    def _settle_direction(self) -> None:
        super()._settle_direction()
        if self._ending is not None:
            self._ending.resolve_directions(self._known_direction)

    def _open_names(self) -> list[str]:
        return super()._open_names() if self._ending is None else self._ending.open_names()

    def _stops_by_metric(self) -> bool:
        """Say whether the monitored metric has a say in when to stop."""
        return self._ending is None or self._ending.goes_by_metric

    def _decide(self, epoch: int, logs: Mapping[str, Any], value: float | None) -> Verdict:
        """Take an epoch into account; `value` is that of the monitored metric, if it has one.

        Raises:
            NonFiniteError: If a metric is NaN for which `nan="raise"`.
        """
        verdict = Verdict(False, "missing", f"{self.monitor} is not in the logs")
        if value is not None:
            verdict = self._check_patience(epoch, value)
        if self._ending is None or epoch < self.start_from_epoch:
            return verdict
        return self._ending.check(epoch, logs, value, self._writers)

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

    def _check_metrics_at_end(self) -> None:
        """Raise a MissingMetricError if training has ended and a metric never came."""
        self._metric.check_at_end()
        if self._ending is not None:
            self._ending.check_at_end()

    def _decisions(self) -> dict[str, Any]:
        """Return what a restart must not forget of this."""
        reason = self.stop_reason
        said = None if reason is None else reason.to_dict()
        return {
            "patience": to_json(asdict(self._state())),
            "stopped_epoch": self.stopped_epoch,
            "stop_reason": to_json(said),
            "seen": self._metric.seen,
            "ending": None if self._ending is None else self._ending.state_dict(),
        }

    def _load_decisions(self, state: Mapping[str, Any]) -> None:
        """Go on from what `_decisions` returned."""
        self._take(PatienceState(**from_json(state["patience"])))
        self.stopped_epoch = state["stopped_epoch"]
        self.stop_reason = StopReason.from_dict(from_json(state["stop_reason"]))
        self._metric.seen = state["seen"]
        if self._ending is not None:
            self._ending.load_state_dict(state["ending"])


def _refuse_beside_criterion(rule: Mapping[str, Any]) -> None:
    names = [name for name, default in _EXCLUDED.items() if rule[name] != default]
    if names:
        raise ConfigError(
            f"criterion= says by itself what is monitored and when to stop, so it excludes "
            f"{', '.join(names)}. Say it in the criterion, as in Patience(10, 'val_loss')."
        )
