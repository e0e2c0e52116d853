"""The learning rates of a model's optimizers: read, and set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_ratchet._engine.capture import optimizers
from keras_ratchet._warn import warn
from keras_ratchet.errors import ConfigError, ScheduleError


class LearningRates:
    """The learning rates of optimizers: Keras's, one of several inside another, or torch's.

    Args:
        every: The optimizers by name; "" for the one that needs none.
    """

    def __init__(self, every: Mapping[str, Any]) -> None:
        self._groups: dict[str, tuple[Any, int]] = {}  # of torch, which replaces them on loading
        self._optimizers: dict[str, Any] = {}
        for name, optimizer in every.items():
            self._add(name, getattr(optimizer, "inner_optimizer", optimizer))

    def _add(self, name: str, optimizer: Any) -> None:
        if hasattr(optimizer, "param_groups"):
            for i in range(len(optimizer.param_groups)):
                self._groups[_joined(name, str(i) if i else "")] = optimizer, i
        elif hasattr(optimizer, "optimizers"):
            self._optimizers |= {_joined(name, one.name): one for one in optimizer.optimizers}
        elif optimizers.is_keras(optimizer) or hasattr(optimizer, "learning_rate") or not name:
            self._optimizers[name] = optimizer

    def read(self) -> dict[str, float]:
        """Return each learning rate by the name of its optimizer, or "" if there is only one."""
        rates = {name: _rate(one) for name, one in self._optimizers.items()}
        groups = {name: one.param_groups[i] for name, (one, i) in self._groups.items()}
        return rates | {name: float(group["lr"]) for name, group in groups.items()}

    def write(self, rates: Mapping[str, float]) -> None:
        """Set learning rates by the names that `read` gave; those of schedules are skipped."""
        for name, (one, i) in self._groups.items():
            if name in rates:
                one.param_groups[i]["lr"] = rates[name]
        for name, one in self._optimizers.items():
            if name in rates and _problem(one) is None:
                one.learning_rate = rates[name]

    @property
    def settable(self) -> list[str]:
        """The names of those that are numbers and belong to no schedule."""
        return [*(n for n, one in self._optimizers.items() if _problem(one) is None), *self._groups]

    def check(self, owner: str, cure: str) -> None:
        """Check that the learning rates can be set.

        Where only some belong to schedules, one warning names those.

        Args:
            owner: Name of the callback, for the message.
            cure: What else to do, likewise.

        Raises:
            ScheduleError: If all belong to schedules.
            ConfigError: If there is none.
        """
        problems = {n: p for n, one in self._optimizers.items() if (p := _problem(one))}
        if not problems:
            return
        error = next(iter(problems.values()))
        if self.settable:
            names = ", ".join(name or "model.optimizer" for name in problems)
            warn(f"{owner} cuts the other learning rates, but cannot cut that of {names}: {error}")
        elif isinstance(error, TypeError):
            message = f"{owner} cannot cut the learning rate. {error} Or {cure}."
            raise ScheduleError(message) from error
        else:
            raise ConfigError(
                f"{owner} cannot cut the learning rate: none can be set ({error}). Give the "
                f"optimizer a number, or {cure}."
            ) from error


def rates_of(model: Any) -> LearningRates:
    """Return the learning rates of all optimizers that train a model.

    A user's `compile` that calls `super().compile()` leaves a default optimizer that is never
    used: it is left out as soon as that shows.
    """
    every = optimizers.optimizers_of(model)
    own = every.pop("optimizer", None)
    if every and (own is None or (_steps(own) == 0 and any(map(_steps, every.values())))):
        return LearningRates(every)
    return LearningRates({"": own, **every})


def _steps(optimizer: Any) -> int:
    """Return how many steps an optimizer has made; for torch's, how many states it has."""
    if not optimizers.is_keras(optimizer):
        return len(getattr(optimizer, "state", ()))
    return int(keras.ops.convert_to_numpy(optimizer.iterations))


def _joined(name: str, part: str) -> str:
    return f"{name}_{part}" if name and part else name or part


def _problem(optimizer: Any) -> Exception | None:
    """Return why an optimizer's learning rate cannot be set, or None."""
    try:
        optimizer.learning_rate = _rate(optimizer)
    except (TypeError, AttributeError) as error:
        return error
    return None


def _rate(optimizer: Any) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
