"""Which states are good, and when to roll back to one: a pure fold over batches.

Every batch gives one value: its loss. A value that is not finite, or a spike, is an incident: the
state is bad. A captured state becomes *good* when the batches after it confirm it:

* with `confirm=10` ten of them came without an incident, and
* their losses are not all above those that confirmed the good state before it: a diverging run
  is finite for a long time, and no state on that way is worth restoring. (Of two times ten losses
  from one distribution all of the one lie above all of the other in 1 of 184,756 cases, whatever
  the distribution.) The initial state counts as good; it is compared by its own first loss. With
  `confirm` below 5 the rule would err too often, and is off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import whole_number
from keras_ratchet.policy.spikes import RunningMean, Spikes
from keras_ratchet.types import IncidentKind, Verdict

_LEAST_TO_COMPARE = 5


@dataclass(frozen=True, slots=True)
class RollbackState:
    """What `RollbackRule` remembers between two batches.

    Attributes:
        mean: The running mean of the epoch as last seen.
        recent: The last values, for spikes.
        pending: Batches since the last capture or rollback.
        candidate: The values since a state was captured that is not good yet; None without one.
        good: The values that confirmed the good state; for the first state, its own.
    """

    mean: RunningMean = field(default_factory=RunningMean)
    recent: tuple[float, ...] = ()
    pending: int = 0
    candidate: tuple[float, ...] | None = None
    good: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the state as data for strict JSON; all numbers in it are finite."""
        data = asdict(self)
        lists = {k: list(v) for k, v in data.items() if isinstance(v, tuple)}
        return {**data, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RollbackState:
        """Return the state that `to_json` described."""
        candidate = data["candidate"]
        return cls(
            mean=RunningMean(int(data["mean"]["batches"]), float(data["mean"]["value"])),
            recent=tuple(map(float, data["recent"])),
            pending=int(data["pending"]),
            candidate=None if candidate is None else tuple(map(float, candidate)),
            good=tuple(map(float, data["good"])),
        )


@dataclass(frozen=True, slots=True)
class RollbackRule:
    """Decides about each batch, and so about the states captured before it.

    Args:
        spikes: Which values are incidents.
        every: Number of batches after which a state is captured, or "epoch": at its start.
        confirm: How many values after it make a state good; 0: none.

    Example:
        >>> rule = RollbackRule(Spikes("loss"), every=4, confirm=2)
        >>> state, kinds = RollbackState(), []
        >>> for loss in [1.0, 0.9, 0.9, 0.8, 0.8, 0.7, float("nan")]:
        ...     state, verdict = rule.check(state, 1, loss)
        ...     state = rule.after_capture(state, good=False) if rule.is_due(state) else state
        ...     kinds.append(verdict.kind)
        >>> kinds
        ['fine', 'fine', 'fine', 'fine', 'fine', 'good', 'not finite']
        >>> verdict.reason
        'loss is nan'
    """

    spikes: Spikes
    every: int | str = 100
    confirm: int = 10

    def __post_init__(self) -> None:
        if self.every != "epoch":
            whole_number("every", self.every, 1, "is 'epoch' or a number of batches")
        whole_number("confirm", self.confirm, 0, "is a number of batches")

    def start_epoch(self, state: RollbackState) -> RollbackState:
        """Start the running mean again."""
        return replace(state, mean=RunningMean())

    def check(
        self, state: RollbackState, ended: int, value: float, running: bool = False
    ) -> tuple[RollbackState, Verdict]:
        """Take the batches into account that have ended.

        Args:
            state: What the last call returned, or `RollbackState()`.
            ended: How many batches have ended since then.
            value: Their mean; or, if `running`, that of the whole epoch so far.
            running: Whether `value` is a running mean.

        Returns:
            The new state and whether this is an incident: "not finite" or "spike". Otherwise the
            kind is "good" if the candidate has just become good, "refused" if it is dropped, or
            "fine".
        """
        mean = replace(state.mean, batches=state.mean.batches + ended, value=value)
        value = state.mean.since(mean) if running else value
        recent, verdict = self.spikes.check(state.recent, value)
        if verdict:
            return state, verdict
        state = replace(state, mean=mean, recent=recent, pending=state.pending + ended)
        if state.candidate is None:
            return replace(state, good=state.good or (value,)), verdict
        return self._confirm(replace(state, candidate=(*state.candidate, value)), verdict)

    def is_due(self, state: RollbackState) -> bool:
        """Return whether a state is due to be captured at this end of a batch."""
        if self.every == "epoch" or state.candidate is not None:
            return False
        return state.pending >= int(self.every)

    def is_due_at_epoch_start(self, state: RollbackState) -> bool:
        """Return whether a state is due to be captured at the start of an epoch."""
        return self.every == "epoch" and state.candidate is None

    def after_capture(self, state: RollbackState, good: bool) -> RollbackState:
        """Return the state after a capture.

        Args:
            state: The state.
            good: Whether it counts as good at once: the first one, or with `confirm=0`.
        """
        return replace(
            state, pending=0, candidate=None if good else (), good=() if good else state.good
        )

    def after_rollback(self, state: RollbackState, mean: RunningMean) -> RollbackState:
        """Return the state after the good state was restored.

        Args:
            state: The state.
            mean: The running mean that was captured with it, or a new one.
        """
        return replace(state, mean=mean, pending=0, candidate=None)

    def _confirm(self, state: RollbackState, verdict: Verdict) -> tuple[RollbackState, Verdict]:
        candidate = state.candidate or ()
        if len(candidate) < self.confirm:
            return state, verdict
        if self._is_worse(candidate, state.good):
            reason = (
                f"{self.spikes.name} was worse in all of {self.confirm} batches than after the "
                "last good state, which is therefore kept"
            )
            return replace(state, candidate=None), Verdict(False, "refused", reason)
        reason = f"{self.confirm} batches without an incident have followed"
        return replace(state, candidate=None, good=candidate), Verdict(False, "good", reason)

    def _is_worse(self, candidate: tuple[float, ...], good: tuple[float, ...]) -> bool:
        if self.confirm < _LEAST_TO_COMPARE or not good:
            return False
        if self.spikes.mode == "max":
            return max(candidate) < min(good)
        return min(candidate) > max(good)


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The record of one rollback.

    Attributes:
        epoch_index: Index, from 0, of the epoch in which it happened.
        batch_index: Index, from 0, of the last batch that had ended.
        kind: "not finite" or "spike".
        why: The same for people.
        to_epoch: Completed epochs in the state that was restored.
        to_batch: Completed batches of the epoch after those.
        learning_rate: With which training continues; of the first optimizer if there are several.
    """

    epoch_index: int
    batch_index: int
    kind: IncidentKind
    why: str
    to_epoch: int
    to_batch: int
    learning_rate: float

    def __str__(self) -> str:
        return (
            f"{self.why}: back to the state after {self.to_epoch} epochs and {self.to_batch} "
            f"batches, learning rate {self.learning_rate:.4g}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data, under the names in which it is stored."""
        data = asdict(self)
        return {"epoch": data.pop("epoch_index"), "batch": data.pop("batch_index"), **data}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RolledBack:
        """Return the record that `to_dict` described."""
        rest = {name: value for name, value in data.items() if name not in ("epoch", "batch")}
        return cls(epoch_index=data["epoch"], batch_index=data["batch"], **rest)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often to roll back, and with what learning rate to continue.

    Args:
        factor: What the learning rate is multiplied by, above 0 and at most 1.
        most: How often, at most.
    """

    factor: float
    most: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and 0 < self.factor <= 1):
            raise ConfigError(
                "factor multiplies the learning rate after a rollback: it must be above 0 and "
                f"at most 1 (which leaves it unchanged). Got: {self.factor!r}."
            )
        whole_number("max_rollbacks", self.most, 0, "is how often to roll back")

    def check(
        self, done: int, incident: Verdict, known: bool = True, stuck: bool = False
    ) -> Verdict:
        """Return whether to continue after an incident.

        Args:
            done: Rollbacks so far.
            incident: What has happened.
            known: Whether there is a good state.
            stuck: Whether each rollback was to the same state.
        """
        if not known:
            return Verdict(False, "rollback", f"{incident.reason}, and no good state is known")
        if done < self.most:
            return Verdict(True, incident.kind, incident.reason)
        times = f"{done} time{'' if done == 1 else 's'}"
        reason = f"{incident.reason}, and training has rolled back {times} (max_rollbacks)"
        if stuck and done > 1:
            reason += (
                ", each time to the same state: no later one became good in time. Try a "
                "smaller every or confirm"
            )
        return Verdict(False, "rollback", reason, {"rollbacks": float(done)})
