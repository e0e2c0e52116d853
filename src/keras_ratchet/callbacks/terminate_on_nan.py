"""Stop when the loss or a weight is NaN or infinite, and restore the start of the epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from keras_ratchet._distributed import Coordinator
from keras_ratchet._engine.capture.best_weights import BestWeights
from keras_ratchet._engine.capture.building import build, is_complete
from keras_ratchet._engine.capture.ema import mark_not_swapped, reset_averages
from keras_ratchet._engine.capture.finite import FiniteWatch
from keras_ratchet._engine.capture.optimizers import AllOptimizers, optimizers_of
from keras_ratchet._keras.anatomy import is_whole
from keras_ratchet._keras.callbacks import print_message
from keras_ratchet.callbacks import _journal
from keras_ratchet.callbacks._drop_in import stand_in
from keras_ratchet.callbacks._logs import metrics_of
from keras_ratchet.callbacks.base import RatchetCallback
from keras_ratchet.errors import ConfigError, NonFiniteError
from keras_ratchet.types import StopReason

_log = logging.getLogger("keras_ratchet")


@stand_in
class TerminateOnNaN(RatchetCallback, keras.callbacks.TerminateOnNaN):
    """Stop training when the loss or a weight is NaN or infinite, and restore the last epoch.

    Takes the argument of `keras.callbacks.TerminateOnNaN`, in its place and with its meaning. The
    loss is checked after every batch; the weights and the validation loss after every epoch. The
    model ends with the weights and the optimizer of the start of the epoch, which were finite (or
    of the end of the first batch, if that batch builds the model), and `BackupAndRestore` keeps its
    snapshots. `Rollback` continues instead of stopping.

    Args:
        raise_error: Whether to raise a NonFiniteError, which is a RuntimeError, at once.
        monitor: Names of the metrics that must be finite, where they are in the logs.
        restore: Whether weights and optimizer are restored. They are copied to host memory, into
            one buffer, at the start of each epoch. With False the model keeps what is not finite.
        coordinator: How the processes of this training agree, where that cannot be found out: a
            `keras_ratchet.Coordinator`. To give it to one callback of a list is enough.

    Attributes:
        stop_reason: A `StopReason` once this callback has stopped training, else None.

    Raises:
        ConfigError: If `monitor` does not consist of names.
        NonFiniteError: With `raise_error=True`, after the weights were restored.

    Example:
        ```python
        terminate = TerminateOnNaN()
        model.fit(x, y, epochs=50, callbacks=[terminate])
        print(terminate.stop_reason)  # None, or why; the model has the last good weights
        ```
    """

    def __init__(
        self,
        raise_error: bool = False,
        *,
        monitor: Iterable[str] = ("loss", "val_loss"),
        restore: bool = True,
        coordinator: Coordinator | None = None,
    ) -> None:
        super().__init__(coordinator=coordinator)
        self.raise_error = raise_error
        self.monitor = tuple(monitor)
        self.restore = restore
        if isinstance(monitor, str) or not all(isinstance(name, str) for name in self.monitor):
            raise ConfigError(
                f"monitor must be a list of metric names. Got: {monitor!r}.", see="monitor"
            )
        self._reset()

    def _reset(self) -> None:
        self.stop_reason: StopReason | None = None
        self._start_weights = BestWeights()
        self._watch = FiniteWatch()
        self._epoch, self._start_epoch = 0, 0
        self._due, self._stepped = True, False
        self._noted: tuple[str, str, str] | None = None

    def _without_run(self) -> dict[str, Any]:
        return {**super()._without_run(), "_start_weights": BestWeights(), "_watch": FiniteWatch()}

    @property
    def _needs_batch_hooks(self) -> bool:
        return True

    def on_train_begin(self, logs: Any = None) -> None:
        """Forget the last run."""
        self._reset()
        super().on_train_begin(logs)
        build(self.model)
        self._start_weights = self._empty()
        self._watch.start(self.model, self._optimizer)

    @property
    def _optimizer(self) -> Any:
        return AllOptimizers(self._model) if optimizers_of(self._model) else None

    def _empty(self) -> BestWeights:
        return BestWeights(self._optimizer is not None)

    def _problem(self, alone: bool = False) -> str | None:
        return self._watch.problem(self.model, self._optimizer, alone)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Store the epoch."""
        super().on_epoch_begin(epoch, logs)
        self._epoch, self._due = epoch, True

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Capture the start of an epoch; again after a first batch that has built the model."""
        if not self._due:
            return
        self._due = self.restore and not self._stepped and not is_complete(self.model)
        self._stepped = True
        if self.restore and is_whole(self.model) and self._problem() is None:
            self._start_weights.capture(self.model, {})
            self._start_epoch = self._epoch

    def on_batch_end(self, batch: int, logs: Any = None) -> None:
        """Check the training metrics."""
        for name, value in self._bad(logs):
            self._terminate_all(
                f"Batch {batch}: Invalid loss, terminating training",
                f"NaN or Inf loss encountered at batch {batch}. Loss value: {value}. Terminating "
                f"training immediately.",
                f"{name} is {value} in epoch {self._epoch + 1}, batch {batch + 1}",
            )
            return

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Check the validation metrics, and the weights."""
        super().on_epoch_end(epoch, logs)
        self._terminate_if_noted()
        if self.stop_reason is not None:
            return
        problems = [f"{name} is {value}" for name, value in self._bad(logs)]
        found = self._ranks.gather(self._problem(), "weights that are not finite")
        problems += list(dict.fromkeys(filter(None, found)))
        if problems:
            reason = f"{' and '.join(problems)} after epoch {epoch + 1}"
            line = f"Epoch {epoch + 1}: {problems[0]}, terminating training"
            self._terminate(line, f"{reason}. Terminating training.", reason)

    def _terminate_all(self, line: str, message: str, reason: str) -> None:
        """Terminate; in several processes once the others have heard of it, who need this rank.

        They do before the next snapshot, which would not be finite, or at the end of the epoch.
        """
        if self._ranks.world_size == 1:
            self._terminate(line, message, reason)
            return
        where = f" on rank {self._ranks.rank}"
        self._noted = self._noted or (line + where, message + where, reason + where)
        self._model.stop_training = True

    def on_snapshot_begin(self) -> None:
        """Terminate if a rank has noted something; BackupAndRestore calls this before it saves."""
        self._terminate_if_noted()

    def _terminate_if_noted(self) -> None:
        if self._ranks.world_size == 1:
            return
        found, self._noted = self._ranks.gather(self._noted, "not finite"), None
        if first := next(filter(None, found), None):
            self._terminate(*first)

    def _bad(self, logs: Mapping[str, Any] | None) -> list[tuple[str, float]]:
        values = metrics_of(logs)
        watched = [(name, values[name]) for name in self.monitor if name in values]
        return [(name, value) for name, value in watched if not math.isfinite(value)]

    def _terminate(self, line: str, message: str, reason: str) -> None:
        """Restore the weights, and stop or raise.

        Args:
            line: What to print, as Keras does.
            message: Of the error.
            reason: For the journal and `stop_reason`.
        """
        back = ""
        if self._start_weights.is_captured:
            self._start_weights.restore(self.model)
            mark_not_swapped(self._swap())
            start = f"the start of epoch {self._start_epoch + 1}"
            back = f"; weights and optimizer are those of {start}"
        _log.warning("%s%s", reason, back)
        if self.raise_error:
            fields = {"kind": "not finite", "epoch": self._epoch + 1, "reason": f"{reason}{back}"}
            _journal.note(self._list, "stop", **fields)
            self._leave(NonFiniteError(message))
        print_message(line)
        self.stop_reason = StopReason("not finite", f"{reason}{back}", {}, self._epoch)
        self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Free the memory."""
        self._start_weights = BestWeights()
        super().on_train_end(logs)

    def _wind_down(self, error: BaseException) -> None:
        if self._start_weights.is_captured and self._problem(alone=True) is not None:
            self._start_weights.restore(self.model)
            reset_averages(self.model)
        self._start_weights = BestWeights()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resume."""
        return {
            "kept": self._start_weights.state_dict(),
            "kept_epoch": self._start_epoch,
            "constants": self._watch.state_dict(self._model, self._optimizer),
            "due": self._due,
            "stepped": self._stepped,
            "stop_reason": None if self.stop_reason is None else self.stop_reason.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned; training has started."""
        self._start_weights.load_state_dict(state["kept"], self._model)
        self._start_epoch, self._due = state["kept_epoch"], state["due"]
        self._stepped = state["stepped"]
        self._watch.load_state_dict(state["constants"], self._model, self._optimizer)
        self.stop_reason = StopReason.from_dict(state["stop_reason"])
