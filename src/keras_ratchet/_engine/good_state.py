"""Copies of a training's state in host memory, to go back to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from keras_ratchet import _backends, _compat
from keras_ratchet._backends.base import all_finite
from keras_ratchet._engine import rng
from keras_ratchet._engine.best_weights import BestWeights, VariableCopies, weights_of
from keras_ratchet._engine.scored import follow
from keras_ratchet.errors import ConfigError
from keras_ratchet.types import Position

_log = logging.getLogger("keras_ratchet")


class GoodState:
    """One copy: weights, optimizer, the epoch's metrics, and the random streams if asked for.

    The arrays are allocated once and reused.

    Args:
        optimizer: True for the model's; or that of a custom loop.
        streams: Whether the random streams belong to it.
    """

    def __init__(self, optimizer: Any, streams: bool) -> None:
        self._weights = BestWeights(optimizer)
        self._metrics = VariableCopies()
        self._seeds = VariableCopies()
        self._streams: dict[str, Any] | None = {} if streams else None
        self.position = Position()
        self.note: Any = None

    @property
    def filled(self) -> bool:
        """Whether there is a copy."""
        return self._weights.filled

    def keep(self, model: Any, position: Position, note: Any) -> None:
        """Overwrite the copy with the present values.

        Args:
            model: The model.
            position: What is done.
            note: Plain data to remember with it.
        """
        self._weights.keep(model, {})
        self._metrics.keep(_metrics_of(model), {})
        if self._streams is not None:
            self._seeds.keep(_seeds_of(model), {})
            self._streams = rng.capture()
        self.position, self.note = position, note

    def restore(self, model: Any, metrics: bool) -> None:
        """Put the copy back.

        Args:
            model: The model.
            metrics: Whether the epoch's metrics are to be put back too.
        """
        self._weights.restore(model)
        if metrics:
            self._metrics.restore()
        if self._streams is not None:
            self._seeds.restore()
            rng.restore(self._streams)

    def state_dict(self) -> dict[str, Any]:
        """Return the copy as plain data and arrays; nothing if there is none."""
        if not self.filled:
            return {}
        return {
            "weights": self._weights.state_dict(),
            "metrics": [buffer.copy() for buffer in self._metrics.buffers],
            "seeds": [buffer.copy() for buffer in self._seeds.buffers],
            "streams": self._streams,
            "position": [self.position.epoch, self.position.batch],
            "note": self.note,
        }

    def load_state_dict(self, state: Mapping[str, Any], model: Any) -> None:
        """Take what `state_dict` returned."""
        if not state:
            return
        self._weights.load_state_dict(state["weights"], model)
        self._metrics.load(_metrics_of(model), state["metrics"])
        self._seeds.load(_seeds_of(model), state["seeds"])
        self._streams = state["streams"]
        self.position, self.note = Position(*state["position"]), state["note"]


class GoodStates:
    """The good state, and the one that is to follow it once it is known to be good.

    Args:
        optimizer: True for the model's; or that of a custom loop.
        streams: Whether the random streams belong to a state.
    """

    def __init__(self, optimizer: Any, streams: bool) -> None:
        self._optimizer = optimizer
        self.good = GoodState(optimizer, streams)
        self._candidate = GoodState(optimizer, streams)
        self._ignored: set[int] = set()

    def optimizer_of(self, model: Any) -> Any:
        """Return the optimizer.

        Raises:
            ConfigError: If it is none whose state can be kept.
        """
        found = getattr(model, "optimizer", None) if self._optimizer is True else self._optimizer
        if not (hasattr(found, "variables") or hasattr(found, "load_state_dict")):
            raise ConfigError(
                "Going back needs an optimizer with variables (Keras) or state_dict (torch). Got: "
                f"{found!r}. Compile the model, or pass the loop's optimizer: optimizer=optimizer."
            )
        return found

    def take(self, model: Any, position: Position, note: Any, good: bool) -> None:
        """Copy the present state: as the good one, or as the one that is to follow it."""
        (self.good if good else self._candidate).keep(model, position, note)

    def confirm(self) -> None:
        """Let the state that was taken last be the good one."""
        self.good, self._candidate = self._candidate, self.good

    def begin(self, model: Any) -> None:
        """Note what is not finite at first: a constant, such as a mask of minus infinities."""
        variables = self._watched(model)
        self._ignored = {i for i, v in enumerate(variables) if not _is_finite(v)}
        for i in self._ignored:
            _log.warning("%s is not finite at first, so it is not watched", _name(variables[i]))

    def problem(self, model: Any) -> str | None:
        """Return what is not finite in the model or its optimizer, and was at first; or None."""
        for i, variable in enumerate(self._watched(model)):
            if i not in self._ignored and not _is_finite(variable):
                return f"{_name(variable)} is not finite"
        return None

    def rescue(self, model: Any) -> None:
        """Go back if the model cannot be used: training has ended by an exception."""
        if self.good.filled and self.problem(model):
            self.good.restore(model, metrics=False)
            follow(model)

    def state_dict(self, candidate: bool) -> dict[str, Any]:
        """Return the states as plain data and arrays, that of a candidate only if there is one."""
        return {
            "good": self.good.state_dict(),
            "candidate": self._candidate.state_dict() if candidate else {},
            "ignored": sorted(self._ignored),
        }

    def load_state_dict(self, state: Mapping[str, Any], model: Any) -> None:
        """Take what `state_dict` returned."""
        self.good.load_state_dict(state["good"], model)
        self._candidate.load_state_dict(state["candidate"], model)
        self._ignored = set(state["ignored"])

    def _watched(self, model: Any) -> list[Any]:
        """Return the weights and the optimizer's variables."""
        slots = getattr(self.optimizer_of(model), "variables", ())
        return [*(weights_of(model) or ()), *slots]


def build(model: Any) -> None:
    """Create all variables before the first step, in `on_train_begin`; tensorflow would later."""
    optimizer = getattr(model, "optimizer", None)
    if not (getattr(model, "built", True) and getattr(optimizer, "built", True)):
        _compat.build(model, _compat.epoch_iterator())


def _metrics_of(model: Any) -> list[Any]:
    return list(getattr(model, "metrics_variables", ()))


def _seeds_of(model: Any) -> list[Any]:
    """Return the states of the model's own seed generators."""
    weights = {id(v) for v in weights_of(model) or ()}
    return [v for v in getattr(model, "variables", ()) if id(v) not in weights]


def _is_finite(variable: Any) -> bool:
    return all_finite(_backends.current().view(variable))


def _name(variable: Any) -> str:
    return str(getattr(variable, "path", variable.name))
