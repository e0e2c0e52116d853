"""Keras's attributes as the state of a Patience."""

from __future__ import annotations

from keras_ratchet.callbacks.monitor_callback import MonitorCallback
from keras_ratchet.policy.criterion import Patience, PatienceState


class PatientCallback(MonitorCallback):
    """Keeps the state of its rule in the attributes that Keras's users know, and nowhere else."""

    patience: int
    baseline: float | None
    start_from_epoch: int

    def _patience(self) -> Patience:
        return Patience(self.patience, self._rule, self.baseline, self.start_from_epoch)

    def _state(self) -> PatienceState:
        best_epoch = None if self.best_value is None else self.best_epoch
        return PatienceState(self.wait, self.best, self.best_value, best_epoch, self._checks)

    def _take(self, state: PatienceState) -> None:
        self.wait = state.wait
        self.best = state.reference
        self.best_value = state.best
        self.best_epoch = state.best_epoch or 0
        self._checks = state.checks
