"""Which metric is watched, and what "better" means."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from keras_ratchet.errors import ConfigError, UnknownDirectionError

Mode = Literal["min", "max"]
AnyMode = Literal["auto", "min", "max"]
DeltaMode = Literal["absolute", "relative"]
NanRule = Literal["ignore", "stop", "raise"]


@dataclass(frozen=True, slots=True)
class Monitor:
    """A metric's name and its order.

    NaN never improves on anything and is never best. Infinities take their place at the ends
    of the number line, so anything finite beats an infinitely bad value.

    Args:
        name: Key of the metric in the logs.
        mode: "min" if smaller is better, "max" if larger is.
        min_delta: How much better a value has to be, at the least, to count as an improvement.
        min_delta_mode: "absolute", or "relative" to the magnitude of the reference: the bar is
            then `min_delta * abs(reference)`, which asks for a gain whatever the sign
            (`reference * (1 - min_delta)` would accept losses for negative values).
        nan: What a NaN does: "ignore" (no improvement, counts toward patience), "stop", "raise".

    Raises:
        ConfigError: If an argument is none of these.

    Example:
        >>> loss = Monitor("val_loss", "min", min_delta=0.01, min_delta_mode="relative")
        >>> loss.improves(-1.005, -1.0), loss.improves(-1.02, -1.0)
        (False, True)
        >>> loss.beats(float("nan"), None)
        False
    """

    name: str = "val_loss"
    mode: Mode = "min"
    min_delta: float = 0.0
    min_delta_mode: DeltaMode = "absolute"
    nan: NanRule = "ignore"

    def __post_init__(self) -> None:
        one_of("mode", self.mode, get_args(Mode))
        one_of("min_delta_mode", self.min_delta_mode, get_args(DeltaMode))
        one_of("nan", self.nan, get_args(NanRule))
        if not (math.isfinite(self.min_delta) and self.min_delta >= 0):
            raise ConfigError(
                f"min_delta is the smallest gain that counts, so it must be a finite number of "
                f"at least 0. Got: {self.min_delta!r}."
            )

    def beats(self, value: float, reference: float | None) -> bool:
        """Return whether `value` is strictly better than `reference`, however little."""
        return self._better(value, reference, 0.0)

    def improves(self, value: float, reference: float | None) -> bool:
        """Return whether `value` is better than `reference` by more than `min_delta`."""
        return self._better(value, reference, self._margin(reference))

    @property
    def gain(self) -> str:
        """How much a value has to gain, for a sentence: " by more than min_delta=0.1", or ""."""
        unit = " (relative)" if self.min_delta_mode == "relative" else ""
        return f" by more than min_delta={self.min_delta:g}{unit}" if self.min_delta else ""

    def _margin(self, reference: float | None) -> float:
        if reference is None or not math.isfinite(reference):
            return 0.0
        if self.min_delta_mode == "relative":
            return self.min_delta * abs(reference)
        return self.min_delta

    def _better(self, value: float, reference: float | None, margin: float) -> bool:
        if math.isnan(value):
            return False
        if reference is None or math.isnan(reference):
            return True
        if self.mode == "min":
            return value + margin < reference
        return value - margin > reference


def one_of(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise a ConfigError unless `value` is one of `choices`."""
    known = tuple(choices)
    if value not in known:
        names = ", ".join(repr(choice) for choice in known)
        raise ConfigError(f"{argument} must be one of {names}. Got: {value!r}.")


def close_matches(name: str, available: Iterable[str]) -> tuple[str, ...]:
    """Return the names in `available` that a person may have meant by `name`, best first.

    Example:
        >>> close_matches("val_acuracy", ["loss", "accuracy", "val_accuracy"])
        ('val_accuracy', 'accuracy')
    """
    return tuple(difflib.get_close_matches(name, sorted(available), n=3, cutoff=0.6))


def missing_message(name: str, available: Iterable[str]) -> str:
    """Return the sentences that tell a user which metrics there are instead of `name`."""
    names = sorted(available)
    close = close_matches(name, names)
    hint = f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
    listed = ", ".join(names) if names else "none"
    return f"Metric {name!r} is not in the logs.{hint} Available: {listed}."


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
