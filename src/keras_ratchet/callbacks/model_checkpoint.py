"""Save the model while it trains, into files that cannot be torn."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any

from keras_ratchet import _compat
from keras_ratchet._engine.best_weights import not_finite
from keras_ratchet._engine.saver import check_target, save_model
from keras_ratchet._engine.scored import averages_are_meant, holding_averages, scored_sources
from keras_ratchet.callbacks._moments import as_float, metrics_of
from keras_ratchet.callbacks.monitor_callback import MonitorCallback
from keras_ratchet.errors import ConfigError
from keras_ratchet.policy import naming
from keras_ratchet.policy.monitor import NanRule, missing_message
from keras_ratchet.policy.trigger import EveryBatches

_log = logging.getLogger("keras_ratchet")


class ModelCheckpoint(MonitorCallback):
    """Save the model or its weights at the end of epochs or every so many batches.

    Takes every argument of `keras.callbacks.ModelCheckpoint`, in its place and with its
    meaning; files are plain Keras files. Every save is atomic and durable: a crash, a full disk
    or a power cut leaves the older file whole. docs/differences.md lists where the two differ
    on purpose.

    Args:
        filepath: The file; `.keras` or `.h5` for the whole model, `.weights.h5` for weights.
            Placeholders are `{epoch}` and `{batch}` (from 1) and every metric in the logs; one
            that is absent prints as `nan`.
        monitor: Key of the metric that decides what is best.
        verbose: 1 prints a line for each decision.
        save_best_only: Whether to save only when the metric is better than ever before.
        save_weights_only: Whether to save weights only; `filepath` then ends in `.weights.h5`.
        mode: "min", "max" or "auto".
        save_freq: "epoch", or a number of batches. The metrics of a batch are running means.
        initial_value_threshold: A value that the metric has to beat before the first save.
        nan: What a NaN of the metric does: "ignore" (it is never best) or "raise".

    Attributes:
        best: The metric of the best save, or None.

    Raises:
        ConfigError: If an argument cannot work.
        SaveError: At train begin if nothing can be written there; later if a save fails.
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
        *,
        nan: NanRule = "ignore",
    ) -> None:
        super().__init__(monitor, mode, initial_value_threshold, nan=nan)
        self.verbose = verbose
        self.filepath = os.fspath(filepath)
        self.save_best_only = save_best_only
        self.save_weights_only = save_weights_only
        self.save_freq = save_freq
        self._pending = 0
        self._current_epoch = 0
        self._last_batch_seen: int | None = None
        self._warned: set[str] = set()
        _check_filepath(self.filepath, save_weights_only)
        if save_freq != "epoch":
            self._every = EveryBatches(save_freq)  # type: ignore[arg-type]  # it checks
            self.on_train_batch_end = self._count_batches

    def set_model(self, model: Any) -> None:
        """Note the model, and have batch hooks called on the training thread."""
        super().set_model(model)
        if self.save_freq != "epoch" and self._list is not None:
            _compat.make_synchronous(self._list)

    def on_train_begin(self, logs: Any = None) -> None:
        """Find out now, not after the first epoch, whether saving can work."""
        super().on_train_begin(logs)
        prefix, brace, _ = self.filepath.partition("{")
        check_target(prefix, fixed=not brace)
        self._pending = 0
        self._last_batch_seen = None
        if self.save_best_only:
            self._set_monitor_op_early()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note the epoch."""
        super().on_epoch_begin(epoch, logs)
        self._current_epoch = epoch
        self._last_batch_seen = None

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Save, if epochs are what it goes by."""
        if self._epoch_is_partial():
            self._raise_if_interrupted()
        if self.save_freq == "epoch":
            self._save_model(epoch, None, logs or {})
        self._raise_if_interrupted()

    def _count_batches(self, batch: int, logs: Any = None) -> None:
        """Save, if enough batches are done; `batch` is the index of the last one that ended."""
        last = -1 if self._last_batch_seen is None else self._last_batch_seen
        ended = batch - last if batch > last else batch + 1
        self._last_batch_seen = batch
        self._pending, verdict = self._every.check(self._pending, ended)
        if verdict:
            self._save_model(self._current_epoch, batch, logs or {})

    def _save_model(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> None:
        path = self._path(epoch, batch, logs)
        wanted, value = self._wants(epoch, logs, path)
        if not wanted or not self._may_be_saved(path):
            return
        with self._scored_weights():
            save_model(self.model, path)
        if value is not None:
            self.best = value
        self._say(f"\nEpoch {epoch + 1}: finished saving model to {path}")

    def _wants(self, epoch: int, logs: Mapping[str, Any], path: str) -> tuple[bool, float | None]:
        """Say whether to save, and the value that is then the best."""
        if not self.save_best_only:
            self._say(f"\nEpoch {epoch + 1}: saving model to {path}")
            return True, None
        if self.monitor_op is None:
            self._set_monitor_op()
        value = as_float(logs[self.monitor]) if self.monitor in logs else None
        if value is None:
            return self._wants_without_value(logs), None
        best = "None" if self.best is None else f"{self.best:.5f}"
        if not self._rule.beats(value, self.best):
            self._say(f"\nEpoch {epoch + 1}: {self.monitor} did not improve from {best}")
            return False, None
        self._say(
            f"\nEpoch {epoch + 1}: {self.monitor} improved from {best} to {value:.5f}, "
            f"saving model to {path}"
        )
        return True, value

    def _wants_without_value(self, logs: Mapping[str, Any]) -> bool:
        """Without a value, save only while no best is known: there is nothing to lose yet."""
        if self.monitor in logs:
            why = f"Can save best model only when {self.monitor!r} is one number."
        else:
            why = f"Can save best model only with {self.monitor} available. "
            why += missing_message(self.monitor, logs)
        self._warn_once(self.monitor, f"{why} Saving all the same until a best is known, then not.")
        return self.best is None

    def _may_be_saved(self, path: str) -> bool:
        """Say no to weights that are not finite, if they would count as best or replace a file."""
        sources = scored_sources(self.model, self._swap(), self.monitor)
        bad = not_finite(self.model, sources if self.save_best_only else {})
        if bad is None or not (self.save_best_only or os.path.exists(path)):
            return True
        self._warn_once(
            "not finite", f"ModelCheckpoint did not save {path!r}: weight {bad!r} is not finite."
        )
        return False

    def _scored_weights(self) -> contextlib.AbstractContextManager[None]:
        """Let the model hold what was scored: under SwapEMAWeights the averages."""
        swap = self._swap()
        meant = self.save_best_only and averages_are_meant(swap, self.monitor)
        if swap is not None and (meant or swap.swap_on_epoch):
            return holding_averages(self.model, swap)
        return contextlib.nullcontext()

    def _path(self, epoch: int, batch: int | None, logs: Mapping[str, Any]) -> str:
        values: dict[str, float] = {"epoch": epoch + 1}
        if batch is not None:
            values["batch"] = batch + 1
        elif (self.params or {}).get("steps"):
            values["batch"] = self.params["steps"]
        values |= metrics_of(logs)
        path, missing = naming.render(self.filepath, values)
        for name in missing:
            self._warn_once(name, f"filepath {self.filepath!r}: {missing_message(name, values)}")
        return path

    def _swap(self) -> Any:
        return _compat.swap_callback(self._list)

    def _say(self, message: str) -> None:
        if self.verbose > 0:
            _compat.print_message(message)

    def _warn_once(self, key: str, message: str) -> None:
        _log.info(message)
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, stacklevel=4)


def _check_filepath(filepath: str, weights_only: bool) -> None:
    naming.validate(filepath)
    if "://" in filepath:
        raise ConfigError(
            f"filepath has to be on a mounted file system; remote stores are not supported yet. "
            f"Got: {filepath!r}."
        )
    if weights_only and not filepath.endswith(".weights.h5"):
        raise ConfigError(
            f"With save_weights_only=True filepath must end in '.weights.h5'. Got: {filepath!r}."
        )
    if not weights_only and not filepath.endswith((".keras", ".h5")):
        raise ConfigError(f"filepath must end in '.keras' or '.h5'. Got: {filepath!r}.")
