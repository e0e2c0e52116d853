"""What is kept of the model while training runs, and how it comes back."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from typing import Any

from keras_ratchet import _compat
from keras_ratchet._engine.best_weights import BestWeights, not_finite
from keras_ratchet._engine.scored import restored, scored_sources
from keras_ratchet.callbacks._metrics import training_metric_warning

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
        self._sources: Mapping[int, Any] = {}

    def trusted(self, model: Any, swap: Any, value: float) -> float:
        """Return the score of this epoch, or NaN if the weights that were scored are not finite."""
        self._sources = scored_sources(model, swap, self._metric)
        bad = not_finite(model, self._sources)
        if bad is None:
            return value
        _log.warning("%s=%g counts as NaN: weight %s is not finite", self._metric, value, bad)
        return math.nan

    def keep(self, model: Any) -> Any:
        """Take the weights that were scored in the place of those kept; return them."""
        if not self._warned and _compat.is_training_metric(model, self._metric):
            self._warned = True
            warnings.warn(training_metric_warning(self._metric), stacklevel=4)
        return self._kept.keep(model, self._sources)

    def put_back(self, model: Any, swap: Any) -> None:
        """Restore what was kept."""
        self._kept.restore(model)
        restored(swap)

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept, as plain data and arrays."""
        return self._kept.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], model: Any) -> Any:
        """Take what `state_dict` returned; return the kept weights or None."""
        return self._kept.load_state_dict(state, model)
