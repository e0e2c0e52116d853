"""Callbacks that a list gets in several processes: they agree on logs, stopping and Ctrl-C."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import keras

from keras_ratchet._keras.callbacks import make_synchronous
from keras_ratchet._keras.metrics import sample_counts
from keras_ratchet.callbacks._ranks import Pace, agree_on_logs, is_ours
from keras_ratchet.types import Model

STOP_EVERY = 32  # batches of an epoch: not seconds, so that a run that resumes stops where it would
_OWN: Any = object()
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
        self.replaced: dict[str, Any] = {}

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
        own = dict(logs)
        agree_on_logs(self._ranks, epoch, logs, {**counts, **self._given})
        self.replaced = {n: own.get(n, _OWN) for n, v in logs.items() if own.get(n, _OWN) is not v}


class LeaveLogs(keras.callbacks.Callback):
    """Stands after callbacks of ours, with `sync_logs=False`: the others see this rank's metrics.

    Args:
        agreed: What has replaced them.
    """

    def __init__(self, agreed: AgreeOnLogs) -> None:
        super().__init__()
        self._agreed = agreed

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put back what was replaced."""
        for name, value in self._agreed.replaced.items():
            if value is _OWN:
                del logs[name]
            else:
                logs[name] = value


class AgreeOnStop(keras.callbacks.Callback):
    """Stands after the callbacks that may stop training: if one rank stops, all do.

    A rank that stopped in mid-epoch by itself would leave the others in a collective of the
    engine. So its wish waits until the ranks talk of it: after every 32nd batch of the epoch, and
    at its end. Of Ctrl-C they talk about once a second.

    Args:
        ranks: The coordinator.
        ctrl_c: What Ctrl-C asks for.
        model: The model, as the loop looks at it: `self.model` would synchronize it on jax.
    """

    def __init__(self, ranks: Any, ctrl_c: Any, model: Any) -> None:
        super().__init__()
        self._ranks = ranks
        self._of_loop = model
        self._ctrl_c = ctrl_c
        self._pace = Pace(ranks)
        self._epoch = self._done = 0
        ranks.holds_stop = False  # a snapshot holds it, too

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note where training is."""
        self._epoch, self._done = epoch, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note that this rank is in a batch: a rank that has fewer waits for it in vain."""
        self._done = batch
        self._ranks.step.begin(f"batch {batch + 1} of epoch {self._epoch + 1}")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Hold back a stop of this rank alone; stop if all have heard of it."""
        self._ranks.step.end()
        if self._of_loop.stop_training:
            self._ranks.holds_stop, self._of_loop.stop_training = True, False
        if self._pace.is_due():
            self._end_by_ctrl_c(self._pace.talk(self._ctrl_c.asked, "whether to end"))
        before, self._done = self._done, batch + 1
        if self._done // STOP_EVERY > before // STOP_EVERY:
            everywhere = self._ranks.gather(self._ranks.holds_stop, "whether to stop")
            self._stop(everywhere, f"after batch {batch + 1}")

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Note that this rank is in a batch, in which Keras may wait for the others."""
        self._ranks.step.begin(f"batch {batch + 1} of a validation")

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note that it has ended."""
        self._ranks.step.end()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop on all ranks if one of them stops."""
        self._ranks.holds_stop |= bool(self._of_loop.stop_training)
        own = self._ctrl_c.asked, self._ranks.holds_stop
        everywhere = self._ranks.gather(own, "whether to end or to stop")
        self._end_by_ctrl_c([asked for asked, _ in everywhere])
        self._stop([holds for _, holds in everywhere], f"after epoch {epoch + 1}")

    def _end_by_ctrl_c(self, everywhere: list[bool]) -> None:
        if any(everywhere):
            self._ctrl_c.requested = self._of_loop.stop_training = True

    def _stop(self, everywhere: list[bool], where: str) -> None:
        self._ranks.holds_stop = False
        wanting = [rank for rank, wants in enumerate(everywhere) if wants]
        if not wanting:
            return
        if len(wanting) < len(everywhere) and self._ranks.rank == 0:
            who = ", ".join(map(str, wanting))
            _log.warning("rank %s has stopped training, so all ranks stop %s", who, where)
        self._of_loop.stop_training = True


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
    body = [c for c in present if c not in head and c not in tail]
    if all(getattr(callback, "sync_logs", True) for callback in present):
        body = _with_agreed_logs(body, ranks, given)
    else:
        body = _with_own_logs(body, ranks, given)
    callback_list.callbacks = [*head, *body, AgreeOnStop(ranks, ctrl_c, model), *tail]
    for callback in callback_list.callbacks:
        if is_agreement(callback):
            callback.set_model(model)
    make_synchronous(callback_list)


def _with_agreed_logs(body: list[Any], ranks: Any, given: Mapping[str, float]) -> list[Any]:
    """Return callbacks with an agreement before the first, and after those that may write logs.

    Of foreign callbacks each rank may have others. So places are counted by ours, which are the
    same on all ranks: there is one before a callback of ours if any rank needs one there.
    """
    needs, is_written = [], False
    for callback in body:
        if is_ours(callback):
            needs.append(is_written)
        is_written = _may_write(callback) or (is_written and not is_ours(callback))
    everywhere = ranks.gather([*needs, is_written], "who may write logs")
    *needs, at_end = [any(place) for place in zip(*everywhere, strict=True)]
    found: list[Any] = [AgreeOnLogs(ranks, given)]
    end = 1
    for callback in body:
        if is_ours(callback) and needs.pop(0):
            found.append(AgreeOnLogs(ranks, given))
        found.append(callback)
        if is_ours(callback) or _may_write(callback):
            end = len(found)
    if at_end:  # before Keras's own, such as History
        found.insert(end, AgreeOnLogs(ranks, given))
    return found


def _with_own_logs(body: list[Any], ranks: Any, given: Mapping[str, float]) -> list[Any]:
    """Return callbacks with an agreement for each of ours alone."""
    found: list[Any] = []
    for callback in body:
        if is_ours(callback):
            agreed = AgreeOnLogs(ranks, given)
            found += [agreed, callback, LeaveLogs(agreed)]
        else:
            found.append(callback)
    return found


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
    return isinstance(callback, AgreeOnLogs | LeaveLogs | AgreeOnStop)
