"""Captures states while training goes well, and restores the last good one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from keras_ratchet._engine.capture.building import is_complete
from keras_ratchet._engine.rollback.recovery_point import RecoveryPoints
from keras_ratchet._keras import fit
from keras_ratchet._keras.anatomy import is_whole
from keras_ratchet._keras.metrics import is_running_mean
from keras_ratchet.policy.rollback import Retries, RollbackRule, RollbackState, RolledBack
from keras_ratchet.policy.spikes import RunningMean
from keras_ratchet.types import IncidentKind, Model, Position, Verdict

_log = logging.getLogger("keras_ratchet")


@dataclass(slots=True)
class RollbackEngine:
    """The state machine behind `Rollback`, for one run.

    Methods that may roll back return the rollback's record, or None.

    Args:
        rule: Decides which batches are incidents, and which states are good.
        retries: Decides how often to roll back.
        points: The copies.

    Attributes:
        rollbacks: The records of rollbacks after which training continued.
        gave_up: Why the last incident was one too many, or None.
    """

    rule: RollbackRule
    retries: Retries
    points: RecoveryPoints
    rollbacks: list[RolledBack] = field(default_factory=list)
    gave_up: Verdict | None = None
    _state: RollbackState = field(default_factory=RollbackState)
    _epoch: int = 0
    _last: int = -1
    _is_due: bool = True  # a state is captured when the next batch starts
    _has_started: bool = False
    _is_partial: bool = False  # the first step makes more than the first state holds
    _metrics_are_spoilt: bool = False
    _is_mean: bool | None = None

    def check(self, model: Model, owner: str) -> None:
        """Check that rolling back can work.

        Raises:
            ConfigError: If the model has no optimizer.
            ScheduleError: If the learning rate is to be cut and belongs to a schedule.
        """
        rates = self.points.rates_of(model)
        if self.retries.factor < 1:
            rates.check(owner, "pass factor=1.0, which leaves it unchanged")

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch, whose metrics `fit` has just reset."""
        self._epoch, self._last = epoch, -1
        self._state = self.rule.start_epoch(self._state)
        self._metrics_are_spoilt = False
        self._is_due = self._is_due or self.rule.is_due_at_epoch_start(self._state)

    def start_batch(self, model: Model) -> RolledBack | None:
        """Capture a state if one is due; reset metrics that an incident has spoilt.

        Not before now: after an incident in the epoch's last batch the logs should show it.

        Args:
            model: The model; on jax touching it costs a synchronization.
        """
        if self._metrics_are_spoilt:
            model.reset_metrics()
            self._metrics_are_spoilt = False
        return self._capture(model) if self._is_due else None

    @property
    def needs_model(self) -> bool:
        """Whether `start_batch` has something to do."""
        return self._is_due or self._metrics_are_spoilt

    def end_batch(self, callback: Any, batch: int, value: float, last: bool) -> RolledBack | None:
        """Check the batches that have ended; roll back, or capture a state if one is due.

        Args:
            callback: Its `model` is the model, which on jax is brought up to date when read.
            batch: Index of the last batch that ended.
            value: Of the metric in its logs.
            last: Whether it is known to be the epoch's last.
        """
        ended, self._last = batch - self._last, batch
        if self._is_mean is None:  # in a loop written by hand every batch has its own value
            name = self.rule.spikes.name
            in_fit = fit.epoch_iterator() is not None
            self._is_mean = in_fit and is_running_mean(callback.model, name)
        self._state, verdict = self.rule.check(self._state, ended, value, self._is_mean)
        if verdict.kind == "good":
            self.points.confirm()
        if verdict.kind in ("good", "refused"):
            _log.debug("%s: %s", verdict.kind, verdict.reason)
        if verdict:
            return self._roll_back(callback.model, verdict)
        if self.rule.is_due(self._state):
            return self._capture(callback.model)
        return self.check_weights(callback.model) if last else None

    def check_weights(self, model: Model) -> RolledBack | None:
        """Roll back if a weight is not finite."""
        if self.gave_up is not None or not self.points.good.is_captured:
            return None
        problem = self.points.problem(model)
        if problem is None:
            return None
        return self._roll_back(model, Verdict(True, "not finite", problem))

    def _capture(self, model: Model) -> RolledBack | None:
        """Capture a state, unless a weight is not finite."""
        self._is_due = False
        first, partial = not self._has_started, self._is_partial
        if first:
            self.points.start(model)
            self._has_started = True
            self._is_due = self._is_partial = not is_complete(model)
            if not is_whole(model):
                return None  # the first step builds it
        elif record := self.check_weights(model):
            return record
        else:
            self._is_partial = False
        good = first or partial or self.rule.confirm == 0
        here = Position(self._epoch, self._last + 1)
        self.points.capture(model, here, asdict(self._state.mean), good)
        self._state = self.rule.after_capture(self._state, good)
        return None

    def _roll_back(self, model: Model, incident: Verdict) -> RolledBack:
        kind: IncidentKind = "spike" if incident.kind == "spike" else "not finite"
        good = self.points.good
        places = {(record.to_epoch, record.to_batch) for record in self.rollbacks}
        stuck = places == {(good.position.epoch, good.position.batch)}
        again = self.retries.check(len(self.rollbacks), incident, good.is_captured, stuck)
        rates = self.points.rates_of(model)
        factor = self.retries.factor if again else 1.0
        settable = rates.settable
        after = {n: r * factor if n in settable else r for n, r in rates.read().items()}
        same_epoch = good.position.epoch == self._epoch and good.position.batch > 0
        if good.is_captured:
            good.restore(model, metrics=same_epoch)
        rates.write(after)
        self._metrics_are_spoilt = not same_epoch
        mean = RunningMean(**good.note) if same_epoch else RunningMean()
        self._state = self.rule.after_rollback(self._state, mean)
        record = RolledBack(
            epoch_index=self._epoch,
            batch_index=self._last,
            kind=kind,
            why=again.reason,
            to_epoch=good.position.epoch,
            to_batch=good.position.batch,
            learning_rate=next(iter(after.values())),
        )
        if again:
            self.rollbacks.append(record)
        else:
            self.gave_up = again
        return record

    def rates(self, model: Model) -> dict[str, float]:
        """Return the learning rates, each by the name of its optimizer."""
        return self.points.rates_of(model).read()

    def restore_if_bad(self, model: Model) -> None:
        """Restore the good state, after an exception, if the model is not finite."""
        self.points.restore_if_bad(model)

    def state_dict(self, model: Model) -> dict[str, Any]:
        """Return the state for a resume."""
        return {
            "state": self._state.to_json(),
            "states": self.points.state_dict(model, self._state.candidate is not None),
            "rollbacks": [record.to_dict() for record in self.rollbacks],
            "gave_up": self._gave_up_as_dict(),
            "last": self._last,
            "due": self._is_due,
            "begun": self._has_started,
            "partial": self._is_partial,
            "metrics_are_void": self._metrics_are_spoilt,
        }

    def _gave_up_as_dict(self) -> dict[str, Any] | None:
        end = self.gave_up
        if end is None:
            return None
        return {"yes": end.yes, "kind": end.kind, "reason": end.reason, "values": dict(end.values)}

    def load_state_dict(self, state: Mapping[str, Any], model: Model) -> None:
        """Continue from what `state_dict` returned."""
        self._state = RollbackState.from_json(state["state"])
        self.points.load_state_dict(state["states"], model)
        self.rollbacks = [RolledBack.from_dict(record) for record in state["rollbacks"]]
        self.gave_up = None if state["gave_up"] is None else Verdict(**state["gave_up"])
        self._last, self._is_due = state["last"], state["due"]
        self._has_started, self._is_partial = state["begun"], state["partial"]
        self._metrics_are_spoilt = state["metrics_are_void"]
