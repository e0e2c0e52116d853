"""The weights of the best few epochs, in memory that is reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from keras_ratchet._engine.averaging.averager import Member, moving_statistics
from keras_ratchet._engine.capture.best_weights import (
    BestWeights,
    Copies,
    all_weights_of,
    copies_on,
)
from keras_ratchet._engine.capture.device_copies import KeepOn
from keras_ratchet.policy.monitor import Monitor
from keras_ratchet.policy.soup import Candidate, order, place_for
from keras_ratchet.types import Model


@dataclass(slots=True)
class _RunnerUp:
    """The weights of an epoch that is not the best."""

    epoch: int
    value: float
    copies: Copies

    @property
    def buffers(self) -> Sequence[NDArray[Any]]:
        """The weights."""
        return self.copies.buffers


class TopKWeights:
    """The best weights, and the runners-up: `k` copies in all.

    Args:
        k: How many epochs are kept, at most.
        optimizer: What of the optimizer is captured with the best weights; see BestWeights.
        keep_on: Where they are kept: "host" or "device".

    Attributes:
        best: The best weights.
        epoch: Index, from 0, of their epoch.
        value: Their value.
    """

    def __init__(self, k: int, optimizer: Any = False, keep_on: KeepOn = "host") -> None:
        self.best = BestWeights(optimizer, keep_on)
        self._keep_on = keep_on
        self.epoch = 0
        self.value = 0.0
        self._k = k
        self._runners_up: list[_RunnerUp] = []

    def wants(self, value: float, monitor: Monitor) -> bool:
        """Return whether a value is among the best `k` so far."""
        return self._place(value, monitor) is not None

    def capture(
        self,
        model: Model,
        sources: Mapping[int, Any],
        epoch: int,
        value: float,
        monitor: Monitor,
    ) -> None:
        """Copy the weights of an epoch, if its value is among the best `k`.

        Args:
            model: The model.
            sources: As in `BestWeights.capture`.
            epoch: Index of the epoch.
            value: Its value.
            monitor: What is better.
        """
        place = self._place(value, monitor)
        if place is None:
            return
        if self.best.is_captured and not monitor.beats(value, self.value):
            copies = self._spare_copies(place)
            copies.capture(all_weights_of(model), sources)
            self._runners_up.append(_RunnerUp(epoch, value, copies))
            return
        if self.best.is_captured and self._k > 1:
            copies = self._spare_copies(place)
            self._runners_up.append(
                _RunnerUp(self.epoch, self.value, self.best.swap_buffers(copies))
            )
        self.epoch, self.value = epoch, value
        self.best.capture(model, sources)

    def _place(self, value: float, monitor: Monitor) -> int | None:
        values, epochs = self._values()
        return place_for(value, values, epochs, self._k, monitor)

    def _values(self) -> tuple[list[float], list[float]]:
        """Return values and epochs, the best first if there is one."""
        own = [(self.value, self.epoch)] if self.best.is_captured else []
        every = [*own, *((other.value, other.epoch) for other in self._runners_up)]
        return [value for value, _ in every], [float(epoch) for _, epoch in every]

    def _spare_copies(self, place: int) -> Copies:
        """Return buffers for new weights: those of the runner-up that has to go, if one has to."""
        if place <= 0 or place > len(self._runners_up):
            return copies_on(self._keep_on)
        return self._runners_up.pop(place - 1).copies  # place 0 is the best, which never goes

    def drop_runners_up(self) -> None:
        """Drop all but the best weights, and capture no others from now on."""
        self._runners_up.clear()
        self._k = 1

    def moving_statistics(self, model: Model) -> list[Any]:
        """Return the model's moving statistics, which differ between the epochs."""
        variables = all_weights_of(model)
        every = [self.best.buffers, *(other.buffers for other in self._runners_up)]
        return [variables[i] for i in moving_statistics(variables, every)]

    def members(self, monitor: Monitor) -> list[Member]:
        """Return what may go into an average, from the best to the worst."""
        values, epochs = self._values()
        buffers = [self.best.buffers, *(other.buffers for other in self._runners_up)]
        ranks = order(values, epochs, monitor)
        return [
            Member(Candidate(f"epoch {int(epochs[i]) + 1}", values[i]), buffers[i]) for i in ranks
        ]

    def state_dict(self, monitor: Monitor) -> dict[str, Any]:
        """Return what was captured, as plain data and arrays."""
        if not self.best.is_captured:
            return {}
        ranks = order(*self._values(), monitor)
        others = [self._runners_up[i - 1] for i in ranks if i > 0]
        return {
            **self.best.state_dict(),
            "epoch": self.epoch,
            "value": self.value,
            "others": [
                {"epoch": s.epoch, "value": s.value, "weights": [b.copy() for b in s.buffers]}
                for s in others
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any], model: Model) -> Any:
        """Take over what `state_dict` returned, as far as there is room; return the best."""
        kept = self.best.load_state_dict(state, model)
        if kept is None:
            return None
        self.epoch, self.value = state["epoch"], state["value"]
        self._runners_up.clear()
        for other in state["others"][: self._k - 1]:  # they go from the best to the worst
            copies = copies_on(self._keep_on)
            copies.load(lambda: all_weights_of(model), other["weights"])
            self._runners_up.append(_RunnerUp(other["epoch"], other["value"], copies))
        return kept
