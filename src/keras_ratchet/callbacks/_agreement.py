"""Callbacks that a list gets in several processes: they agree on logs, stopping and Ctrl-C."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras

from keras_ratchet._keras.callbacks import make_synchronous
from keras_ratchet._keras.metrics import sample_counts
from keras_ratchet.callbacks._ranks import Pace, agree_on_logs
from keras_ratchet.types import Model

_log = logging.getLogger("keras_ratchet")


class AgreeOnLogs(keras.callbacks.Callback):
    """Stands before the callbacks that read logs; makes metrics the same on all ranks.

    Args:
        ranks: The coordinator.
        given: How many samples metrics were measured on, by name, as a loop has said.
    """

    def __init__(self, ranks: Any, given: Mapping[str, float]) -> None:
        super().__init__()
        self._ranks = ranks
        self._given = given
        self._trained: dict[str, float] = {}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Forget the epoch before."""
        self._trained = {}

    def on_test_begin(self, logs: Any = None) -> None:
        """Count the samples of the training, before the validation resets the metrics."""
        self._trained = self._trained or sample_counts(self.model)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Replace what differs by rank by its mean."""
        if logs is None:
            return
        now = sample_counts(self.model)
        if self._trained:
            counts = {**self._trained, **{f"val_{name}": n for name, n in now.items()}}
        else:
            counts = now
        agree_on_logs(self._ranks, epoch, logs, {**counts, **self._given})


class AgreeOnStop(keras.callbacks.Callback):
    """Stands after the callbacks that may stop training: if one rank stops, all do.

    A rank that stopped in mid-epoch by itself would leave the others in a collective of the
    engine. So its wish waits until the ranks talk, about once a second and at the epoch's end.

    Args:
        ranks: The coordinator.
        ctrl_c: What Ctrl-C asks for.
    """

    def __init__(self, ranks: Any, ctrl_c: Any) -> None:
        super().__init__()
        self._ranks = ranks
        self._ctrl_c = ctrl_c
        self._pace = Pace(ranks)
        self._wants = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note nothing of the epoch before."""
        self._wants = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hold back a stop of this rank alone; stop if all have heard of it."""
        if self._model.stop_training:  # `self.model` would synchronize on jax
            self._wants, self._model.stop_training = True, False
        if self._pace.is_due():
            own = self._wants, self._ctrl_c.asked
            self._act(self._pace.talk(own, "whether to stop"), f"after batch {batch + 1}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop on all ranks if one of them stops."""
        own = self._wants or bool(self.model.stop_training), self._ctrl_c.asked
        self._act(self._ranks.gather(own, "whether to stop"), f"after epoch {epoch + 1}")

    def _act(self, everywhere: list[tuple[bool, bool]], where: str) -> None:
        wanting = [rank for rank, (wants, _) in enumerate(everywhere) if wants]
        pressed = any(asked for _, asked in everywhere)
        if pressed:
            self._ctrl_c.requested = True
        if not (wanting or pressed):
            return
        if wanting and len(wanting) < len(everywhere) and self._ranks.rank == 0:
            who = ", ".join(map(str, wanting))
            _log.warning("rank %s has stopped training, so all ranks stop %s", who, where)
        self.model.stop_training = True


def join_list(callback_list: Any, model: Model, ranks: Any, ctrl_c: Any) -> None:
    """Put the callbacks of this module into a list.

    Args:
        callback_list: The `CallbackList`; it is calling `on_train_begin`.
        model: The model.
        ranks: The coordinator.
        ctrl_c: What Ctrl-C asks for.
    """
    leave_list(callback_list)
    present = callback_list.callbacks
    given: Mapping[str, float] = next(
        (c.log_weights for c in present if hasattr(c, "log_weights")), {}
    )
    head = [c for c in present if getattr(c, "place", "") == "first"]
    tail = [c for c in present if getattr(c, "place", "") == "last"]
    others: list[Any] = [AgreeOnLogs(ranks, given)]
    for callback in (c for c in present if c not in head and c not in tail):
        if _may_write(others[-1]) and not _may_write(callback):
            others.append(AgreeOnLogs(ranks, given))
        others.append(callback)
    callback_list.callbacks = [*head, *others, AgreeOnStop(ranks, ctrl_c), *tail]
    for callback in callback_list.callbacks:
        if is_agreement(callback):
            callback.set_model(model)
    make_synchronous(callback_list)


def _may_write(callback: Any) -> bool:
    """Return whether a callback may add metrics to the logs, which then differ by rank."""
    root = getattr(callback.on_epoch_end, "__module__", "").partition(".")[0]
    return root not in ("keras", "keras_ratchet")


def leave_list(callback_list: Any) -> None:
    """Remove the callbacks of this module from a list."""
    if callback_list is not None:
        callback_list.callbacks = [c for c in callback_list.callbacks if not is_agreement(c)]


def is_agreement(callback: Any) -> bool:
    """Return whether a callback is of this module."""
    return isinstance(callback, AgreeOnLogs | AgreeOnStop)
