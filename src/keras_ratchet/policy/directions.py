"""Which way each metric is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keras_ratchet.errors import UnknownDirectionError
from keras_ratchet.policy.monitor import AnyMode, Mode


@dataclass(frozen=True, slots=True)
class Directions:
    """Looks up the direction of a metric: the mode given for it, or what the model knows.

    Args:
        monitored: Name of the metric that a criterion without a name monitors.
        said: Modes given for metrics, by name.
        ask: Returns the direction that the model knows for a metric, or None.
    """

    monitored: str = "val_loss"
    said: Mapping[str, Mode] = field(default_factory=dict)
    ask: Callable[[str], Mode | None] = lambda name: None

    def of(self, name: str, mode: AnyMode = "auto") -> Mode:
        """Return the direction of a metric; a loss is minimized.

        Raises:
            UnknownDirectionError: If `mode` is "auto" and nobody knows.

        Example:
            >>> Directions().of("val_loss"), Directions(said={"val_f1": "max"}).of("val_f1")
            ('min', 'max')
        """
        if mode != "auto":
            return mode
        if name in self.said:
            return self.said[name]
        known = "min" if name == "loss" or name.endswith("_loss") else self.ask(name)
        if known is None:
            raise UnknownDirectionError(
                f"mode='auto' cannot tell whether {name!r} should be minimized or maximized: "
                "it is neither a loss nor a compiled metric with a known direction. Pass "
                "mode='min' or mode='max'."
            )
        return known
