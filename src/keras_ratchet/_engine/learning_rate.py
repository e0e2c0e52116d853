"""The learning rate of whatever optimizes a model: read, and set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_ratchet.errors import ConfigError, ScheduleError


class LearningRates:
    """The learning rates of an optimizer: Keras's, one of several, or torch's.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Any) -> None:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        self._groups: list[Any] | None = None
        self._optimizers: dict[str, Any] = {}
        if hasattr(inner, "param_groups"):
            self._groups = inner.param_groups
        elif hasattr(inner, "optimizers"):
            self._optimizers = {one.name: one for one in inner.optimizers}
        else:
            self._optimizers = {"": inner}

    def read(self) -> dict[str, float]:
        """Return each learning rate by the name of its optimizer, or "" if there is only one."""
        if self._groups is not None:
            return {str(i) if i else "": float(g["lr"]) for i, g in enumerate(self._groups)}
        return {name: _rate(one) for name, one in self._optimizers.items()}

    def write(self, rates: Mapping[str, float]) -> None:
        """Set the learning rates that `read` gave, or others by the same names."""
        if self._groups is not None:
            for i, group in enumerate(self._groups):
                group["lr"] = rates[str(i) if i else ""]
        for name, one in self._optimizers.items():
            one.learning_rate = rates[name]

    @property
    def settable(self) -> bool:
        """Whether they are numbers, and belong to no schedule."""
        try:
            self.write(self.read())
        except (TypeError, AttributeError):
            return False
        return True

    def check(self, owner: str, cure: str) -> None:
        """Find out whether the learning rates can be set.

        Args:
            owner: Name of the callback, for the message.
            cure: What else to do, likewise.

        Raises:
            ScheduleError: If one of them belongs to a schedule.
            ConfigError: If there is none.
        """
        try:
            self.write(self.read())
        except TypeError as error:
            message = f"{owner} cannot cut the learning rate. {error} Or {cure}."
            raise ScheduleError(message) from error
        except AttributeError as error:
            raise ConfigError(
                f"{owner} cannot cut the learning rate: there is none that can be set ({error}). "
                f"Give the optimizer a number, or {cure}."
            ) from error


def _rate(optimizer: Any) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
