"""What is kept of the model while training runs, and how it comes back."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from keras_ratchet._engine.capture.best_weights import BestWeights
from keras_ratchet._engine.capture.ema import restored, scored_sources
from keras_ratchet._engine.capture.finite import FiniteWatch
from keras_ratchet._keras.metrics import is_training_metric
from keras_ratchet._warn import warn
from keras_ratchet.callbacks._metrics import training_metric_warning
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.soup import check_average
from keras_ratchet.types import AverageRecord

_log = logging.getLogger("keras_ratchet")


class Keeper:
    """Keeps the weights of the best epoch, and puts them back when training ends.

    Args:
        metric: Name of the metric that decides which epoch is best.
        optimizer: Whether, or which, optimizer is kept too; see BestWeights.
    """

    def __init__(self, metric: str, optimizer: Any) -> None:
        self._metric = metric
        self._optimizer = optimizer
        self._warned = False
        self.empty()

    @property
    def filled(self) -> bool:
        """Whether there is something to restore."""
        return self._kept.filled

    def empty(self) -> None:
        """Free the memory."""
        self._kept = BestWeights(self._optimizer)
        self._watch = FiniteWatch()
        self._best: Any = None
        self._sources: Mapping[int, Any] = {}

    def trusted(self, model: Any, swap: Any, value: float) -> float:
        """Return the score of this epoch, or NaN if the weights that were scored are not finite."""
        self._sources = scored_sources(model, swap, self._metric)
        bad = self._watch.bad(model, sources=self._sources)
        if bad is None:
            return value
        _log.warning("%s=%g counts as NaN: weight %s is not finite", self._metric, value, bad)
        return math.nan

    def begin(self, model: Any) -> None:
        """Look at the weights that a run begins with."""
        self._watch.begin(model)

    def tested(self, logs: Any) -> None:
        """Hear of the end of a validation."""

    def offer(self, model: Any, epoch: int, value: float, is_best: bool) -> Any:
        """Take the weights of an epoch that was scored, if they are wanted.

        Args:
            model: The model.
            epoch: Index of the epoch.
            value: Its value.
            is_best: Whether it is the best so far.

        Returns:
            The best weights.
        """
        if not is_best:
            return self._best
        self._warn_of_training_metric(model)
        self._best = self._kept.keep(model, self._sources)
        return self._best

    def _warn_of_training_metric(self, model: Any) -> None:
        if not self._warned and is_training_metric(model, self._metric):
            self._warned = True
            warn(training_metric_warning(self._metric))

    def put_back(self, model: Any, swap: Any, hurry: str = "") -> AverageRecord | None:
        """Restore what was kept.

        Args:
            model: The model.
            swap: The `SwapEMAWeights` of the callback list, or None.
            hurry: Why there is no time for more than that, if there is none.

        Returns:
            What became of an average, if one was asked for.
        """
        self._kept.restore(model)
        restored(swap)
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept, as plain data and arrays."""
        return self._kept.state_dict()

    def constants(self, model: Any) -> dict[str, Any]:
        """Return what is not finite and is no evidence of anything."""
        return self._watch.state_dict(model)

    def load_constants(self, state: Any, model: Any) -> None:
        """Take what `constants` returned."""
        self._watch.load_state_dict(state, model)

    def load_state_dict(self, state: Mapping[str, Any], model: Any) -> Any:
        """Take what `state_dict` returned; return the kept weights or None."""
        self._best = self._kept.load_state_dict(state, model)
        return self._best


def check_average_arguments(
    average: object, k: object, restores: bool, validation_data: Any, average_data: Any
) -> None:
    """Raise a ConfigError if the arguments of EarlyStopping that concern averages cannot work."""
    check_average(average, k)
    if average is None and (validation_data is not None or average_data is not None):
        raise ConfigError(
            "validation_data and average_data say how averages are made. Pass average='soup' or "
            "average='mean' with them."
        )
    if average is not None and not restores:
        raise ConfigError(
            f"average={average!r} is about which weights are restored. Pass "
            f"restore_best_weights=True with it."
        )
