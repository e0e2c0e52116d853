"""When to cut the learning rate: Keras's rule for a metric that has stopped improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from keras_ratchet._json import plain
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy._arguments import whole_number
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.types import Verdict


@dataclass(frozen=True, slots=True)
class PlateauState:
    """What Plateau remembers between two epochs.

    Attributes:
        wait: Epochs since the last improvement that counted.
        cooldown: Epochs for which nothing is counted yet.
        reference: The value that the next one has to improve on (by `min_delta`).
        best: The best value seen, however small the gain.
        best_epoch: Index, from 0, of its epoch.
    """

    wait: int = 0
    cooldown: int = 0
    reference: float | None = None
    best: float | None = None
    best_epoch: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the state as data for strict JSON."""
        data: dict[str, Any] = plain(asdict(self))
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlateauState:
        """Return the state that `to_json` described."""
        values = {k: data[k] if data[k] is None else float(data[k]) for k in ("reference", "best")}
        return cls(data["wait"], data["cooldown"], best_epoch=data["best_epoch"], **values)


@dataclass(frozen=True, slots=True)
class Plateau:
    """A metric that has not improved for `patience` epochs; `cooldown` epochs follow a cut.

    NaN never improves and is never best, so anything beats a NaN in the first epoch. The count
    continues if a cut was due and not made (call `cut` after one that was).

    Args:
        monitor: The metric and its order.
        patience: Number of epochs without an improvement.
        cooldown: Number of epochs after a cut for which nothing is counted.

    Raises:
        ConfigError: If a number cannot work.

    Example:
        >>> rule, state, asked = Plateau(Monitor("loss"), patience=2), PlateauState(), []
        >>> for epoch, loss in enumerate([float("nan"), 0.5, 0.6, 0.7, 0.8]):
        ...     state, verdict = rule.check(state, epoch, loss)
        ...     asked.append(bool(verdict))
        ...     state = rule.cut(state) if verdict else state
        >>> asked, state.best_epoch
        ([False, False, False, True, False], 1)
    """

    monitor: Monitor
    patience: int = 10
    cooldown: int = 0

    def __post_init__(self) -> None:
        whole_number("patience", self.patience, at_least=0, meaning="counts epochs")
        whole_number("cooldown", self.cooldown, at_least=0, meaning="counts epochs")

    def check(self, state: PlateauState, epoch: int, value: float) -> tuple[PlateauState, Verdict]:
        """Take the value of one epoch into account.

        Args:
            state: What the last call returned, or `PlateauState()`.
            epoch: Index of the epoch.
            value: Of the metric.

        Returns:
            The new state and whether to cut the learning rate.
        """
        name = self.monitor.name
        if state.cooldown:
            state = replace(state, cooldown=state.cooldown - 1, wait=0)
        if self.monitor.beats(value, state.best):
            state = replace(state, best=value, best_epoch=epoch)
        if self.monitor.improves(value, state.reference):
            after = replace(state, reference=value, wait=0)
            return after, Verdict(False, "improved", f"{name} improved to {value:.6g}")
        if state.cooldown:
            return state, Verdict(
                False, "cooldown", f"{state.cooldown} epochs of cooldown are left"
            )
        after = replace(state, wait=state.wait + 1)
        reason = self._sentence(after, value)
        return after, Verdict(after.wait >= self.patience, "plateau", reason, {"value": value})

    def cut(self, state: PlateauState) -> PlateauState:
        """Return the state after the learning rate was cut."""
        return replace(state, wait=0, cooldown=self.cooldown)

    def _sentence(self, state: PlateauState, value: float) -> str:
        epochs = f"{state.wait} epoch{'s' if state.wait != 1 else ''}"
        if state.reference is None:
            return f"{self.monitor.name} has been NaN for {epochs}"
        return (
            f"{self.monitor.name} has not improved on {state.reference:.6g}{self.monitor.gain} "
            f"for {epochs} (now: {value:.6g})"
        )


@dataclass(frozen=True, slots=True)
class Reduction:
    """The record of one cut.

    Attributes:
        epoch: Index, from 0, of the epoch after which it was made.
        why: A sentence.
        before: The learning rate until then; of the first optimizer if there are several.
        after: The learning rate from then on.
    """

    epoch: int
    why: str
    before: float
    after: float


def check_rates(factor: float, min_lr: float) -> None:
    """Raise a ConfigError unless learning rates can be cut by these."""
    if not 0 < factor < 1:
        raise ConfigError(
            f"ReduceLROnPlateau does not support a factor >= 1.0, or one that is not above 0: the "
            f"learning rate is multiplied by it. Got: factor={factor!r}.",
            see="learning-rate",
        )
    if not (math.isfinite(min_lr) and min_lr >= 0):
        raise ConfigError(
            f"min_lr must be a learning rate of at least 0. Got: {min_lr!r}.", see="learning-rate"
        )
