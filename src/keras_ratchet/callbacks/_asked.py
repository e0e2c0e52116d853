"""`_is_improvement` of a subclass: the order of a metric as Keras's users define it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.policy.patience import Patience

Ask = Callable[[float, float | None], Any]


@dataclass(frozen=True, slots=True)
class AskedMonitor(Monitor):
    """An order that a function decides, for patience and, as in Keras, for what is restored.

    NaN is no improvement, whatever the function says.

    Args:
        ask: Says whether a value improves on another one, or on nothing (None).
    """

    ask: Ask = field(kw_only=True)

    def beats(self, value: float, reference: float | None) -> bool:
        """Say whether `value` improves on `reference`."""
        return self.improves(value, reference)

    def improves(self, value: float, reference: float | None) -> bool:
        """Say whether `value` improves on `reference`."""
        return not math.isnan(value) and bool(self.ask(value, reference))


@dataclass(frozen=True, slots=True)
class AskedPatience(Patience):
    """Patience that goes by such an order.

    Args:
        order: The order.
    """

    order: Monitor = field(kw_only=True)

    def _monitor(self) -> Monitor:
        return self.order


class LastAnswer:
    """Asks no question twice in a row: one epoch asks for patience and for what is restored.

    Args:
        ask: The function.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._last: tuple[float, float | None, bool] | None = None

    def __call__(self, value: float, reference: float | None) -> bool:
        """Return the answer of the function."""
        if self._last is None or self._last[:2] != (value, reference):
            self._last = value, reference, bool(self._ask(value, reference))
        return self._last[2]
