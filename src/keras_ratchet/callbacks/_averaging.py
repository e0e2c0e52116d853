"""EarlyStopping(average=...): the best few epochs are kept, and averaged at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from keras_ratchet._engine.averaging.averager import Averager, Cut, average, needs_data, undisturbed
from keras_ratchet._engine.averaging.moving_statistics import StatisticsData
from keras_ratchet._engine.averaging.top_k_weights import TopKWeights
from keras_ratchet._engine.averaging.validation import Validation, validation_of
from keras_ratchet._engine.capture.best_weights import weights_of
from keras_ratchet._engine.capture.ema import restored, scored_sources
from keras_ratchet._engine.capture.finite import FiniteWatch
from keras_ratchet._keras import data_adapters
from keras_ratchet._warn import warn
from keras_ratchet.callbacks import _journal
from keras_ratchet.callbacks._best_weights import Keeper
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.errors import ConfigError, MetricError
from keras_ratchet.policy.soup import refused
from keras_ratchet.types import AverageRecord

if TYPE_CHECKING:
    from keras_ratchet.callbacks.early_stopping import EarlyStopping

_log = logging.getLogger("keras_ratchet")


class AveragingKeeper(Keeper):
    """Keeps the weights of the best epochs, and ends with their average if that is better.

    Args:
        owner: The callback, whose arguments say how.
    """

    def __init__(self, owner: EarlyStopping) -> None:
        self._owner = owner
        self._refusal = ""
        self._tested: float | None = None
        self._tested_best: float | None = None
        super().__init__(owner.monitor, owner.restore_optimizer)

    def empty(self) -> None:
        """Free the memory."""
        self._snapshots = TopKWeights(self._owner.average_k, self._optimizer)
        self._kept = self._snapshots.best
        self._watch = FiniteWatch()
        self._sources: Mapping[int, Any] = {}
        self._validation: Validation | None = None
        self._data: StatisticsData | None = None

    def begin(self, model: Any) -> None:
        """Find out what averages are measured on; `fit` tells where it looks itself.

        Raises:
            ConfigError: If nothing can be measured.
        """
        super().begin(model)
        if weights_of(model) is None:
            raise ConfigError("average= needs a Keras model, whose weights are variables.")
        fits = data_adapters.fit_validation()
        self._validation = validation_of(self._owner.validation_data, fits)
        self._validation.check(model)
        if self._owner.average_data is not None:
            size = fits.get("batch_size") or 32
            self._data = StatisticsData(self._owner.average_data, size)

    def tested(self, logs: Any) -> None:
        """Note what a validation of `fit` has measured, before other callbacks may change it."""
        self._tested = metrics_of(logs).get(self._metric.removeprefix("val_"))

    def offer(self, model: Any, epoch: int, value: float, is_best: bool) -> Any:
        """Keep the weights of an epoch if they are among the best; return the best."""
        if is_best:
            self._warn_of_training_metric(model)
            self._tested_best = self._tested
        elif not self._is_runner_up(model, epoch, value):
            return self._kept.weights
        self._snapshots.keep(model, self._sources, epoch, value, self._owner._rule)
        if self._data is None and not self._refusal:
            self._look_for_statistics(model)
        return self._kept.weights

    def _is_runner_up(self, model: Any, epoch: int, value: float) -> bool:
        """Say whether an epoch that is not the best is worth to be kept."""
        if epoch < self._owner.start_from_epoch or not self._kept.filled:
            return False
        if not self._snapshots.wants(value, self._owner._rule):
            return False
        self._sources = scored_sources(model, self._owner._swap(), self._metric)
        return self._watch.bad(model, sources=self._sources) is None

    def _look_for_statistics(self, model: Any) -> None:
        """Say early, and not after the whole training, that no average can be taken."""
        if found := self._snapshots.moving(model):
            self._refuse(needs_data(found[0]))

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        self._snapshots.drop_others()
        message = f"average={self._owner.average!r} is not possible: {reason}."
        warn(f"{message} The best epoch will be restored.")

    def put_back(self, model: Any, swap: Any, hurry: str = "") -> AverageRecord:
        """Restore the best weights; then, unless there is a hurry, try averages."""
        super().put_back(model, swap)
        members = self._snapshots.members(self._owner._rule)
        kind, best = self._owner.average, members[0].candidate
        assert kind is not None
        reason = self._refusal or hurry or self._haste()
        record = refused(kind, self._owner._rule, best, reason)
        if not reason:
            try:
                record = self._average(model, swap)
            except Cut:
                record = self._given_up(model, swap, self._haste())
            except MetricError as error:
                record = self._given_up(model, swap, str(error))
                warn(f"average={kind!r}: {record}")
        _log.info("average: %s", record)
        facts = {name: value for name, value in asdict(record).items() if name != "indices"}
        _journal.note(self._owner._list, "average", epoch=self._snapshots.epoch + 1, **facts)
        return record

    def _average(self, model: Any, swap: Any) -> AverageRecord:
        assert self._validation is not None and self._owner.average is not None
        rule, members = self._owner._rule, self._snapshots.members(self._owner._rule)
        holds = self._validation.is_fits and swap is None
        logged = holds and self._tested_best == self._snapshots.value
        candidates = [member.candidate for member in members]
        with undisturbed(model):
            averager = Averager(
                model,
                members,
                rule,
                self._validation,
                watch=self._watch,
                data=self._data,
                cut=lambda: bool(self._haste()),
            )
            best = candidates[0].value if logged else None
            record = average(averager, self._owner.average, candidates, rule, best)
        restored(swap)
        return record

    def _given_up(self, model: Any, swap: Any, reason: str) -> AverageRecord:
        """Restore the best weights after all."""
        assert self._owner.average is not None
        super().put_back(model, swap)
        best = self._snapshots.members(self._owner._rule)[0].candidate
        return refused(self._owner.average, self._owner._rule, best, reason)

    def _haste(self) -> str:
        """Return why there is no time for validation, or nothing."""
        if self._owner._ctrl_c.requested:
            return "training was ended by Ctrl-C"
        for callback in getattr(self._owner._list, "callbacks", ()):
            stop = getattr(callback, "stop_reason", None)
            if getattr(stop, "kind", "") in ("signal", "deadline"):
                return f"the process has to make room ({stop})"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept, as plain data and arrays."""
        state = self._snapshots.state_dict(self._owner._rule)
        return {**state, "tested": self._tested_best, "refusal": self._refusal} if state else {}

    def load_state_dict(self, state: Mapping[str, Any], model: Any) -> Any:
        """Take what `state_dict` returned, here or in a Keeper; return the best or None."""
        if not state:
            return None
        own: dict[str, Any] = {
            "epoch": self._owner.best_epoch,
            "value": self._owner.best_value,
            "others": [],
        }
        self._tested_best = state.get("tested")
        self._refusal = state.get("refusal", "")
        best = self._snapshots.load_state_dict({**own, **state}, model)
        if self._refusal:
            self._snapshots.drop_others()
        return best


def keeper_of(owner: EarlyStopping) -> Keeper:
    """Return what keeps weights for a callback."""
    if owner.average is None:
        return Keeper(owner.monitor, owner.restore_optimizer)
    return AveragingKeeper(owner)
