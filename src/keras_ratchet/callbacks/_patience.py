"""Keras's attributes as the state of a Patience."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from keras_ratchet.callbacks._asked import AskedPatience
from keras_ratchet.callbacks._logs import end_of_epoch
from keras_ratchet.callbacks.monitor_callback import MonitorCallback
from keras_ratchet.policy.patience import Patience, PatienceState
from keras_ratchet.types import Verdict


class PatientCallback(MonitorCallback):
    """Keeps the state of its rule in the attributes that Keras's users know, and nowhere else."""

    patience: int
    baseline: float | None
    start_from_epoch: int

    def _patience(self) -> Patience:
        rule = self._rule
        arguments: dict[str, Any] = {
            "mode": rule.mode,
            "min_delta": rule.min_delta,
            "min_delta_mode": rule.min_delta_mode,
            "nan": rule.nan,
            "baseline": self.baseline,
            "start_from_epoch": self.start_from_epoch,
        }
        if self._decides_itself:
            return AskedPatience(self.patience, rule.name, **arguments, order=rule)
        return Patience(self.patience, rule.name, **arguments)

    def _check_patience(self, epoch: int, value: float) -> Verdict:
        """Take the value of an epoch into account.

        Raises:
            NonFiniteError: If it is NaN and `nan="raise"`.
        """
        moment = end_of_epoch(epoch, {self.monitor: value})
        state, verdict = self._patience().check(asdict(self._state()), moment)
        self._take(PatienceState(**state))
        return verdict

    def _state(self) -> PatienceState:
        best_epoch = None if self.best_value is None else self.best_epoch
        return PatienceState(self.wait, self.best, self.best_value, best_epoch, self._checks)

    def _take(self, state: PatienceState) -> None:
        self.wait = state.wait
        self.best = state.reference
        self.best_value = state.best
        self.best_epoch = state.best_epoch or 0
        self._checks = state.checks
