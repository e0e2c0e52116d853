"""Takes states of a training while it goes well, and puts the last good one back."""

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
from keras_ratchet.types import Position, Verdict

_log = logging.getLogger("keras_ratchet")


@dataclass(slots=True)
class RollbackEngine:
    """One training under Rollback. What goes back returns the record of it, else None.

    Args:
        rule: Which batches are incidents, and which states are good.
        retries: How often to go back.
        states: The copies.

    Attributes:
        rollbacks: The records of going back and going on.
        gave_up: Why the last incident was one too many, or None.
    """

    rule: RollbackRule
    retries: Retries
    states: RecoveryPoints
    rollbacks: list[RolledBack] = field(default_factory=list)
    gave_up: Verdict | None = None
    _state: RollbackState = field(default_factory=RollbackState)
    _epoch: int = 0
    _last: int = -1
    _due: bool = True  # a state is taken when the next batch begins
    _begun: bool = False
    _partial: bool = False  # the first step makes more than the first state holds
    _metrics_are_void: bool = False
    _is_mean: bool | None = None

    def begin(self, model: Any, owner: str) -> None:
        """Find out whether going back can work.

        Raises:
            ConfigError: If the model has no optimizer.
            ScheduleError: If the learning rate is to be cut and belongs to a schedule.
        """
        rates = self.states.rates_of(model)
        if self.retries.factor < 1:
            rates.check(owner, "pass factor=1.0, which leaves it unchanged")

    def epoch_begins(self, epoch: int) -> None:
        """Note the epoch, whose metrics `fit` has just reset."""
        self._epoch, self._last = epoch, -1
        self._state = self.rule.epoch_begins(self._state)
        self._metrics_are_void = False
        self._due = self._due or self.rule.is_due_at_begin(self._state)

    def batch_begins(self, model: Any) -> RolledBack | None:
        """Take a state if one is due; reset metrics that an incident has spoilt.

        Not before now: if the incident was in the epoch's last batch its logs are to show it.

        Args:
            model: The model; on jax touching it costs a synchronisation.
        """
        if self._metrics_are_void:
            model.reset_metrics()
            self._metrics_are_void = False
        return self._take(model) if self._due else None

    @property
    def needs_model(self) -> bool:
        """Whether `batch_begins` has something to do."""
        return self._due or self._metrics_are_void

    def batch_ends(self, callback: Any, batch: int, value: float, last: bool) -> RolledBack | None:
        """RankingMetric the batches that have ended.

        Args:
            callback: Whose `model` is the model, brought up to date when asked for.
            batch: Index of the last one that ended.
            value: Of the metric in its logs.
            last: Whether it is known to be the epoch's last.
        """
        ended, self._last = batch - self._last, batch
        if self._is_mean is None:  # in a loop of one's own every batch has its own value
            name = self.rule.spikes.name
            in_fit = fit.epoch_iterator() is not None
            self._is_mean = in_fit and is_running_mean(callback.model, name)
        self._state, verdict = self.rule.check(self._state, ended, value, self._is_mean)
        if verdict.kind == "good":
            self.states.confirm()
        if verdict.kind in ("good", "refused"):
            _log.debug("%s: %s", verdict.kind, verdict.reason)
        if verdict:
            return self._go_back(callback.model, verdict)
        if self.rule.is_due(self._state):
            return self._take(callback.model)
        return self.look(callback.model) if last else None

    def look(self, model: Any) -> RolledBack | None:
        """Go back if a weight is not finite."""
        if self.gave_up is not None or not self.states.good.filled:
            return None
        problem = self.states.problem(model)
        if problem is None:
            return None
        return self._go_back(model, Verdict(True, "not finite", problem))

    def _take(self, model: Any) -> RolledBack | None:
        """Take a state, unless it is none to go back to."""
        self._due = False
        first, partial = not self._begun, self._partial
        if first:
            self.states.begin(model)
            self._begun = True
            self._due = self._partial = not is_complete(model)
            if not is_whole(model):
                return None  # the first step makes it
        elif record := self.look(model):
            return record
        else:
            self._partial = False
        good = first or partial or self.rule.confirm == 0
        here = Position(self._epoch, self._last + 1)
        self.states.take(model, here, asdict(self._state.mean), good)
        self._state = self.rule.taken(self._state, good)
        return None

    def _go_back(self, model: Any, incident: Verdict) -> RolledBack:
        good = self.states.good
        places = {(record.to_epoch, record.to_batch) for record in self.rollbacks}
        stuck = places == {(good.position.epoch, good.position.batch)}
        again = self.retries.check(len(self.rollbacks), incident, good.filled, stuck)
        rates = self.states.rates_of(model)
        factor = self.retries.factor if again else 1.0
        settable = rates.settable
        after = {n: r * factor if n in settable else r for n, r in rates.read().items()}
        same_epoch = good.position.epoch == self._epoch and good.position.batch > 0
        if good.filled:
            good.restore(model, metrics=same_epoch)
        rates.write(after)
        self._metrics_are_void = not same_epoch
        mean = RunningMean(**good.note) if same_epoch else RunningMean()
        self._state = self.rule.gone_back(self._state, mean)
        record = RolledBack(
            epoch=self._epoch,
            batch=self._last,
            kind=incident.kind,
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

    def rates(self, model: Any) -> dict[str, float]:
        """Return the learning rates, each by the name of its optimizer."""
        return self.states.rates_of(model).read()

    def rescue(self, model: Any) -> None:
        """Go back if the model cannot be used: training has ended by an exception."""
        self.states.rescue(model)

    def state_dict(self, model: Any) -> dict[str, Any]:
        """Return what a restart must not forget."""
        return {
            "state": self._state.to_json(),
            "states": self.states.state_dict(model, self._state.candidate is not None),
            "rollbacks": [asdict(record) for record in self.rollbacks],
            "gave_up": self._gave_up_as_dict(),
            "last": self._last,
            "due": self._due,
            "begun": self._begun,
            "partial": self._partial,
            "metrics_are_void": self._metrics_are_void,
        }

    def _gave_up_as_dict(self) -> dict[str, Any] | None:
        end = self.gave_up
        if end is None:
            return None
        return {"yes": end.yes, "kind": end.kind, "reason": end.reason, "values": dict(end.values)}

    def load_state_dict(self, state: Mapping[str, Any], model: Any) -> None:
        """Go on from a state that `state_dict` returned."""
        self._state = RollbackState.from_json(state["state"])
        self.states.load_state_dict(state["states"], model)
        self.rollbacks = [RolledBack(**record) for record in state["rollbacks"]]
        self.gave_up = None if state["gave_up"] is None else Verdict(**state["gave_up"])
        self._last, self._due = state["last"], state["due"]
        self._begun, self._partial = state["begun"], state["partial"]
        self._metrics_are_void = state["metrics_are_void"]
