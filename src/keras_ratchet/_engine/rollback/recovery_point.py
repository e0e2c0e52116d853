"""Copies of the training state in host memory, to roll back to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_ratchet._distributed.one import One
from keras_ratchet._engine.capture import rng
from keras_ratchet._engine.capture.best_weights import BestWeights, VariableCopies, weights_of
from keras_ratchet._engine.capture.ema import reset_averages
from keras_ratchet._engine.capture.finite import FiniteWatch
from keras_ratchet._engine.capture.model_state import streams_beyond
from keras_ratchet._engine.capture.optimizers import AllOptimizers, LearningRates, rates_of
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Model, Position


class RecoveryPoint:
    """One copy: weights, optimizer, the epoch's metrics, and the random streams if asked for.

    The arrays are allocated once and reused.

    Args:
        optimizer: True for the model's; or that of a custom loop.
        streams: Whether the random streams are captured too.

    Attributes:
        position: How much training was done.
        note: Plain data that belongs to it.
    """

    def __init__(self, optimizer: Any, streams: bool) -> None:
        self._weights = BestWeights(optimizer)
        self._metrics = VariableCopies()
        self._seeds = VariableCopies()
        self._streams: dict[str, Any] | None = {} if streams else None
        self.position = Position()
        self.note: Any = None

    @property
    def is_captured(self) -> bool:
        """Whether there is a copy."""
        return self._weights.is_captured

    def capture(self, model: Model, position: Position, note: Any) -> None:
        """Overwrite the copy with the present values.

        Args:
            model: The model.
            position: How much training is done.
            note: Plain data that belongs to it.
        """
        self._weights.capture(model, {})
        self._metrics.capture(_metrics_of(model), {})
        if self._streams is not None:
            self._seeds.capture(_seeds_of(model), {})
            self._streams = rng.capture()
        self.position, self.note = position, note

    def restore(self, model: Model, metrics: bool) -> None:
        """Restore the copy.

        Args:
            model: The model.
            metrics: Whether the epoch's metrics are restored too.
        """
        self._weights.restore(model)
        if metrics:
            self._metrics.restore()
        if self._streams is not None:
            self._seeds.restore()
            rng.restore(self._streams)

    def state_dict(self) -> dict[str, Any]:
        """Return the copy as plain data and arrays; nothing if there is none."""
        if not self.is_captured:
            return {}
        return {
            "weights": self._weights.state_dict(),
            "metrics": [buffer.copy() for buffer in self._metrics.buffers],
            "seeds": [buffer.copy() for buffer in self._seeds.buffers],
            "streams": self._streams,
            "position": [self.position.epoch, self.position.batch],
            "note": self.note,
        }

    def load_state_dict(self, state: Mapping[str, Any], model: Model) -> None:
        """Take over what `state_dict` returned."""
        if not state:
            return
        self._weights.load_state_dict(state["weights"], model)
        self._metrics.load(lambda: _metrics_of(model), state["metrics"])
        self._seeds.load(lambda: _seeds_of(model), state["seeds"])
        self._streams = state["streams"]
        self.position, self.note = Position(*state["position"]), state["note"]


class RecoveryPoints:
    """The good state, and the candidate that replaces it once it is known to be good.

    Args:
        optimizer: True for the model's; or that of a custom loop.
        streams: Whether the random streams are captured too.
        ranks: The coordinator.

    Attributes:
        good: The good state.
    """

    def __init__(self, optimizer: Any, streams: bool, ranks: Any = None) -> None:
        self._optimizer = optimizer
        self._ranks = ranks or One()
        self.good = RecoveryPoint(optimizer, streams)
        self._candidate = RecoveryPoint(optimizer, streams)
        self._watch = FiniteWatch()

    def optimizer_of(self, model: Model) -> Any:
        """Return the loop's optimizer, or what stands for all optimizers of the model.

        Raises:
            ConfigError: If there is none whose state can be captured.
        """
        if self._optimizer is True:
            return AllOptimizers(model)
        found = self._optimizer
        if not (hasattr(found, "variables") or hasattr(found, "load_state_dict")):
            raise ConfigError(
                "A rollback needs an optimizer with variables (Keras) or state_dict (torch). "
                f"Got: {found!r}. Compile the model, or pass the loop's optimizer: "
                "optimizer=optimizer.",
                see="optimizer",
            )
        return found

    def rates_of(self, model: Model) -> LearningRates:
        """Return the learning rates to cut."""
        optimizer = self.optimizer_of(model)
        return rates_of(model) if self._optimizer is True else LearningRates({"": optimizer})

    def capture(self, model: Model, position: Position, note: Any, good: bool) -> None:
        """Copy the present state: as the good one, or as the candidate."""
        (self.good if good else self._candidate).capture(model, position, note)

    def confirm(self) -> None:
        """Make the candidate the good state."""
        self.good, self._candidate = self._candidate, self.good

    def start(self, model: Model) -> None:
        """Record what is not finite when the run starts, and so is not a problem."""
        self._watch.start(model, self.optimizer_of(model))

    def problem(self, model: Model) -> str | None:
        """Return what is not finite in the model or its optimizer, on whatever rank, or None."""
        found = self._ranks.gather(self._problem(model), "weights that are not finite")
        return next((problem for problem in found if problem is not None), None)

    def _problem(self, model: Model) -> str | None:
        return self._watch.problem(model, self.optimizer_of(model), alone=True)

    def restore_if_bad(self, model: Model) -> None:
        """Restore the good state, after an exception, if the model is not finite."""
        if self.good.is_captured and self._problem(model):
            self.good.restore(model, metrics=False)
            reset_averages(model)

    def state_dict(self, model: Model, candidate: bool) -> dict[str, Any]:
        """Return the states as plain data and arrays.

        Args:
            model: The model.
            candidate: Whether there is a candidate.
        """
        return {
            "good": self.good.state_dict(),
            "candidate": self._candidate.state_dict() if candidate else {},
            "constants": self._watch.state_dict(model, self.optimizer_of(model)),
        }

    def load_state_dict(self, state: Mapping[str, Any], model: Model) -> None:
        """Take over what `state_dict` returned."""
        self.good.load_state_dict(state["good"], model)
        self._candidate.load_state_dict(state["candidate"], model)
        self._watch.load_state_dict(state["constants"], model, self.optimizer_of(model))


def _metrics_of(model: Model) -> list[Any]:
    return list(getattr(model, "metrics_variables", ()))


def _seeds_of(model: Model) -> list[Any]:
    """Return the states of the seed generators of the model, its metrics and losses."""
    weights = {id(v) for v in weights_of(model) or ()}
    own = [v for v in getattr(model, "variables", ()) if id(v) not in weights]
    return [*own, *streams_beyond(model)]
